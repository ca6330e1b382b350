"""A worker: one guard, which judges shard after shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from proguard_edge.batch import BatchRow, judge_row, label_of, read_rows
from proguard_edge.errors import ArtifactError, InputError, ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.request import Request, read_text
from proguard_edge.scan.lines import to_bytes
from proguard_edge.scan.parquet import group_of, read_groups
from proguard_edge.scan.plan import Judging, Shard
from proguard_edge.scan.sources import is_text


@dataclass(frozen=True)
class Task:
    """What every worker is given. loading: arguments of `Guard.load`, but for threads."""

    loading: Mapping[str, Any]
    policy: Policy | None
    judging: Judging
    threads: int


@dataclass(frozen=True)
class Done:
    """A shard's lines as JSONL, or why it has none."""

    number: int
    lines: bytes = b""
    failure: str = ""


@dataclass(frozen=True)
class Progress:
    """Counts within a shard that is not finished."""

    rows: int = 0
    unsafe: int = 0
    errors: int = 0

    def plus(self, line: Mapping[str, Any]) -> Progress:
        """With one line more."""
        label = label_of(line)
        return Progress(
            self.rows + 1, self.unsafe + (label == "unsafe"), self.errors + (label == "error")
        )


class Worker:
    """Judges shards. The guard is loaded with the first one: what kills the process then counts
    against that shard, and does not happen again and again before anything is counted."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._guard: Guard | None = None
        self._reader = Reader()

    def judge(self, shard: Shard, tell: Callable[[Progress], None] = lambda _: None) -> Done:
        """All lines of the shard, or the failure because of which it has none.

        `tell` hears of every row. A row that cannot be judged is a line like any other; a failure
        is what concerns the whole shard: its file is gone or changed, the guard cannot be loaded.
        """
        try:
            guard, progress, lines = self._loaded(), Progress(), []
            policy, mode = self._task.policy, self._task.judging.mode
            for number, row in enumerate(self._reader.rows(shard), shard.first):
                line = {
                    "id": row.id,
                    "source": shard.path,
                    "row": number,
                    "modality": _modality(row),
                    **judge_row(guard, row, folder_of(shard), policy, mode),
                }
                lines.append(to_bytes(line))
                progress = progress.plus(line)
                tell(progress)
            return Done(shard.number, b"".join(lines))
        except ProGuardEdgeError as error:
            return Done(shard.number, failure=str(error))
        # Whatever it is, the run must learn of it, and the other shards go on.
        except Exception as error:  # noqa: BLE001
            return Done(shard.number, failure=f"unexpected {type(error).__name__}: {error}")

    def _loaded(self) -> Guard:
        if self._guard is None:
            task = self._task
            guard = Guard.load(**task.loading, threads=task.threads)
            found = Judging.of(guard, task.policy, task.judging.mode)
            if differences := task.judging.differences(found):
                guard.close()
                raise ArtifactError(
                    f"a worker judges with another {', '.join(differences)} than the scan"
                )
            self._guard = guard
        return self._guard

    def close(self) -> None:
        """Free the guard."""
        if self._guard is not None:
            self._guard.close()


class Reader:
    """Reads the rows of shards. One behind the last goes on in the open file: the beginning of a
    compressed file is not read again for every shard."""

    def __init__(self) -> None:
        self._open: tuple[str, Iterator[BatchRow], int] | None = None

    def rows(self, shard: Shard) -> Iterator[BatchRow]:
        """The shard's rows, in order.

        Raises InputError when the file is not as it was, or cannot be read.
        """
        if shard.kind == "folder":
            yield from (_file_row(Path(shard.path), name) for name in shard.files)
            return
        _check_unchanged(shard)
        rows, at = self._found(shard)
        for _ in islice(rows, shard.first - at):
            continue
        count = 0
        for row in islice(rows, shard.rows):
            count += 1
            yield row
        _check_unchanged(shard)
        if count < shard.rows:
            raise InputError(f"{shard.path}: has fewer rows than when the scan began")
        self._open = (shard.path, rows, shard.first + shard.rows)

    def _found(self, shard: Shard) -> tuple[Iterator[BatchRow], int]:
        """Rows from one on that is not behind the shard's first, and that row's number."""
        known, self._open = self._open, None
        path = Path(shard.path)
        start = (0, 0) if shard.kind == "jsonl" else group_of(path, shard.first)
        if known and known[0] == shard.path and start[1] <= known[2] <= shard.first:
            return known[1], known[2]
        if shard.kind == "jsonl":
            return read_rows(path), 0
        return read_groups(path, *start), start[1]


def folder_of(shard: Shard) -> Path:
    """Where paths of images in its rows begin."""
    path = Path(shard.path)
    return path if shard.kind == "folder" else path.parent


def _file_row(root: Path, name: str) -> BatchRow:
    if not is_text(name):
        return BatchRow(name, b"", {"image": name})
    try:
        return BatchRow(name, b"", {"user": read_text(root / name)})
    except InputError as error:
        return BatchRow(name, b"", error)


def _modality(row: BatchRow) -> str | None:
    """None where the row is no request."""
    try:
        if isinstance(row.row, InputError):
            return None
        return Request.from_row(row.row, Path()).modality
    except InputError:
        return None


def _check_unchanged(shard: Shard) -> None:
    try:
        status = Path(shard.path).stat()
    except OSError as error:
        raise InputError(f"{shard.path}: cannot be read: {error.strerror or error}") from None
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise InputError(f"{shard.path}: has changed since the scan began")
