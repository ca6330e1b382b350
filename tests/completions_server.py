"""A server of `/v1/completions` on this machine, backed by a real model, that can misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np


class HFModel:
    """Log-probabilities of a checkpoint's next token, computed from nothing every time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import Qwen2_5_VLForConditionalGeneration

        model: Any = Qwen2_5_VLForConditionalGeneration
        self.model = model.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._known: dict[tuple[int, ...], np.ndarray] = {}
        self._lock = threading.Lock()

    def logprobs(self, ids: list[int]) -> np.ndarray:
        import torch

        key = tuple(ids)
        with self._lock, torch.inference_mode():
            if key not in self._known:
                logits = self.model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits
                self._known[key] = torch.log_softmax(logits[0, -1].double(), -1).numpy()
            return self._known[key]


class CompletionsServer:
    """Answers as vLLM does, as `trtllm-serve` ("tensorrt_llm"), or knows OpenAI's fields ("plain").

    twist: changes an answer before it is sent. raw: replaces the whole answer with a status,
    headers and bytes. before: runs when a completion was asked for. asked: the bodies that came;
    headers: those of the last request.
    """

    def __init__(self, model: HFModel, style: str = "vllm", name: str = "guard") -> None:
        self.model, self.style, self.name = model, style, name
        self.max_logprobs = 10_000
        self.cards = [{"id": name, "object": "model", "owned_by": self.owner}]
        self.twist: Callable[[dict[str, Any]], Any] = lambda answer: answer
        self.raw: tuple[int, dict[str, str], bytes] | None = None
        self.before: Callable[[BaseHTTPRequestHandler], bool | None] = lambda _: None
        self.processed = False
        self.asked: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def owner(self) -> str:
        return "somebody" if self.style == "plain" else self.style

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        known = {"model", "prompt", "max_tokens", "temperature", "logprobs", "top_p"}
        known |= {"presence_penalty", "frequency_penalty"}
        if self.style == "tensorrt_llm":
            known |= {"repetition_penalty", "ignore_eos", "add_special_tokens"}
        if self.style != "vllm" and (odd := set(body) - known):
            return 400, {"error": {"message": f"unknown fields {sorted(odd)}"}}
        if body["logprobs"] > self.max_logprobs:
            return 400, {"error": {"message": f"logprobs above {self.max_logprobs}"}}
        assert (body["max_tokens"], body["temperature"]) == (1, 0)
        raw = self.model.logprobs(body["prompt"])
        allowed = body.get("allowed_token_ids")
        masked = raw
        if allowed is not None:
            masked = np.full_like(raw, -np.inf)
            masked[allowed] = raw[allowed] - np.logaddexp.reduce(raw[allowed])
        chosen = int(masked.argmax())
        shown = masked if self.processed else raw
        listed = [int(i) for i in np.argsort(-shown, kind="stable")[: body["logprobs"]]]
        by_id = body.get("return_tokens_as_token_ids")
        text = self.model.tokenizer.decode

        def named(token: int) -> str:
            return f"token_id:{token}" if by_id else text([token], skip_special_tokens=False)

        table = {named(i): max(float(shown[i]), -9999.0) for i in dict.fromkeys([chosen, *listed])}
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "text": text([chosen]),
                    "finish_reason": "length",
                    "logprobs": {
                        "text_offset": [0],
                        "tokens": [named(chosen)],
                        "token_logprobs": [float(shown[chosen])],
                        "top_logprobs": [table],
                    },
                }
            ],
            "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": 1},
        }


def _handler(server: CompletionsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def do_GET(self) -> None:
            server.headers = dict(self.headers)
            known = self.path == "/v1/models"
            self._send(200 if known else 404, json.dumps({"data": server.cards}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.headers = dict(self.headers)
            server.asked.append(body)
            if server.before(self):
                self.close_connection = True
            elif server.raw is not None:
                status, headers, raw = server.raw
                self._send(status, raw, headers)
            elif self.path != "/v1/completions":
                self._send(404, b"no such place")
            else:
                status, answer = server.complete(body)
                self._send(status, json.dumps(server.twist(answer)).encode())

        def _send(self, status: int, raw: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    return Handler
