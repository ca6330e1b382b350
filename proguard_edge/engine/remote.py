"""A model behind an OpenAI-compatible server that the user names: vLLM, `trtllm-serve` and others.

The artifact gives tokenizer, template, policy and calibration; the server must serve the same
weights, which cannot be checked from here beyond its list of models, the vocabulary and the number
of tokens it read. It gets token ids, never text, and is asked for one token at a time; its own
prefix cache makes that cheap.

What is exact:

- Scores of labels, always. They need the log-probabilities of both labels. One that is not among
  the likeliest `top_logprobs` is asked for on its own (vLLM, `allowed_token_ids`), elsewhere it is
  an EngineError.
- The category and every word of the reasoning are those of greedy decoding: what is listed is
  likelier than what is not. Where no allowed token is listed, vLLM is asked for the best of them;
  elsewhere it is an EngineError.
- The category's score is a lower bound, short by no more than what unlisted tokens have.

Token ids carry no pixels: images are an ArtifactError.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np

from proguard_edge.address import bearer, server_address
from proguard_edge.artifact import Artifact
from proguard_edge.engine.base import Ids, Logits
from proguard_edge.engine.completions import (
    ZERO,
    Listed,
    TokenNames,
    model_card,
    parse_json,
    read_listed,
)
from proguard_edge.engine.load import Server
from proguard_edge.engine.stateless import StatelessSequence
from proguard_edge.errors import ArtifactError, EngineError
from proguard_edge.image import Patches

KEY_VARIABLE = "PROGUARD_EDGE_API_KEY"
# What a server may answer: so much, and so much more for every token that it lists.
ANSWER_BYTES, ANSWER_BYTES_A_TOKEN = 1 << 20, 256
# Kernels depend on what else is in the batch: the same prompt does not give the same bits twice.
DRIFT = 0.5
# Fields beyond OpenAI's, by what `/v1/models` says who owns the model. The penalties are spelled
# out because servers take others from the checkpoint's generation_config.json.
NEUTRAL = {"repetition_penalty": 1.0, "ignore_eos": True, "add_special_tokens": False}
DIALECTS: dict[str, dict[str, Any]] = {
    "vllm": {**NEUTRAL, "return_tokens_as_token_ids": True},
    "tensorrt_llm": NEUTRAL,
}


class RemoteEngine:
    """A server's model. Threads may share it; each has its own connection."""

    kind = "remote"
    device = "server"
    image_token_id: int | None = None

    def __init__(self, artifact: Artifact, server: Server) -> None:
        if server.top_logprobs < 1 or not server.timeout_s > 0:
            raise EngineError("top_logprobs and the timeout must be above 0")
        self._server = server
        self._vocabulary = int(artifact.model["vocab"])
        self.context = int(artifact.model["context"])
        limit = ANSWER_BYTES + ANSWER_BYTES_A_TOKEN * server.top_logprobs
        self._client = Client(server.url, server.timeout_s, limit)
        try:
            card = model_card(parse_json(self._client.request("GET", "models")), server.model)
        except EngineError:
            self._client.close()
            raise
        self._model = str(card["id"])
        longest = card.get("max_model_len")
        if isinstance(longest, int) and not isinstance(longest, bool) and longest > 0:
            self.context = min(self.context, longest)
        owner = card.get("owned_by")
        self._extra = DIALECTS.get(owner, {}) if isinstance(owner, str) else {}
        self._vllm = owner == "vllm"
        path = None if self._vllm else artifact.path("tokenizer.json")
        names = TokenNames(path, self._vocabulary)
        self._named = names.by_id if self._vllm else names.by_text

    def start(self, prefix: Ids) -> RemoteSequence:
        """See `Engine.start`. The server keeps the prefix."""
        return RemoteSequence(self, prefix)

    def next_logits(self, ids: Ids, images: Sequence[Patches], candidates: Ids | None) -> Logits:
        """float32 [N]: log-probabilities, exact, or an EngineError."""
        if candidates is None:
            raise EngineError("a server gives no scores of its whole vocabulary")
        listed = self.listed(ids, images)
        values = []
        for token in candidates.tolist():
            value = listed.logprobs.get(token)
            value = self._forced(ids, [token], listed)[1] if value is None else value
            if value <= ZERO:
                raise EngineError(f"the server gives token {token}, which is needed, no chance")
            values.append(value)
        return np.array(values, np.float32)

    def best_of(self, ids: Ids, images: Sequence[Patches], candidates: Ids) -> tuple[int, float]:
        """See `Choosing.choose`."""
        listed = self.listed(ids, images)
        best = listed.likeliest(candidates)
        if best is None:
            best, value = self._forced(ids, candidates.tolist(), listed)
            floor = min(listed.floor, value)
            listed = Listed({**listed.logprobs, best: value}, best, value, floor)
        return int(np.searchsorted(candidates, best)), listed.share(best, candidates)

    def listed(self, ids: Ids, images: Sequence[Patches], **fields: Any) -> Listed:
        """The likeliest tokens behind `ids`. Raises EngineError, ArtifactError for images."""
        if images:
            raise ArtifactError(
                "the engine `remote` reads text only, the image was not judged; judge it with an "
                "artifact on this machine, or the text in it alone with --image-text-only"
            )
        body = {
            "model": self._model,
            "prompt": ids.tolist(),
            "max_tokens": 1,
            "temperature": 0,
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "logprobs": self._server.top_logprobs,
            **self._extra,
            **fields,
        }
        answer = parse_json(self._client.request("POST", "completions", body))
        return read_listed(answer, self._model, len(ids), self._named)

    def _forced(self, ids: Ids, allowed: list[int], before: Listed) -> tuple[int, float]:
        """The likeliest of `allowed`, none of which was listed, and its log-probability."""
        if not self._vllm:
            raise EngineError(
                "a token that the verdict needs is not among the "
                f"{self._server.top_logprobs} likeliest that the server lists; raise "
                "--top-logprobs as far as the server allows, or serve the model with vLLM"
            )
        after = self.listed(ids, (), allowed_token_ids=allowed)
        if after.chosen not in allowed:
            raise EngineError("the server did not heed allowed_token_ids; it needs a newer vLLM")
        # vLLM can be told to give log-probabilities as they are once all else is forbidden.
        top = max(before.logprobs, key=lambda token: before.logprobs[token])
        same = abs(after.logprobs.get(top, ZERO) - before.logprobs[top]) <= DRIFT
        if not same or after.chosen_logprob > before.floor + DRIFT:
            raise EngineError(
                "the server gives log-probabilities of what it was allowed only; start vLLM "
                "with --logprobs-mode raw_logprobs, which is its default"
            )
        return after.chosen, after.chosen_logprob

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()


