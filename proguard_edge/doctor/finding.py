"""Finding: what a check found. Subject: what checks look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from proguard_edge.artifact import Artifact
from proguard_edge.doctor.helper import Helper
from proguard_edge.doctor.sockets import SocketWatch

State = Literal["problem", "warning", "note", "ok"]
# From the worst on.
STATES: tuple[State, ...] = ("problem", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """`found` and `remedy` are one line each; `details` are plain data for machines.

    problem: no verdicts here, or none to rely on. warning: verdicts, but worse than they could be.
    note: good to know. Raises ValueError where one that is not "ok" names no remedy.
    """

    check: str
    state: State
    found: str
    remedy: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.state == "ok") == bool(self.remedy):
            raise ValueError(f"{self.state} with the remedy {self.remedy!r}: {self.found}")


@dataclass
class Subject:
    """What is examined, on this machine.

    expect_offline: whether it should have no network. public_key: PEM, of who must have signed the
    artifact and the bundle it came in; None: nobody is asked for. The first check opens the
    artifact: None where it cannot be used. fits: whether it does not need more memory than can be
    had.
    """

    folder: Path
    helper: Helper
    watch: SocketWatch
    expect_offline: bool = False
    public_key: str | None = None
    artifact: Artifact | None = None
    fits: bool = True


Check = Callable[[Subject], Iterable[Finding]]


def size(count: float) -> str:
    """So many bytes, for a person."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
