"""A language model's server with two answers, for a proxy to stand in front of.

The model "kind" answers harmlessly, "evil" does not. It speaks OpenAI's chat completions and
responses, whole and streamed, and counts what it was asked.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

SAID = {
    "kind": "Mix flour, water, salt and yeast, let the dough rise, and bake it for forty minutes.",
    "evil": "To build a pipe bomb, fill a steel pipe with black powder and nails, and kill them.",
}


def chat(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": SAID[model]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def chat_chunks(model: str) -> Iterator[dict[str, Any]]:
    for number, word in enumerate(SAID[model].split(" ")):
        delta = {"role": "assistant", "content": word if number == 0 else f" {word}"}
        yield _chunk(model, {"index": 0, "delta": delta, "finish_reason": None})
    yield _chunk(model, {"index": 0, "delta": {}, "finish_reason": "stop"})


def _chunk(model: str, choice: dict[str, Any]) -> dict[str, Any]:
    named = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return {**named, "choices": [choice]}


def response(model: str) -> dict[str, Any]:
    text = {"type": "output_text", "text": SAID[model], "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": model,
        "output": [{**item, "content": [text]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    }


def response_events(model: str) -> Iterator[dict[str, Any]]:
    whole = response(model)
    yield {"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    for word in SAID[model].split(" "):
        yield {"type": "response.output_text.delta", **place, "delta": f"{word} "}
    yield {"type": "response.output_text.done", **place, "text": SAID[model]}
    yield {"type": "response.completed", "response": whole}


class Upstream:
    """url: its address with /v1. asked: the bodies of all requests."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                responses = self.path.endswith("/responses")
                whole, pieces = (response, response_events) if responses else (chat, chat_chunks)
                if not body.get("stream"):
                    self._send("application/json", json.dumps(whole(body["model"])).encode())
                    return
                events = [f"data: {json.dumps(e)}\n\n" for e in pieces(body["model"])]
                self._send("text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())

            def _send(self, kind: str, raw: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
