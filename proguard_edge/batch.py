"""Many rows: JSONL in, JSONL out, resumable, an error is a row like any other.

Each output line is `{"id": …, "key": …, "verdict": {…}}`, or with `"error": {"type", "message"}` in
place of the verdict. The key is a digest of the row, its images' sizes and times, the way in which
text in them is read, the artifact, the engine where it is not the artifact's own, the bound on
missed rows, the policy and the mode. A line is written whole and flushed; a run that was stopped
goes on behind the last whole line, and never takes an old verdict for a row that has changed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

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
        label = label_of(line)
        if label == "error":
            self.errors += 1
        elif label == "unsafe":
            self.unsafe += 1
            name = (line["verdict"]["category"] or {}).get("name", "none")
            self.categories[name] = self.categories.get(name, 0) + 1
        else:
            self.safe += 1


def label_of(line: Mapping[str, Any]) -> Literal["safe", "unsafe", "error"]:
    """What an output line says of its row: the worse of request and response, or an error."""
    verdict = line.get("verdict")
    if verdict is None:
        return "error"
    response = verdict["response"] or {"label": "safe"}
    unsafe = "unsafe" in (verdict["request"]["label"], response["label"])
    return "unsafe" if unsafe else "safe"


@dataclass(frozen=True)
class BatchRow:
    """A line of the input: its id, its bytes, and the row or what is wrong with it."""

    id: str
    raw: bytes
    row: dict[str, Any] | InputError

    def key(self, folder: Path, identity: str, eyes: str) -> str:
        """Digest (hex) of all that the verdict on this row depends on.

        `eyes` counts for rows with images only: installing the extra `ocr` changes no other.
        """
        state = hashlib.sha256(identity.encode() + b"\n" + self.raw.strip())
        images = self.row.get("image") if isinstance(self.row, dict) else None
        for image in images if isinstance(images, list) else [images]:
            if isinstance(image, str):
                state.update(eyes.encode())
                try:
                    status = (folder / image).stat()
                    state.update(f"{status.st_size}:{status.st_mtime_ns} ".encode())
                except (OSError, ValueError):
                    state.update(b"unreadable ")
        return state.hexdigest()[:32]


def read_rows(path: Path) -> Iterator[BatchRow]:
    """Each non-empty line; one that is no JSON object comes with its error.

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


def _row(raw: bytes, number: int) -> BatchRow:
    name = f"line-{number}"
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return BatchRow(name, raw, InputError(f"line {number} is not JSON"))
    if not isinstance(row, dict):
        return BatchRow(name, raw, InputError(f"line {number} is not a JSON object"))
    own = row.get("id")
    return BatchRow(name if own is None else str(own), raw, row)


def run_batch(
    guard: Guard,
    source: Path,
    output: Path,
    *,
    policy: Policy | None = None,
    mode: Mode = "verdict",
) -> Iterator[Summary]:
    """Judge every row of `source`; yields the running summary after each.

    Rows that stand in `output` already are skipped; their counts are in the summary. Raises
    InputError when a file cannot be read or written, or when `output` answers a row of the same id
    that was another one, or was judged by another artifact, policy or mode, or read in another way.
    """
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: is the input; choose another name for the output")
    summary = Summary()
    done = _resume(output, summary)
    used = (policy or guard.policy).digest()
    identity = f"{guard.artifact.digest} {used} {mode}"
    if guard.engine.kind != guard.artifact.engine:
        identity += f" {guard.engine.kind}"
    if guard.artifact.max_miss_rate is not None:
        identity += f" {guard.artifact.max_miss_rate}"
    try:
        # A lone surrogate in an id becomes its own JSON escape: the id comes back as it was.
        with output.open("a", encoding="utf-8", errors="backslashreplace") as file:
            for row in read_rows(source):
                key = row.key(source.parent, identity, guard.eyes.identity)
                if keys := done.get(row.id):
                    if key not in keys:
                        raise InputError(
                            f"{output}: answers another row {row.id!r}, or was made with another "
                            "artifact, engine, policy, mode or reading, or bound; "
                            "choose another name"
                        )
                    keys.remove(key)
                    summary.skipped += 1
                else:
                    answer = judge_row(guard, row, source.parent, policy, mode)
                    line = {"id": row.id, "key": key, **answer}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    file.flush()
                    summary.add(line)
                yield summary
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from None


def judge_row(
    guard: Guard, row: BatchRow, folder: Path, policy: Policy | None, mode: Mode
) -> dict[str, Any]:
    """`{"verdict": …}`, or `{"error": …}` for what cannot be judged; images lie in `folder`."""
    try:
        if isinstance(row.row, InputError):
            raise row.row
        verdict = guard.judge(Request.from_row(row.row, folder), policy=policy, mode=mode)
    except ProGuardEdgeError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    return {"verdict": verdict.to_dict()}


def _resume(output: Path, summary: Summary) -> dict[str, list[str]]:
    """The keys under which each id was answered; a half-written last line is cut off."""
    done: dict[str, list[str]] = {}
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
                done.setdefault(str(line["id"]), []).append(str(line.get("key")))
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
