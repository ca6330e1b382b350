"""Accuracy of an artifact on labelled JSONL files, through the very path that users call.

    python -m proguard_edge.bench.eval ../shared/data/eval/xstest.jsonl.gz [--out R.json]

One table row a file and part (request, response): F1 of the unsafe class, weighted F1, recall,
false-positive rate, AUROC, and the share of right main categories among rows whose category is
known. Rows that end in an error are counted apart and never as safe. `--image-text-only` judges the
text that stands in images; there an ImageError is a picture in which none was found.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proguard_edge.bench.metrics import measure
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.guard import Guard
from proguard_edge.request import Request
from proguard_edge.train.rows import Row, read_jsonl
from proguard_edge.verdict import Verdict

Judged = tuple[Row, Verdict | ProGuardEdgeError]


def judge_rows(guard: Guard, rows: Iterable[Row]) -> list[Judged]:
    """Each row with its verdict or its error."""
    rows = list(rows)
    requests = [Request(r.user, r.response, (r.image,) if r.image else ()) for r in rows]
    return list(zip(rows, guard.moderate_many(requests), strict=True))


def summarize(judged: list[Judged]) -> dict[str, dict[str, Any]]:
    """Metrics of each labelled part ("request", "response"), and of the categories."""
    out: dict[str, dict[str, Any]] = {}
    for part in ("request", "response"):
        scores, truth, errors = labelled(judged, part)
        if truth or errors:
            measured = measure(scores, truth).to_dict() if truth else {}
            out[part] = {**measured, "errors": errors.total(), "error_types": dict(errors)}
    if (share := _right_categories(judged)) is not None:
        out["category"] = share
    return out


def labelled(judged: Iterable[Judged], part: str) -> tuple[list[float], list[bool], Counter[str]]:
    """Scores and whether unsafe in truth, of rows whose part is labelled; errors of the others."""
    scores, truth = [], []
    errors: Counter[str] = Counter()
    for row, verdict in judged:
        label = getattr(row, f"{part}_label")
        if label is None:
            continue
        found = None if isinstance(verdict, ProGuardEdgeError) else getattr(verdict, part)
        if found is None:
            errors[type(verdict).__name__] += 1
            continue
        scores.append(found.score)
        truth.append(label == "unsafe")
    return scores, truth, errors


def _right_categories(judged: list[Judged]) -> dict[str, Any] | None:
    """Accuracy of the main category (`C8` of `C8S1`) over rows called unsafe with a known one."""
    pairs = [
        (row.category.split("S")[0], (verdict.category.id or "none").split("S")[0])
        for row, verdict in judged
        if row.category and isinstance(verdict, Verdict) and verdict.category
    ]
    if not pairs:
        return None
    return {"rows": len(pairs), "accuracy": round(sum(a == b for a, b in pairs) / len(pairs), 4)}


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--limit", type=int, help="at most this many rows of a file")
    parser.add_argument("--image-text-only", action="store_true", help="images: their text alone")
    parser.add_argument("--max-miss-rate", type=float, help="judge under this bound")
    parser.add_argument("--rows", type=Path, help="JSONL of every row's labels and scores")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {}
    with Guard.load(
        args.artifact, image_text_only=args.image_text_only, max_miss_rate=args.max_miss_rate
    ) as guard:
        report["artifact"] = guard.artifact.digest
        print(f"{'file':<24}{'part':<10}{'safe/unsafe':>12}  f1    wf1   recall fpr   auroc")
        for file in args.files:
            name = file.name.removesuffix(".gz").removesuffix(".jsonl")
            judged = judge_rows(guard, list(read_jsonl(file))[: args.limit])
            report[name] = summarize(judged)
            if args.rows:
                _append(args.rows, judged)
            for part, found in report[name].items():
                print(_line(name, part, found), flush=True)
            if args.out:
                args.out.write_text(json.dumps(report, indent=1) + "\n")


def _append(path: Path, judged: list[Judged]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for row, verdict in judged:
            line: dict[str, Any] = {"id": row.id, "source": row.source}
            for part in ("request", "response"):
                found = getattr(verdict, part, None)
                line[part] = [getattr(row, f"{part}_label"), found.score if found else None]
            if isinstance(verdict, ProGuardEdgeError):
                line["error"] = type(verdict).__name__
            file.write(json.dumps(line) + "\n")


def _line(name: str, part: str, found: dict[str, Any]) -> str:
    if part == "category":
        return f"{name:<24}{part:<10}{found['rows']:>12}  accuracy {found['accuracy']:.3f}"
    if "f1" not in found:
        return f"{name:<24}{part:<10}  no verdict, {found['errors']} errors"
    shown = [found[k] for k in ("f1", "weighted_f1", "recall", "fpr", "auroc")]
    cells = " ".join("  –  " if v is None else f"{v:.3f}" for v in shown)
    errors = f"  {found['errors']} errors" if found["errors"] else ""
    return f"{name:<24}{part:<10}{found['safe']:>6}/{found['unsafe']:<5}  {cells}{errors}"


if __name__ == "__main__":
    main()
