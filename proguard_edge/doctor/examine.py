"""Run all checks. One that fails is a problem, never a crash and never "ok"."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from proguard_edge import __version__
from proguard_edge.doctor.finding import STATES, Finding, State, Subject
from proguard_edge.doctor.helper import AFTER_DEATH, Helper
from proguard_edge.doctor.sockets import SocketWatch
from proguard_edge.errors import WorkerError

FORMAT = "proguard-edge-doctor/1"
UNEXPECTED = "mend what it names; --json has the traceback, for a report where it names nothing"
# Each is a module of this package with a function `check`; later ones use what earlier ones found.
CHECKS = (
    "contents",
    "installed",
    "libraries",
    "processor",
    "memory",
    "storage",
    "graphics",
    "providers",
    "verdict",
    "network",
)


@dataclass(frozen=True)
class Diagnosis:
    """All findings on an artifact, in the order of the checks; seconds that they took."""

    folder: Path
    name: str | None
    digest: str | None
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def fit(self) -> bool:
        """Whether nothing that was found is a problem."""
        return not self.of("problem")

    def of(self, state: State) -> list[Finding]:
        """Those of one state."""
        return [finding for finding in self.findings if finding.state == state]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "format": FORMAT,
            "version": __version__,
            "artifact": {"folder": str(self.folder), "name": self.name, "digest": self.digest},
            "fit": self.fit,
            "counts": {state: len(self.of(state)) for state in STATES},
            "seconds": round(self.seconds, 3),
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(
    folder: Path,
    *,
    expect_offline: bool = False,
    public_key: str | None = None,
    begins: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Examine this machine and the artifact in `folder`.

    public_key: PEM, of who must have signed the artifact. `begins` is told each check's name.
    """
    begin = perf_counter()
    findings: list[Finding] = []
    with closing(Helper()) as helper:
        subject = Subject(folder, helper, SocketWatch(), expect_offline, public_key)
        for name in CHECKS:
            begins(name)
            findings += examine(name, subject)
    artifact = subject.artifact
    return Diagnosis(
        folder,
        artifact.name if artifact else None,
        artifact.digest if artifact else None,
        tuple(findings),
        perf_counter() - begin,
    )


def examine(name: str, subject: Subject) -> Iterator[Finding]:
    """The findings of one check, by its module's name."""
    count = 0
    try:
        for finding in import_module(f"{__package__}.{name}").check(subject):
            count += 1
            yield finding
        if not count:
            raise AssertionError("the check found nothing")
    # Whatever it is, the operator must learn that this was not checked, and see the rest.
    except Exception as error:  # noqa: BLE001
        yield Finding(
            name,
            "problem",
            f"could not be checked: {_one_line(error)}",
            AFTER_DEATH if isinstance(error, WorkerError) else UNEXPECTED,
            {"traceback": traceback.format_exc()},
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
