"""What children of the server's tests run: no model, and misbehaviour on request."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from proguard_edge.errors import ArtifactError, LanguageError
from proguard_edge.policy import Policy
from proguard_edge.serve.workers import GuardFacts, Job

DIGEST = "ab" * 32


def make_echo(spec: Any) -> tuple[Any, Any]:
    """Says back what it was told; "die", "hang", "fail" and "wrong" do what they say."""
    if spec == "no start":
        raise ArtifactError("decoder.onnx: 3 bytes, not 5")
    if spec == "slow start":
        time.sleep(60)

    def answer(message: Any) -> Any:
        if message == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if message == "hang":
            time.sleep(60)
        if message == "fail":
            raise ZeroDivisionError("of all things")
        if message == "wrong":
            raise LanguageError("not read here")
        if isinstance(message, float):
            time.sleep(message)
        return message

    return answer, f"hello from {os.getpid()}"


def make_judge(_spec: Any) -> tuple[Any, GuardFacts]:
    """A guard that finds "unsafe" what says so, takes a while, and dies when told."""

    def judge(job: Job) -> dict[str, Any]:
        text = job.request.user or ""
        if "die" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in text:
            time.sleep(60)
        if "wait" in text:
            time.sleep(0.2)
        if "foreign" in text:
            raise LanguageError("seems to be in 'fr'")
        if "broken" in text:
            raise ZeroDivisionError(text)
        return _verdict(job, "unsafe" in text, "unseen" in text)

    return judge, GuardFacts(
        "stub", DIGEST, Policy.default(), False, ("text",), ("verdict",), "onnx", "cpu"
    )


def _verdict(job: Job, unsafe: bool, unseen: bool) -> dict[str, Any]:
    known = {"id": "C9S3", "name": "Violent and Property Crime", "in_policy": True, "score": 0.8}
    new = {"id": None, "name": "Time travel fraud", "in_policy": False, "score": 0.7}
    response = job.request.response
    return {
        "request": {"label": "unsafe" if unsafe else "safe", "score": 0.9 if unsafe else 0.1},
        "response": None if response is None else {"label": "safe", "score": 0.2},
        "category": (new if unseen else known) if unsafe else None,
        "reasoning": None,
        "evaluated": ["user_text"] if not job.request.images else ["user_text", "image"],
        "mode": job.mode,
        "artifact": DIGEST,
        "tokens": {"content": 3},
        "timings_ms": {"total": 1.0},
    }
