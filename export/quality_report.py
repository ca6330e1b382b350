"""A quality record for people: a page of Markdown, and a plot of every row's move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proguard_edge.artifact.format import PARTS
from proguard_edge.bench.report import markdown_row

FIGURES = ("f1", "weighted_f1", "recall", "fpr", "auroc")


def markdown(found: Mapping[str, Any], excerpts: Mapping[str, str] | None = None) -> str:
    """The page. excerpts: the beginning of a row's text by its id, for the changed examples."""
    lines = [f"# {found['after']} against {found['before']}", ""]
    gate = found.get("gate")
    if gate is not None:
        lines += [f"Gate: **{'passed' if gate['passed'] else 'FAILED'}**", ""]
        lines += [f"- {line}" for line in gate["failures"]]
        lines += [""] if gate["failures"] else []
    lines += [
        f"{found['rows']} rows, {found['answered_by_neither']} of them answered by neither side.",
        "",
        "| part | rows | agreement | KL (nats) | largest | flips |",
        "|---|---|---|---|---|---|",
    ]
    for part, of in found["parts"].items():
        flips = ", ".join(f"{count} {what}" for what, count in of["flips"].items()) or "none"
        cells = (part, of["rows"], of["agreement"], of["kl"], of["kl_largest"], flips)
        lines.append(markdown_row(cells))
    lines += ["", *_before_and_after(found["parts"])]
    for name, parts in found["modalities"].items():
        lines += ["", f"## {name}", "", *_before_and_after(parts)]
    if found["categories"]:
        lines += ["", "## Recall by category", "", "| category | unsafe rows | before | after |"]
        lines.append("|---|---|---|---|")
        for name, of in found["categories"].items():
            lines.append(markdown_row((name, of["rows"], of["recall_before"], of["recall_after"])))
    agreed = found["category_agreement"]
    if agreed["rows"]:
        lines += ["", f"Same category: {agreed['agreement']} of {agreed['rows']} unsafe for both."]
    return "\n".join([*lines, "", *_worst(found["worst"], excerpts or {})]) + "\n"


def _before_and_after(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| part | safe/unsafe | " + " | ".join(FIGURES) + " |", "|---" * 7 + "|"]
    for part, of in parts.items():
        was, now = of["before"], of["after"]
        if not was:
            continue
        cells = [f"{_number(was[name])} → {_number(now[name])}" for name in FIGURES]
        lines.append(markdown_row((part, f"{was['safe']}/{was['unsafe']}", *cells)))
    return lines


def _worst(changes: Sequence[Mapping[str, Any]], excerpts: Mapping[str, str]) -> list[str]:
    lines = [
        "## Rows that changed most",
        "",
        "| row | part | truth | before | after | text |",
        "|---|---|---|---|---|---|",
    ]
    for change in changes:
        text = " ".join(excerpts.get(change["id"], "").split())[:80].replace("|", "\\|")
        before, after = _number(change["before"]), _number(change["after"])
        cells = (change["id"], change["part"], change["truth"] or "–", before, after, text)
        lines.append(markdown_row(cells))
    return lines


def plot(moves: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Each row's P(unsafe) before and after, one panel a part, flips in colour; a PNG file.

    moves: by part, `quality.Change`s.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    parts = [part for part in PARTS if moves.get(part)]
    figure, axes = plt.subplots(1, len(parts), figsize=(5 * len(parts), 5), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        shown = [c for c in moves[part] if c.before is not None and c.after is not None]
        groups = {
            "same label": ("0.6", [c for c in shown if c.agrees]),
            "new “unsafe”": ("tab:blue", [c for c in shown if not c.agrees and c.after >= 0.5]),
            "new “safe”": ("tab:red", [c for c in shown if not c.agrees and c.after < 0.5]),
        }
        for name, (colour, of) in groups.items():
            label = f"{name}: {len(of)}"
            axis.scatter([c.before for c in of], [c.after for c in of], s=14, c=colour, label=label)
        axis.axhline(0.5, color="0.8", zorder=0)
        axis.axvline(0.5, color="0.8", zorder=0)
        axis.plot([0, 1], [0, 1], color="0.8", linestyle=":", zorder=0)
        axis.set(title=part, xlabel="P(unsafe) before", ylabel="P(unsafe) after")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.legend(loc="upper left", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
