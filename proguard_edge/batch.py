"""Many rows: JSONL in, JSONL out, resumable, an error is a row like any other.

Each output line is `{"id": …, "verdict": {…}}` or `{"id": …, "error": {"type", "message"}}`. A line
is written whole and flushed; a run that was stopped goes on behind the last whole line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from proguard_edge.errors import InputError, ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.prompt import Mode
from proguard_edge.request import Request

MAX_LINE_BYTES = 64 << 20
_BEGIN = b'{"id": "'


@dataclass
class Summary:
    """Counts of one run; `skipped` rows were there from an earlier one."""

    safe: int = 0
    unsafe: int = 0
    errors: int = 0
    skipped: int = 0
    categories: dict[str, int] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """Count one output line."""
        verdict = line.get("verdict")
        if verdict is None:
            self.errors += 1
            return
        response = verdict["response"] or {"label": "safe"}
        if "unsafe" in (verdict["request"]["label"], response["label"]):
            self.unsafe += 1
            name = (verdict["category"] or {}).get("name", "none")
            self.categories[name] = self.categories.get(name, 0) + 1
        else:
            self.safe += 1


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """(id, row) for each non-empty line; a line that is no JSON object comes as its error.

    A row without an id gets `line-<number>`. Raises InputError when the file cannot be read.
    """
    if path.exists() and not path.is_file():
        # A pipe can be read once only, and a command reads its rows twice: to count, and to judge.
        raise InputError(f"{path}: cannot be read: not a regular file")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(_lines(file), 1):
                if raw.strip():
                    yield _row(raw, number)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            line = b'"a line longer than the limit"\n'
        yield line


def _row(raw: bytes, number: int) -> tuple[str, dict[str, Any] | InputError]:
    name = f"line-{number}"
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return name, InputError(f"line {number} is not JSON")
    if not isinstance(row, dict):
        return name, InputError(f"line {number} is not a JSON object")
    own = row.get("id")
    return name if own is None else str(own), row


def run_batch(
    guard: Guard,
    source: Path,
    output: Path,
    *,
    policy: Policy | None = None,
    mode: Mode = "verdict",
) -> Iterator[Summary]:
    """Judge every row of `source`; yields the running summary after each.

    Rows whose id stands in `output` already are skipped; their counts are in the summary.
    Raises InputError when a file cannot be read or written.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: is the input; choose another name for the output")
    summary = Summary()
    done = _resume(output, summary)
    try:
        # A lone surrogate in an id becomes its own JSON escape: the id comes back as it was.
        with output.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for name, row in read_rows(source):
                if done.get(name, 0):
                    done[name] -= 1
                    summary.skipped += 1
                else:
                    line = _judge(guard, name, row, source.parent, policy, mode)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    summary.add(line)
                yield summary
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None


def _judge(
    guard: Guard,
    name: str,
    row: dict[str, Any] | InputError,
    folder: Path,
    policy: Policy | None,
    mode: Mode,
) -> dict[str, Any]:
    try:
        if isinstance(row, InputError):
            raise row
        verdict = guard.judge(Request.from_row(row, folder), policy=policy, mode=mode)
    except ProGuardEdgeError as error:
        return {"id": name, "error": {"type": type(error).__name__, "message": str(error)}}
    return {"id": name, "verdict": verdict.to_dict()}


def _resume(output: Path, summary: Summary) -> dict[str, int]:
    """How often each id was answered already; a half-written last line is cut off."""
    done: dict[str, int] = {}
    # A device, such as /dev/stdout, holds nothing to go on from.
    if not output.is_file():
        return done
    whole = 0
    try:
        with output.open("rb+") as file:
            for raw in file:
                if not _is_ours(raw):
                    raise InputError(
                        f"{output}: not an output of moderate-batch; choose another name"
                    )
                if not raw.endswith(b"\n"):
                    break
                line = json.loads(raw)
                summary.add(line)
                name = str(line["id"])
                done[name] = done.get(name, 0) + 1
                whole += len(raw)
            file.truncate(whole)
    except OSError as error:
        raise InputError(f"{output}: cannot be read: {error.strerror or error}") from None
    return done


def _is_ours(raw: bytes) -> bool:
    """Whether a line is a whole output line, or the beginning of one that was not finished."""
    try:
        line = json.loads(raw)
        Summary().add(line)
        return isinstance(line["id"], str) and ("verdict" in line) != ("error" in line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return not raw.endswith(b"\n") and _BEGIN.startswith(raw[: len(_BEGIN)])
