"""Accuracy on labelled rows: labels by source and modality, categories, and unseen risks.

A row that ended in an error is counted apart and never as safe. F1, recall and false-positive rate
are of the unsafe class; `weighted_f1` is the mean of both classes' F1 by their rows.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proguard_edge.artifact.format import PARTS
from proguard_edge.bench.metrics import intervals, measure, sweep
from proguard_edge.errors import InputError
from proguard_edge.train.rows import Row

Lines = Mapping[str, Mapping[str, Any]]
FIGURES = ("f1", "weighted_f1", "recall", "fpr", "auroc", "auprc")
ALL = "all"


def evaluate(rows: Sequence[Row], lines: Lines, *, resamples: int = 500) -> dict[str, Any]:
    """Groups, categories and threshold sweeps of `moderate-batch` lines by row id.

    resamples: of the bootstrap, 0 = no intervals.
    """
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for part in PARTS:
            if getattr(row, f"{part}_label") is not None:
                for source in (row.source, ALL):
                    groups[source, row.modality, part].append(row)
    found: dict[str, Any] = {"rows": len(rows)}
    found["groups"] = [
        {
            "source": source,
            "modality": modality,
            "part": part,
            **_figures(of, lines, part, resamples),
        }
        for (source, modality, part), of in sorted(groups.items())
    ]
    found["categories"] = categories(rows, lines)
    found["sweeps"] = {}
    for part in PARTS:
        scores, truth, _ = scored(rows, lines, part)
        if len(set(truth)) == 2:
            found["sweeps"][part] = sweep(scores, truth)
    return found


def scored(
    rows: Iterable[Row], lines: Lines, part: str
) -> tuple[list[float], list[bool], Counter[str]]:
    """Scores and whether unsafe in truth, of rows whose part is labelled; errors of the others."""
    scores, truth, errors = list[float](), list[bool](), Counter[str]()
    for row in rows:
        label = getattr(row, f"{part}_label")
        if label is None:
            continue
        line = lines[row.id]
        judged = (line.get("verdict") or {}).get(part)
        if judged is None:
            errors[line.get("error", {}).get("type", f"no {part} judged")] += 1
            continue
        scores.append(judged["score"])
        truth.append(label == "unsafe")
    return scores, truth, errors


def _figures(rows: Sequence[Row], lines: Lines, part: str, resamples: int) -> dict[str, Any]:
    scores, truth, errors = scored(rows, lines, part)
    found: dict[str, Any] = {"errors": dict(errors), "safe": truth.count(False)}
    found["unsafe"] = truth.count(True)
    if not truth:
        return found
    values = asdict(measure(scores, truth))
    ends = intervals(scores, truth, resamples=resamples) if resamples else {}
    for name in FIGURES:
        value, pair = values[name], ends.get(name)
        low, high = (None, None) if pair is None or value is None else pair
        cells = {"value": value, "low": low, "high": high}
        found[name] = {k: None if v is None else round(v, 4) for k, v in cells.items()}
    return found


def categories(rows: Iterable[Row], lines: Lines) -> dict[str, Any] | None:
    """Of unsafe rows with a known category that were called unsafe: how often it was named.

    `main` counts C8 for C8S1 as right, `exact` does not (rows with a subcategory alone).
    """
    main, exact = Counter[bool](), Counter[bool]()
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        risk = (lines[row.id].get("verdict") or {}).get("category")
        if row.category is None or risk is None:
            continue
        said = risk["id"] or "name"
        truth = row.category.split("S")[0]
        main[said.split("S")[0] == truth] += 1
        confusion[truth][said.split("S")[0]] += 1
        if "S" in row.category:
            exact[said == row.category] += 1
    if not main:
        return None
    return {
        "main": _share(main),
        "exact": _share(exact) if exact else None,
        "confusion": {name: dict(of.most_common()) for name, of in sorted(confusion.items())},
    }


def _share(counts: Counter[bool]) -> dict[str, Any]:
    return {"rows": counts.total(), "accuracy": round(counts[True] / counts.total(), 4)}


def published(path: Path) -> Callable[[str, str, str], dict[str, float]]:
    """Figures of others for a source: (source, modality, part) → value by model, F1 in percent.

    A CSV with columns table, metric, model, dataset, value, such as `prompt_text,F1,ProGuard-7B,
    XSTest,87.9`. Names of datasets are compared without case, punctuation and a part at the end.
    Raises InputError for another file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            raw = list(csv.DictReader(file))
        lines = [
            (r["table"], r["metric"].lower(), _plain(r["dataset"]), r["model"], float(r["value"]))
            for r in raw
        ]
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a table of published figures: {error}") from None

    def of(source: str, modality: str, part: str) -> dict[str, float]:
        table = ("prompt" if part == "request" else "response") + f"_{modality.replace('-', '_')}"
        name = _plain(re.sub(r"_(prompt|response)s?$", "", source))
        return {m: v for t, k, d, m, v in lines if (t, k, d) == (table, "f1", name)}

    return of


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
