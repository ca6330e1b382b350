"""A bench report for people: tables for the terminal and for Markdown, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LATENCY = (
    *("scenario", "contender", "runs", "p50 ms", "p90", "p95", "p99", "ratio"),
    *("label ms", "ratio", "agreement"),
)
THROUGHPUT = ("load", "requests", "per second", "p50 ms", "p90", "p95", "p99", "errors")

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def table(report: Mapping[str, Any]) -> Table:
    """Head and rows of the report's main table."""
    return _throughput(report) if report["kind"] == "throughput" else _latency(report)


def _throughput(report: Mapping[str, Any]) -> Table:
    found = []
    for one in report["results"]:
        cells = (one["load"], str(one["requests"]), f"{one['per_second']:.2f}")
        times = _times(one["ms"]) if "ms" in one else ("",) * 4
        found.append((*cells, *times, "; ".join(f"{n} {e}" for e, n in one["errors"].items())))
    return THROUGHPUT, found


def _latency(report: Mapping[str, Any]) -> Table:
    """A scenario that could not be run says why."""
    beside = {(r["scenario"], r["contender"]): r for r in report.get("ratios", ())}
    found = []
    for one in report["results"]:
        start = (one["scenario"], one["contender"], str(one["runs"]))
        if "ms" not in one or one["errors"]:
            found.append((*start, "; ".join(one["errors"]) or "no run", *[""] * 7))
            continue
        ratio = beside.get(start[:2])
        found.append(
            (
                *start,
                *_times(one["ms"]),
                f"×{_interval(ratio['ratio'], 2)}" if ratio else "1",
                f"{one['label_ms']['value']:.1f}" if "label_ms" in one else "",
                f"×{_interval(ratio['label_ratio'], 2)}"
                if ratio and "label_ratio" in ratio
                else "",
                f"{ratio['agreement']:.3f}" if ratio else "",
            )
        )
    return LATENCY, found


def _times(ms: Mapping[str, Any]) -> tuple[str, ...]:
    return (_interval(ms["p50"], 1), *(f"{ms[q]['value']:.1f}" for q in ("p90", "p95", "p99")))


def markdown(report: Mapping[str, Any]) -> str:
    """A page: the machine, the table, the phases, the ceilings."""
    machine = report["machine"]
    lines = [
        f"# {report['kind']}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"
        + "".join(f", {gpu}" for gpu in machine["gpus"]),
        "",
    ]
    if report.get("warning"):
        lines += [f"**{report['warning']}**", ""]
    head, rows = table(report)
    lines += [markdown_row(head), markdown_row(["---"] * len(head)), *map(markdown_row, rows), ""]
    lines += ["Intervals of 95 %. Ratios are medians over rounds, to the first contender. Label:"]
    lines += ["time to the request's label alone; a peer that gives no more is timed by it.", ""]
    phases = [one for one in report["results"] if one.get("phases_ms")]
    if phases:
        names = sorted({name for one in phases for name in one["phases_ms"]})
        head = ("scenario", "contender", *names)
        lines += ["## Phases, median ms", "", markdown_row(head), markdown_row(["---"] * len(head))]
        for one in phases:
            cells = [f"{one['phases_ms'][n]:.1f}" if n in one["phases_ms"] else "" for n in names]
            lines.append(markdown_row((one["scenario"], one["contender"], *cells)))
        lines.append("")
    lines += _ceilings(report)
    return "\n".join(lines)


def _ceilings(report: Mapping[str, Any]) -> list[str]:
    ceilings, points = report.get("ceilings"), report.get("roofline")
    if not ceilings or not points:
        return []
    head = ("scenario", "tokens/s", "GFLOP/s", "share of arithmetic", "share of bandwidth")
    lines = [
        "## Prefill against the machine",
        "",
        f"Measured here: {ceilings['gflops']} GFLOP/s in float32, {ceilings['gb_per_s']} GB/s.",
        "",
        markdown_row(head),
        markdown_row(["---"] * len(head)),
    ]
    for point in points:
        shares = (point["share_of_arithmetic"], point["share_of_bandwidth"])
        cells = [f"{point['tokens_per_s']:.0f}", f"{point['gflops']:.1f}"]
        lines.append(markdown_row((point["scenario"], *cells, *(f"{s:.0%}" for s in shares))))
    return [*lines, ""]


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Phases as stacked bars with the interval of the median; beside it the roofline."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    if report["kind"] == "throughput":
        _plot_throughput(plt, report["results"], path)
        return
    timed = [one for one in report["results"] if "ms" in one and not one["errors"]]
    points = report.get("roofline") or []
    height = 1.2 + 0.42 * len(timed)
    shape = {"figsize": (13 if points else 8, max(3.2, height))}
    figure, axes = plt.subplots(1, 2 if points else 1, squeeze=False, **shape)
    _bars(axes[0][0], timed)
    if points:
        _roof(axes[0][1], report["ceilings"], points)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_throughput(plt: Any, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Quantiles of every load, and the process's memory over time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    for one in results:
        if "ms" in one:
            names = list(one["ms"])
            times = [one["ms"][name]["value"] for name in names]
            left.plot(names, times, "o-", label=f"{one['load']}: {one['per_second']:.1f}/s")
        if one["memory_mb"]:
            right.plot(*zip(*one["memory_mb"], strict=True), label=one["load"])
    left.set_ylabel("ms, waiting included")
    left.legend(fontsize=8)
    right.set_xlabel("s")
    right.set_ylabel("resident memory, MB")
    right.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(axis: Any, timed: Sequence[Mapping[str, Any]]) -> None:
    names = sorted({name for one in timed for name in one["phases_ms"]})
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    for place, one in enumerate(timed):
        left = 0.0
        for name, ms in one["phases_ms"].items():
            axis.barh(place, ms, left=left, color=colours[name], height=0.6)
            left += ms
        middle = one["ms"]["p50"]
        low, high = middle["low"] or middle["value"], middle["high"] or middle["value"]
        spread = [[middle["value"] - low], [high - middle["value"]]]
        axis.errorbar(middle["value"], place, xerr=spread, fmt="D", color="black", capsize=3, ms=4)
    for name in names:
        axis.barh(0, 0, color=colours[name], label=name)
    labels = [f"{one['scenario']}\n{one['contender']}" for one in timed]
    axis.set_yticks(range(len(timed)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("ms to a verdict (bars: medians of phases; diamonds: median, 95 %)")
    if names:
        axis.legend(fontsize=8)


def _roof(axis: Any, ceilings: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
    import numpy as np

    x = np.logspace(-1, 4, 200)
    axis.loglog(x, np.minimum(ceilings["gflops"], x * ceilings["gb_per_s"]), color="black")
    for point in points:
        axis.loglog(point["operations_per_byte"], point["gflops"], "o", label=point["scenario"])
    axis.set_xlabel("operations per byte of weights")
    axis.set_ylabel("GFLOP/s in prefill")
    axis.set_title("roofline of this machine, float32", fontsize=9)
    axis.legend(fontsize=8)


def _interval(estimate: Mapping[str, float | None], digits: int) -> str:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if low is None or high is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def markdown_row(cells: Sequence[Any]) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"
