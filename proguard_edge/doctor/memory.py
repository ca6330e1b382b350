"""Memory: what can be had, against what the artifact will take.

The estimate follows how engines load, and was set beside what was measured (peak of a process that
judges): the starter 0.33 to 0.38 GB, for which it says 0.38; ProGuard-3B's shape in int4 with its
vision tower and free names 8.5 GB, for which it says 8.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from proguard_edge import system
from proguard_edge.artifact import Artifact
from proguard_edge.doctor.finding import Finding, Subject, size
from proguard_edge.doctor.limits import memory_limit

NAME = "memory"
# Python with numpy, onnxruntime and tokenizers; with torch.
BASE, BASE_TORCH = 0.16e9, 1.5e9
# onnxruntime lays matrices out again beside the file's; a tower's float16 becomes float32.
DECODER, VISION = 2.0, 2.25
# A tokenizer's tables, against its file.
TOKENIZER = 15.0
FLOAT = 4
# Characters a token has at least, in policies.
CHARACTERS = 3
KV_STEP = 256


@dataclass(frozen=True)
class Room:
    """Bytes: the most that this process may ever have, and what can be had now."""

    most: int
    now: int


def check(subject: Subject) -> Iterator[Finding]:
    """Sets `subject.fits`."""
    memory = system.memory()
    if memory is None:
        remedy = "see to it that there is as much as the artifact takes"
        yield Finding(NAME, "note", "this system does not tell how much memory it has", remedy)
        return
    room, limit = Room(memory.total, memory.available), memory_limit()
    if limit is not None:
        room = Room(min(room.most, limit[0]), min(room.now, limit[1]))
    details = {**asdict(memory), "limit": limit[0] if limit else None, "room": asdict(room)}
    if subject.artifact is None:
        remedy = "mend the artifact first"
        found = f"{size(room.now)} of {size(room.most)} can be had; the need is not known"
        yield Finding(NAME, "note", found, remedy, details)
        return
    wanted = need(subject.artifact, prefix_tokens(subject.artifact))
    subject.fits = wanted <= room.now
    yield judged(wanted, room, {**details, "need": round(wanted)})
    yield from _swap(memory)


def judged(wanted: float, room: Room, details: dict[str, object]) -> Finding:
    """wanted: bytes that the artifact takes."""
    takes = f"the artifact takes about {size(wanted)}"
    if wanted > room.most:
        return Finding(
            NAME,
            "problem",
            f"{takes}, this process can have {size(room.most)} at most",
            "use an artifact of fewer bits (recipe onnx-int4) or a smaller model, or more memory",
            details,
        )
    if wanted > room.now:
        return Finding(
            NAME,
            "warning",
            f"{takes}, of {size(room.most)} only {size(room.now)} can be had now",
            "end other programs",
            details,
        )
    found = f"{takes}, {size(room.now)} of {size(room.most)} can be had"
    return Finding(NAME, "ok", found, details=details)


def need(artifact: Artifact, prefix: int) -> float:
    """Bytes at most, about, of a process that judges one request at a time behind such a prefix."""
    total = float(sum(entry.size for entry in artifact.files.values()))
    if artifact.engine != "onnx":
        # Weights become float32; what was float16 doubles.
        return BASE_TORCH + 2 * total
    model = artifact.model
    table = FLOAT * float(model["vocab"]) * float(model["hidden"])
    # Names that are spelled freely, and thoughts, need the whole output head.
    whole = table if artifact.free_names or "reason" in artifact.modes else 0.0
    # A buffer with its content, and the prefix's state beside it.
    states = state_bytes(artifact, 1) * (2 * prefix + 2 * KV_STEP)
    tokenizer = TOKENIZER * artifact.files["tokenizer.json"].size
    decoder, vision = _size(artifact, "decoder."), _size(artifact, "vision.")
    return BASE + DECODER * decoder + VISION * vision + whole + states + tokenizer


def state_bytes(artifact: Artifact, tokens: int) -> float:
    """Keys and values of so many tokens."""
    model = artifact.model
    a_token = 2 * FLOAT * int(model["layers"]) * int(model["kv_heads"]) * int(model["head_dim"])
    return float(a_token * tokens)


def prefix_tokens(artifact: Artifact) -> int:
    """Tokens of the longest prefix that its template makes of its policy, or some more."""
    from proguard_edge.policy import Policy
    from proguard_edge.template import KINDS, Template

    policy = Policy.load(artifact.path("policy.yaml"))
    template = Template.load(artifact.path("template.jinja"))
    texts = (template.render(policy, kind) for kind in KINDS if kind.mode in artifact.modes)
    return max(sum(len(p) for p in text if isinstance(p, str)) for text in texts) // CHARACTERS


def _size(artifact: Artifact, prefix: str) -> int:
    return sum(entry.size for name, entry in artifact.files.items() if name.startswith(prefix))


def _swap(memory: system.Memory) -> Iterator[Finding]:
    if memory.swapped:
        yield Finding(
            NAME,
            "note",
            f"{size(memory.swapped)} of {size(memory.swap)} of swap are in use",
            "verdicts are slow while a model lies there: `swapoff`, or end other programs",
            {"swap": memory.swap, "swapped": memory.swapped},
        )
