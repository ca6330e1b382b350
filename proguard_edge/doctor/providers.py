"""Execution providers of onnxruntime: which are listed, and which truly run a graph.

One that is listed may still be unable to run: onnxruntime then takes the processor in silence. So
a tiny graph is run on each, and the profile says which provider ran each node.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proguard_edge.doctor.finding import Finding, Subject
from proguard_edge.errors import ProGuardEdgeError

NAME = "providers"
GRAPH = Path(__file__).parent / "sums.onnx"
# What engines of ours ask for.
ASKED = "CPUExecutionProvider"
# Forwards operators of its own to a web service, and runs no others.
FORWARDING = "AzureExecutionProvider"
PROBE_S = 120.0


@dataclass(frozen=True)
class Run:
    """nodes: of the graph, the provider that ran each. right: whether the sums are."""

    provider: str
    nodes: tuple[str, ...]
    right: bool
    version: str


def check(subject: Subject) -> Iterator[Finding]:
    """A finding for each that is listed; a problem where the one that is asked for is not."""
    names = subject.helper.run(listed, None, PROBE_S)
    if ASKED not in names:
        yield Finding(
            NAME,
            "problem",
            f"onnxruntime lists no {ASKED}, only {', '.join(names) or 'none'}",
            "install onnxruntime again",
            {"listed": names},
        )
    for name in sorted(names, key=lambda name: name != ASKED):
        try:
            yield judged(subject.helper.run(probe, name, PROBE_S))
        except ProGuardEdgeError as error:
            yield _failed(name, f"cannot run a graph: {error}", {"provider": name})


def judged(run: Run) -> Finding:
    """Whether the provider ran all of the graph, and right."""
    details = asdict(run)
    if set(run.nodes) != {run.provider}:
        others = sorted(set(run.nodes) - {run.provider})
        if run.provider == FORWARDING:
            found = f"{FORWARDING} is built in, ran nothing, and is never asked for by the runtime"
            remedy = "nothing to do: it only takes operators that no artifact has"
            return Finding(NAME, "note", found, remedy, details)
        return _failed(run.provider, f"was passed over: {', '.join(others) or 'nothing'}", details)
    if not run.right:
        return _failed(run.provider, "ran, and gave wrong sums", details)
    found = f"{run.provider} ran all of a graph, and right (onnxruntime {run.version})"
    return Finding(NAME, "ok", found, details=details)


def _failed(provider: str, what: str, details: dict[str, Any]) -> Finding:
    if provider == ASKED:
        remedy = "install onnxruntime again, in a version for this processor"
        return Finding(NAME, "problem", f"{provider} {what}", remedy, details)
    remedy = "the runtime does not ask for it; programs that do need its driver and libraries"
    return Finding(NAME, "warning", f"{provider} is listed and {what}", remedy, details)


def listed(_: None) -> list[str]:
    """Runs in the helper."""
    import onnxruntime as ort

    names: list[str] = ort.get_available_providers()
    return names


def probe(name: str) -> Run:
    """Run the graph on one provider; in the helper. What onnxruntime raises is raised."""
    import numpy as np
    import onnxruntime as ort

    # Its complaints on stderr come back as an error or in the profile.
    ort.set_default_logger_severity(4)
    numbers = np.arange(16, dtype=np.float32).reshape(2, 8)
    weights = np.arange(-16, 16, dtype=np.float32).reshape(8, 4)
    with tempfile.TemporaryDirectory(dir=_scratch()) as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(str(GRAPH), options, providers=[name])
        sums = session.run(None, {"numbers": numbers})[0]
        profile = Path(session.end_profiling())
        events = json.loads(profile.read_text(encoding="utf-8"))
    nodes = [event["args"]["provider"] for event in events if event.get("cat") == "Node"]
    right = bool(np.array_equal(sums, np.maximum(numbers @ weights, 0)))
    return Run(name, tuple(nodes), right, ort.__version__)


def _scratch() -> str:
    """Where a profile can be written, also beside a file system that is read-only."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/dev/shm"
