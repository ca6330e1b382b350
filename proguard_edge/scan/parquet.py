"""Rows of Parquet files, pictures inside them included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proguard_edge.batch import BatchRow
from proguard_edge.errors import InputError

CONTENT = ("user", "response", "image", "images")
# Those that no row may have are read too, so that the row says so.
_READ = ("id", *CONTENT, "message", "messages")
# Pictures lie in the rows: what is decoded at once must fit in memory.
_BATCH_ROWS = 16


def count_rows(path: Path) -> int:
    """Rows of the file, from its footer. Raises InputError: unreadable, or without our columns."""
    from pyarrow import parquet

    with _readable(path), parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if not set(CONTENT) & set(names):
            raise InputError(
                f"{path}: has no column {', '.join(CONTENT)}, only {', '.join(names)[:200]}"
            )
        return int(file.metadata.num_rows)


def group_of(path: Path, row: int) -> tuple[int, int]:
    """The row group that holds a row, counted from 0, and the group's first row."""
    from pyarrow import parquet

    with _readable(path):
        metadata = parquet.read_metadata(path)
        first = 0
        for group in range(metadata.num_row_groups):
            behind = first + metadata.row_group(group).num_rows
            if row < behind:
                return group, first
            first = behind
    raise InputError(f"{path}: has no row {row + 1} any more")


def read_groups(path: Path, group: int, first: int) -> Iterator[BatchRow]:
    """The rows from that row group on, whose first row has the number `first`, from 0.

    A row that cannot be decoded comes with its error; one without an id gets `row-<number>`, from
    1. Raises InputError for a file that cannot be read on.
    """
    from pyarrow import parquet

    number = first
    with _readable(path), parquet.ParquetFile(path) as file:
        groups = list(range(group, file.num_row_groups))
        columns = [name for name in file.schema_arrow.names if name in _READ]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns):
            for at in range(batch.num_rows):
                number += 1
                yield _row(batch, at, number)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Makes InputError, which names the file, of what Arrow and the system raise."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _row(batch: Any, at: int, number: int) -> BatchRow:
    name = f"row-{number}"
    try:
        row = {column: batch.column(column)[at].as_py() for column in batch.schema.names}
        own = row.pop("id", None)
        name = name if own is None else str(own)
        listed = row.pop("images", None)
        if row.get("image") is None and listed:
            row["image"] = listed
        elif listed:
            row["images"] = listed
        if "image" in row:
            row["image"] = _pictures(row["image"])
        return BatchRow(name, b"", row)
    except (ValueError, OverflowError) as error:
        what = " ".join(str(error).split())[:200]
        return BatchRow(name, b"", InputError(f"row {number} cannot be decoded: {what}"))


def _pictures(value: Any) -> Any:
    """Paths and bytes out of the structs in which data sets keep pictures."""
    if isinstance(value, list):
        return [_picture(one) for one in value]
    return _picture(value)


def _picture(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        data = value.get("bytes")
        return value.get("path") if data is None else data
    return value
