"""What runs in the children: a guard that judges, and a decoder that tries pictures first.

Both are importable functions that take a plain spec: a child is a fresh process.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proguard_edge.child import Handler
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.request import Request
from proguard_edge.system import own_memory


@dataclass(frozen=True)
class GuardSpec:
    """How a worker loads its guard; the fields of `Guard.load`. policies: checked at the start.

    digest: the artifact must have it.
    """

    artifact: Path | None = None
    engine: str = "auto"
    device: str = "auto"
    threads: int = 0
    verify: bool = False
    public_key: Path | str | None = None
    ocr: bool | None = None
    image_text_only: bool = False
    max_miss_rate: float | None = None
    server: Any = None
    policies: tuple[Policy, ...] = ()
    digest: str | None = None


@dataclass(frozen=True)
class GuardFacts:
    """What a worker says of its guard once it has loaded."""

    artifact: str
    digest: str
    policy: Policy
    policy_is_fixed: bool
    modalities: tuple[str, ...]
    modes: tuple[str, ...]
    engine: str
    device: str


@dataclass(frozen=True)
class Job:
    """What a worker is asked. policy: None = the artifact's own."""

    request: Request
    policy: Policy | None = None
    mode: Mode = "verdict"


def make_guard(spec: GuardSpec) -> tuple[Handler, GuardFacts]:
    """A guard whose first verdict has been given: prefixes are cached, libraries are loaded."""
    from proguard_edge.guard import Guard

    guard = Guard.load(
        spec.artifact,
        spec.engine,
        device=spec.device,
        threads=spec.threads,
        verify=spec.verify,
        public_key=spec.public_key,
        ocr=spec.ocr,
        image_text_only=spec.image_text_only,
        max_miss_rate=spec.max_miss_rate,
        server=spec.server,
    )
    if spec.digest not in (None, guard.artifact.digest):
        raise ArtifactError(
            f"{guard.artifact.folder}: another artifact than at the start of the server; start it "
            "again to use this one"
        )
    for policy in (None, *spec.policies):
        guard.judge_of(policy)
        # An artifact of another language withholds its "safe" on this; it is warm all the same.
        with contextlib.suppress(InputError):
            guard.moderate("How do I bake bread?", policy=policy)
    known = guard.artifact
    facts = GuardFacts(
        known.name,
        known.digest,
        guard.policy,
        known.policy_is_fixed,
        known.modalities,
        known.modes,
        guard.engine.kind,
        guard.engine.device,
    )

    def judge(job: Job) -> dict[str, Any]:
        return guard.judge(job.request, policy=job.policy, mode=job.mode).to_dict()

    return judge, facts


@dataclass(frozen=True)
class DecoderSpec:
    """memory: bytes of address space that decoding may take beyond what the process has."""

    memory: int = 2 << 30


def make_decoder(spec: DecoderSpec) -> tuple[Handler, None]:
    """Decodes a picture in full and throws it away: one that passes harms no worker.

    The process may take `spec.memory` more bytes than it has; a picture that needs more is an
    ImageError, or the end of this process and of no other.
    """
    from proguard_edge.image.load import load_image

    _limit_memory(spec.memory)

    def decode(image: bytes) -> int:
        return len(load_image(image))

    return decode, None


def _limit_memory(more: int) -> None:
    held = own_memory("VmSize")
    if held is None:  # not Linux: the decoder's time limit and its own process remain
        return
    import resource

    limit = held + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
