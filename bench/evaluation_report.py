"""An evaluation for people: a table, a page of Markdown, and plots of thresholds and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proguard_edge.bench.evaluation import FIGURES
from proguard_edge.bench.report import markdown_row

HEAD = ("source", "modality", "part", "safe/unsafe", *FIGURES, "errors", "published F1 %")


def rows(report: Mapping[str, Any], *, intervals: bool = False) -> list[tuple[str, ...]]:
    """The table under `HEAD`."""
    found = []
    for group in report["groups"]:
        cells = [_figure(group.get(name), intervals) for name in FIGURES]
        others = ", ".join(f"{model} {value:g}" for model, value in group["published"].items())
        counts = f"{group['safe']}/{group['unsafe']}"
        names = (group["source"], group["modality"], group["part"], counts)
        found.append((*names, *cells, str(sum(group["errors"].values()) or ""), others))
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The page, with intervals."""
    lines = [f"# {report['artifact_name']}", "", f"{report['rows']} rows, artifact"]
    lines[-1] += f" {report['artifact'][:12]}, engine {report['engine']}, mode {report['mode']}."
    lines += ["", "F1, recall and FPR at a score of 0.5, of the unsafe class; 95 % intervals.", ""]
    lines += [
        markdown_row(HEAD),
        markdown_row(["---"] * len(HEAD)),
        *map(markdown_row, rows(report, intervals=True)),
        "",
    ]
    if (found := report["categories"]) is not None:
        lines += ["## Categories", ""]
        for name in ("main", "exact"):
            if found[name]:
                share = found[name]
                lines.append(f"- {name}: {share['accuracy']:.3f} of {share['rows']} rows")
        lines += ["", "| truth | said |", "|---|---|"]
        for truth, said in found["confusion"].items():
            lines.append(
                markdown_row((truth, ", ".join(f"{name} {n}" for name, n in said.items())))
            )
        lines.append("")
    if (found := report.get("unseen")) is not None:
        lines += ["## Unseen risks", ""]
        lines += [f"- {k.replace('_', ' ')}: {v}" for k, v in found.items() if k != "names"]
        lines += ["", "| said | in truth |", "|---|---|"]
        lines += [markdown_row((_safe(n["said"]), n["truth"])) for n in found["names"]]
        lines.append("")
    return "\n".join(lines)


def plot(report: Mapping[str, Any], path: Path) -> None:
    """F1 of every group with its interval; recall, FPR and F1 against the threshold."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = [group for group in report["groups"] if _value(group.get("f1")) is not None]
    sweeps = report["sweeps"]
    height = max(3.5, 1 + 0.28 * len(groups))
    figure, axes = plt.subplots(1, 1 + len(sweeps), figsize=(6 + 4.5 * len(sweeps), height))
    axes = list(axes) if sweeps else [axes]
    _groups(axes[0], groups)
    for axis, (part, points) in zip(axes[1:], sweeps.items(), strict=True):
        at = [point["threshold"] for point in points]
        for name in ("f1", "recall", "fpr"):
            axis.plot(at, [point[name] for point in points], label=name)
        axis.axvline(0.5, color="grey", lw=0.8)
        axis.set_title(f"{part}s, all sources", fontsize=9)
        axis.set_xlabel("threshold")
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _groups(axis: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    for place, group in enumerate(groups):
        found = group["f1"]
        low = found["value"] if found["low"] is None else found["low"]
        high = found["value"] if found["high"] is None else found["high"]
        spread = [[found["value"] - low], [high - found["value"]]]
        axis.errorbar(found["value"], place, xerr=spread, fmt="o", color="C0", capsize=2, ms=4)
        for value in group["published"].values():
            axis.plot(value / 100, place, "|", color="C1", ms=10)
    labels = [f"{g['source']} · {g['part']}" for g in groups]
    axis.set_yticks(range(len(groups)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.02)
    axis.set_xlabel("F1 of unsafe, 95 % (bars: published)")
    axis.grid(axis="x", alpha=0.3)


def _figure(found: Mapping[str, float | None] | None, intervals: bool) -> str:
    value = _value(found)
    if value is None or found is None:
        return "–"
    if not intervals or found["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({found['low']:.2f}–{found['high']:.2f})"


def _value(found: Mapping[str, float | None] | None) -> float | None:
    return None if found is None else found["value"]


def _safe(text: str) -> str:
    """What a model wrote, so that it stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
