"""Lines of the output, as JSONL or as Parquet with a column for what is often asked for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proguard_edge.batch import label_of

# Arrow types by name; "verdict" is the whole verdict as JSON.
COLUMNS = {
    "id": "string",
    "source": "string",
    "row": "int64",
    "modality": "string",
    "label": "string",
    "score": "float64",
    "request": "string",
    "request_score": "float64",
    "response": "string",
    "response_score": "float64",
    "category_id": "string",
    "category_name": "string",
    "in_policy": "bool",
    "total_ms": "float64",
    "error_type": "string",
    "error_message": "string",
    "verdict": "string",
}


def to_bytes(line: Mapping[str, Any]) -> bytes:
    """A line of JSONL; a lone surrogate becomes its own JSON escape."""
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def score_of(verdict: Mapping[str, Any]) -> float:
    """The higher of the request's and the response's score."""
    response = verdict["response"] or {"score": 0.0}
    return float(max(verdict["request"]["score"], response["score"]))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a finished shard. Raises OSError, ValueError when it is damaged."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    with path.open("rb") as file:
        for raw in file:
            yield json.loads(raw)


def to_parquet(jsonl: bytes) -> bytes:
    """The same lines as a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        [(n, pyarrow.bool_() if t == "bool" else getattr(pyarrow, t)()) for n, t in COLUMNS.items()]
    )
    rows = [_flat(json.loads(raw)) for raw in jsonl.splitlines()]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    verdict, error = line.get("verdict"), line.get("error") or {}
    row = {name: line[name] for name in ("source", "row", "modality")} | {
        "id": line["id"],
        "label": label_of(line),
        "error_type": error.get("type"),
        "error_message": error.get("message"),
    }
    if verdict is not None:
        request, response, risk = (verdict[n] or {} for n in ("request", "response", "category"))
        row |= {
            "score": score_of(verdict),
            "request": request["label"],
            "request_score": request["score"],
            "response": response.get("label"),
            "response_score": response.get("score"),
            "category_id": risk.get("id"),
            "category_name": risk.get("name"),
            "in_policy": risk.get("in_policy"),
            "total_ms": verdict["timings_ms"].get("total"),
            "verdict": json.dumps(verdict, ensure_ascii=False),
        }
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    # Arrow holds UTF-8 only: a lone surrogate stands there as its escape.
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for row in parquet.read_table(path).to_pylist():
        line = {name: row[name] for name in ("id", "source", "row", "modality")}
        if row["verdict"] is None:
            line["error"] = {"type": row["error_type"], "message": row["error_message"]}
        else:
            line["verdict"] = json.loads(row["verdict"])
        yield line