class RemoteSequence(StatelessSequence):
    """See `EngineSequence` and `Choosing`."""

    def __init__(self, engine: RemoteEngine, prefix: Ids) -> None:
        super().__init__(engine, prefix)
        self._remote = engine

    def choose(
        self, ids: Ids, images: Sequence[Patches], candidates: Ids, phase: str = "decode"
    ) -> tuple[int, float]:
        """See `Choosing.choose`."""
        with self.timings.phase(phase):
            return self._remote.best_of(self.append(ids, images), images, candidates)


class Client:
    """HTTP to one server: no proxy, no redirect, no answer without end."""

    def __init__(self, url: str, timeout_s: float, limit: int) -> None:
        """limit: bytes of the longest answer."""
        self._url, self._timeout, self._limit = url, timeout_s, limit
        parts = server_address(url, "http://HOST:PORT/v1")
        self._host, self._port = parts.hostname, parts.port
        self._secure, self._base = parts.scheme == "https", parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = bearer(key, KEY_VARIABLE)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._closed = False

    def request(self, method: str, name: str, body: dict[str, Any] | None = None) -> bytes:
        """The bytes that the server answers with status 200. Raises EngineError for all else.

        What was sent changes nothing at the server, so a dropped connection is tried once more.
        """
        raw = None if body is None else json.dumps(body, allow_nan=False).encode()
        for last in (False, True):
            if self._closed:
                raise EngineError("the engine was closed: load the guard again")
            connection, kept = self._connection(), False
            try:
                answer, kept = self._exchange(connection, method, f"{self._base}/{name}", raw)
                return answer
            except (ConnectionResetError, BrokenPipeError) as error:
                # http.client's RemoteDisconnected is a ConnectionResetError too.
                if last:
                    raise EngineError(f"{self._url}: dropped the connection: {error}") from None
            except TimeoutError:
                raise EngineError(f"{self._url}: no answer in {self._timeout:g} s") from None
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                what = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise EngineError(f"{self._url}: cannot be reached: {_line(what)}") from None
            finally:
                self._give_back(connection, kept)
        raise AssertionError

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, raw: bytes | None
    ) -> tuple[bytes, bool]:
        """The answer, and whether the connection can carry another. Raises what `request` reads."""
        deadline = monotonic() + self._timeout
        connection.request(method, path, raw, self._headers)
        response = connection.getresponse()
        chunks, size = [], 0
        while chunk := response.read1(1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > self._limit:
                raise EngineError(f"{self._url}: an answer of more than {self._limit} bytes")
            if monotonic() > deadline:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        # `read1` leaves a response open whose every byte was read.
        response.close()
        answer = b"".join(chunks)
        if response.status != 200:
            raise EngineError(f"{self._url}: {_refusal(response, answer)}")
        return answer, not response.will_close

    def _connection(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(str(self._host), self._port, timeout=self._timeout)

    def _give_back(self, connection: http.client.HTTPConnection, kept: bool) -> None:
        with self._lock:
            if kept and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()


def _refusal(response: http.client.HTTPResponse, answer: bytes) -> str:
    """What the server said instead of an answer, on one line."""
    if 300 <= response.status < 400:
        place = _line(response.getheader("Location") or "nowhere")
        return f"redirects to {place}; give the address that answers itself"
    said = _line(answer.decode("utf-8", errors="replace"))
    hint = ""
    if response.status in (401, 403):
        hint = f"; set {KEY_VARIABLE}"
    elif "logprobs" in said:
        hint = "; ask for fewer with --top-logprobs, or let it give more (vLLM: --max-logprobs)"
    return f"status {response.status}: {said}{hint}"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
