"""What a set of rows holds: counts by modality, label and category, as a table and as a plot.

python -m proguard_edge.train.report DATA [--kind xstest] [--images FOLDER] [--plot counts.png]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from proguard_edge.policy import Policy
from proguard_edge.template import Modality
from proguard_edge.train.rows import Row
from proguard_edge.train.sources import SOURCES, read_rows

MODALITIES: tuple[Modality, ...] = ("text", "text-image", "image")
LABELS = ("safe", "unsafe", "unlabelled")
NO_CATEGORY = "–"

Counts = dict[str, dict[str, dict[str, int]]]


def row_label(row: Row) -> str:
    """ "unsafe" when any part is, "safe" when one is and none is unsafe, else "unlabelled"."""
    labels = (row.request_label, row.response_label)
    return next((name for name in ("unsafe", "safe") if name in labels), "unlabelled")


def count_rows(rows: Iterable[Row]) -> Counts:
    """modality → label → category → number of rows; only what occurs, sorted for JSON."""
    flat = Counter((r.modality, row_label(r), r.category or NO_CATEGORY) for r in rows)
    counts: Counts = {}
    for modality, label, category in sorted(flat, key=_place):
        by_label = counts.setdefault(modality, {}).setdefault(label, {})
        by_label[category] = flat[modality, label, category]
    return counts


def markdown(counts: Counts) -> str:
    """One table row a category, one column a modality and label, with totals; ends in a newline."""
    heads = [(m, label) for m in MODALITIES for label in LABELS if counts.get(m, {}).get(label)]
    names = {name for m, label in heads for name in counts[m][label]}
    lines = [
        "| category | " + " | ".join(f"{m} {label}" for m, label in heads) + " | all |",
        "|---|" + "---:|" * (len(heads) + 1),
    ]
    for name in sorted(names, key=_id_order):
        cells = [counts[m][label].get(name, 0) for m, label in heads]
        lines.append(_line(_shown(name), cells))
    lines.append(_line("all", [sum(counts[m][label].values()) for m, label in heads]))
    return "\n".join(lines) + "\n"


def plot(counts: Counts, path: Path) -> None:
    """A PNG: bars of labels a modality, and of the categories of unsafe rows. Needs matplotlib."""
    # The figure is drawn without pyplot: no window system, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unsafe = {m: counts.get(m, {}).get("unsafe", {}) for m in MODALITIES}
    names = sorted({name for by_name in unsafe.values() for name in by_name}, key=_id_order)
    figure = Figure(figsize=(12, 2.5 + 0.25 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, height_ratios=[3, max(len(names), 1)])
    by_label = {
        label: [sum(counts.get(m, {}).get(label, {}).values()) for m in MODALITIES]
        for label in LABELS
    }
    _stack(top, list(MODALITIES), by_label, "rows by modality and label")
    by_modality: dict[str, list[int]] = {
        m: [unsafe[m].get(name, 0) for name in names] for m in MODALITIES
    }
    _stack(bottom, [_shown(name) for name in names], by_modality, "unsafe rows by category")
    figure.savefig(path, format="png", dpi=120)


def _stack(axes: Any, names: list[str], parts: dict[str, list[int]], title: str) -> None:
    start = [0] * len(names)
    for part, values in parts.items():
        if any(values):
            axes.barh(names, values, left=start, label=part)
            start = [a + b for a, b in zip(start, values, strict=True)]
    axes.set_title(title)
    axes.set_xlabel("rows")
    axes.invert_yaxis()
    if any(start):
        axes.legend()


def _line(name: str, cells: list[int]) -> str:
    return f"| {name} | " + " | ".join(str(cell or "") for cell in [*cells, sum(cells)]) + " |"


def _shown(category: str) -> str:
    policy = Policy.default()
    return f"{category} {policy.get(category).name}" if category in policy.ids else category


def _place(key: tuple[str, str, str]) -> tuple[int, int, tuple[int, str]]:
    modality, label, category = key
    return [*MODALITIES].index(modality), LABELS.index(label), _id_order(category)  # type: ignore[arg-type]


def _id_order(category: str) -> tuple[int, str]:
    """The order of the default policy; what it does not know comes first."""
    ids = Policy.default().ids
    return (ids.index(category) if category in ids else -1, category)


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kind", choices=["auto", *SOURCES], default="auto")
    parser.add_argument("--images", type=Path, help="where pictures inside the rows are written")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    args = parser.parse_args()
    counts = count_rows(read_rows(args.data, args.kind, args.images))
    print(markdown(counts), end="")
    if args.plot:
        plot(counts, args.plot)


if __name__ == "__main__":
    main()
