"""Whoever is timed: an artifact under one of our engines, or a peer on the same weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from proguard_edge.bench.scenarios import Scenario
from proguard_edge.errors import ArtifactError, ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request

# Name → (module, class). Imported when asked for: none of them is a dependency.
PEERS = {
    "transformers": ("proguard_edge.bench.peers.transformers", "Transformers"),
    "genai": ("proguard_edge.bench.peers.genai", "GenAI"),
    "llama.cpp": ("proguard_edge.bench.peers.llama_cpp", "LlamaCpp"),
    "openvino": ("proguard_edge.bench.peers.openvino", "OpenVINO"),
}


@dataclass(frozen=True)
class Answer:
    """label: of the request. phases: milliseconds by phase, where the contender tells them.

    label_ms: to the request's label alone, where an answer holds more than that.
    """

    label: str
    phases: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    label_ms: float | None = None


class Contender(Protocol):
    """One side of a comparison."""

    name: str

    def refuses(self, scenario: Scenario) -> str | None:
        """Why it cannot take part in a scenario, or None."""

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        """What is timed: a request of this scenario. Raises ProGuardEdgeError."""

    def about(self) -> dict[str, Any]:
        """What stands in the report: digests, precision, settings."""

    def close(self) -> None:
        """Give everything back."""


class Ours:
    """The runtime, as users call it: whole verdicts."""

    def __init__(self, name: str, guard: Guard, threads: int) -> None:
        self.name, self.guard, self._threads = name, guard, threads

    def refuses(self, scenario: Scenario) -> str | None:
        artifact = self.guard.artifact
        if scenario.modality not in artifact.modalities:
            return f"{artifact.name} reads {', '.join(artifact.modalities)} only"
        if scenario.mode not in artifact.modes:
            return f"{artifact.name} has no mode {scenario.mode}"
        if scenario.categories and artifact.policy_is_fixed:
            return f"{artifact.name} knows no policy but its own"
        return None

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        policy = scenario.policy()
        verdict = self.guard.judge(request, policy=policy, mode=scenario.mode)
        phases = {k: v for k, v in verdict.timings_ms.items() if k != "total"}
        # The label comes out of the first pass; `decode` is what follows it.
        label_ms = verdict.timings_ms["total"] - phases.get("decode", 0.0)
        # A response is judged, and reasons are given, before or between.
        alone = request.response is None and scenario.mode == "verdict"
        return Answer(verdict.request.label, phases, verdict.tokens, label_ms if alone else None)

    def about(self) -> dict[str, Any]:
        artifact = self.guard.artifact
        return {
            "artifact": artifact.digest,
            "artifact_name": artifact.name,
            "engine": self.guard.engine.kind,
            "precision": artifact.precision,
            "megabytes": round(sum(f.size for f in artifact.files.values()) / 1e6, 1),
            "threads": self._threads,
        }

    def close(self) -> None:
        self.guard.close()


class Peer(Protocol):
    """How a peer is made; see `PEERS`."""

    def __call__(self, checkpoint: Path, encoder: PromptEncoder, threads: int) -> Contender: ...


def load(spec: str, encoder: PromptEncoder | None, threads: int) -> Contender:
    """A contender from what a user wrote: `ARTIFACT`, `ARTIFACT@ENGINE`, `PEER=FOLDER`, or
    `ARTIFACT@http://ADDRESS` for a server (vLLM, trtllm-serve) with the artifact's weights.

    encoder: of the first contender; peers are given its prompts. Raises ArtifactError: no such
    folder or peer, or a peer that is not installed, with the command that installs it.
    """
    peer, equals, folder = spec.partition("=")
    if equals:
        if peer not in PEERS:
            raise ArtifactError(f"no peer {peer!r}; known are {', '.join(PEERS)}")
        if encoder is None:
            raise ArtifactError("a peer is compared with an artifact: name one first")
        module, name = PEERS[peer]
        make: Peer = getattr(importlib.import_module(module), name)
        return make(Path(folder), encoder, threads)
    folder, _, engine = spec.partition("@")
    served = engine if engine.startswith(("http://", "https://")) else None
    guard = Guard.load(
        folder or None,
        "remote" if served else engine or "auto",
        threads=threads,
        ocr=False,
        server=served,
    )
    return Ours(spec or "starter", guard, threads)


def encoder_of(contender: Contender) -> PromptEncoder | None:
    """The prompts of one of ours."""
    return contender.guard.judge_of().encoder if isinstance(contender, Ours) else None


def why(error: ProGuardEdgeError) -> str:
    """One line for a report."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
