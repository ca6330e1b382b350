"""Records of a data file: JSON lines, a JSON list, CSV or Parquet, each with where it stands."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from proguard_edge.errors import InputError
from proguard_edge.train.rows import RowError, json_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
SAMPLED = 20

Record = dict[str, Any]
Made = TypeVar("Made")


class SourceError(InputError, ValueError):
    """A path that holds no data file, or data of a kind that is not known."""


def data_files(path: Path) -> list[Path]:
    """The file itself, or every data file below a folder, sorted; hidden ones are left out.

    Raises SourceError when there is none.
    """
    if path.is_file():
        return [path]
    found = sorted(
        p
        for p in path.rglob("*")
        if p.name.endswith(SUFFIXES)
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    if not found:
        raise SourceError(f"{path}: no data file ({', '.join(SUFFIXES)})")
    return found


def records(path: Path) -> Iterator[tuple[str, Record]]:
    """Where each record stands ("FILE, line 3") and its fields, in file order.

    CSV fields are texts; the others keep their types. Raises RowError for what cannot be parsed,
    SourceError for another kind of file.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith(".csv"):
        yield from _csv(path)
    elif name.endswith(".json") and _first_char(path) == "[":
        yield from _json_list(path)
    elif name.endswith((".json", ".jsonl")):
        for number, record in json_lines(path):
            yield f"{path}, line {number}", record
    else:
        raise SourceError(f"{path}: not one of {', '.join(SUFFIXES)}")


def columns(path: Path) -> frozenset[str]:
    """The field names of the first records; in JSON a record may leave out what it lacks."""
    return frozenset(key for _, record in islice(records(path), SAMPLED) for key in record)


def each(convert: Callable[[Record], Made], path: Path) -> Iterator[Made]:
    """`convert` of every record. Its KeyError or ValueError becomes a RowError with the place."""
    for where, record in records(path):
        try:
            yield convert(record)
        except KeyError as error:
            raise RowError(f"{where}: there is no field {error}") from None
        except ValueError as error:
            raise RowError(f"{where}: {error}") from None


def _open(path: Path) -> Any:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _first_char(path: Path) -> str:
    with _open(path) as file:
        while (char := file.read(1)).isspace():
            continue
    return str(char)


def _json_list(path: Path) -> Iterator[tuple[str, Record]]:
    with _open(path) as file:
        try:
            items = json.load(file)
        except ValueError as error:
            raise RowError(f"{path}: not JSON: {error}") from None
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise RowError(f"{path}, item {number} is not a JSON object")
        yield f"{path}, item {number}", item


def _csv(path: Path) -> Iterator[tuple[str, Record]]:
    with _open(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for record in reader:
                where = f"{path}, line {reader.line_num}"
                if None in record or None in record.values():
                    raise RowError(f"{where}: not {len(reader.fieldnames or ())} fields")
                yield where, record
        except csv.Error as error:
            raise RowError(f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            # Pictures lie in the rows: a batch must fit in memory.
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except arrow.ArrowInvalid as error:
        raise RowError(f"{path}: not a Parquet file: {error}") from None
