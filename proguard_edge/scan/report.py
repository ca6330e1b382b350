"""What a scan found, for programs and for people: counts, groups of unseen risks, plots."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from proguard_edge.scan.drive import Run
from proguard_edge.scan.run import Scan
from proguard_edge.scan.tally import SCORE_BINS
from proguard_edge.unseen import Group, group_names

FORMAT = "proguard-edge-scan-summary/1"
LABELS = ("safe", "unsafe", "error")
# Of names of unseen risks, those that are grouped, and those of a group that are listed.
MAX_NAMES, MAX_LISTED = 5000, 20
_BARS = 25


def groups_of(scan: Scan) -> list[Group]:
    """The names of risks that the policy lacks in groups, of `MAX_NAMES` the most frequent."""
    return group_names(dict(scan.tally.unseen.most_common(MAX_NAMES)))


def summary(scan: Scan, run: Run, groups: Sequence[Group]) -> dict[str, Any]:
    """Plain data, ready for JSON. run: the last one. groups: those of `groups_of`."""
    tally, plan = scan.tally, scan.plan
    categories = [
        {"id": id_, "name": name, "rows": rows}
        for (id_, name), rows in tally.categories.most_common()
    ]
    return {
        "format": FORMAT,
        "complete": scan.missing == 0,
        "rows": plan.rows,
        "missing": scan.missing,
        **{label: tally.labels[label] for label in LABELS},
        "not_looked_at": {s.path: dict(s.not_looked_at) for s in plan.sources if s.not_looked_at},
        "errors": dict(tally.errors.most_common()),
        "modalities": _by_label(tally.modalities),
        "sources": _by_label(tally.sources),
        "categories": categories,
        "unseen": {
            "rows": tally.unseen.total(),
            "names": len(tally.unseen),
            "names_not_grouped": len(tally.unseen) - sum(len(g.names) for g in groups),
            "groups": [
                {"name": g.name, "rows": g.count, "names": dict(g.names[:MAX_LISTED])}
                for g in groups
            ],
        },
        "scores": {"from": 0.0, "to": 1.0, "rows": tally.scores},
        "times": [{"from_ms": a, "to_ms": b, "rows": n} for a, b, n in tally.time_bins()],
        "ms": {f"p{q}": tally.quantile_ms(q / 100) for q in (50, 90, 95, 99)},
        "failures": scan.failures,
        "judging": asdict(plan.judging),
        "run": asdict(run) | {"rows_per_second": run.rows_per_second},
    }


def _by_label(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    names = sorted({name for name, _ in counts})
    return {name: {label: counts[name, label] for label in LABELS} for name in names}


def markdown(found: Mapping[str, Any]) -> str:
    """The page for people; it shows `report.png`."""
    judging, bound = found["judging"], found["judging"]["max_miss_rate"]
    lines = ["# Scan", ""]
    if not found["complete"]:
        lines += [f"**Not complete: {found['missing']} of {found['rows']} rows have no verdict.**"]
        lines += [f"- {_cell(failure)}" for failure in found["failures"]] + [""]
    lines += [
        f"{found['rows']} rows: {found['safe']} safe, {found['unsafe']} unsafe, "
        f"{found['error']} errors. An error is no verdict.",
        "",
        f"Artifact {judging['artifact'][:12]}, engine {judging['engine']}, policy "
        f"{judging['policy'][:12]}, mode {judging['mode']}, "
        f"{'no bound' if bound is None else f'a bound of {bound}'} on missed content, "
        f"{_cell(judging['reading'])}.",
        "",
        *_timing(found),
    ]
    if found["not_looked_at"]:
        lines += ["## Not looked at", ""]
        lines += _table(("folder", "files"), _others(found))
    lines += ["## By modality and source", ""]
    both = [*found["modalities"].items(), *found["sources"].items()]
    lines += _table(("", *LABELS), [(n, *(c[label] for label in LABELS)) for n, c in both])
    if found["categories"]:
        rows = [(c["rows"], c["id"], c["name"]) for c in found["categories"]]
        lines += ["## Categories of the policy", "", *_table(("rows", "id", "name"), rows)]
    if found["unseen"]["groups"]:
        lines += ["## Risks that the policy lacks", "", *_unseen(found["unseen"])]
    if found["errors"]:
        lines += ["## Errors", "", *_table(("error", "rows"), list(found["errors"].items()))]
    return "\n".join([*lines, "![categories, scores, times](report.png)", ""])


def _timing(found: Mapping[str, Any]) -> list[str]:
    run, ms, lines = found["run"], found["ms"], []
    if run["rows"]:
        lines.append(
            f"This run judged {run['rows']} rows in {run['seconds']:.0f} s with {run['workers']} "
            f"workers of {run['threads']} threads ({run['rows_per_second']:.2f} rows/s)."
        )
    if ms["p50"] is not None:
        lines.append(f"A row takes {ms['p50']:.0f} ms (median), {ms['p95']:.0f} ms (p95).")
    return [*lines, ""]


def _others(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (path, ", ".join(f"{count} {ending}" for ending, count in endings.items()))
        for path, endings in found["not_looked_at"].items()
    ]


def _unseen(found: Mapping[str, Any]) -> list[str]:
    lines = _table(
        ("rows", "name", "also"),
        [
            (g["rows"], g["name"], ", ".join(f"{n} ({c})" for n, c in [*g["names"].items()][1:]))
            for g in found["groups"]
        ],
    )
    if found["names_not_grouped"]:
        lines += [f"{found['names_not_grouped']} rarer names are not shown.", ""]
    return lines


def _table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in cells] + [""]


def _cell(text: str) -> str:
    """What others wrote, so that it stays in its cell and means nothing there."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    for char, kept in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\["), ("`", "\\`")):
        flat = flat.replace(char, kept)
    return " ".join(flat.split())


def plot(found: Mapping[str, Any]) -> bytes:
    """Rows by category, unseen risks among them; by score; by time: a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    named = [(f"{c['id']} {c['name']}", c["rows"], "C0") for c in found["categories"]]
    named += [(g["name"], g["rows"], "C1") for g in found["unseen"]["groups"]]
    bars = sorted(named, key=lambda bar: -bar[1])[:_BARS]
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(16, max(3.5, 1 + 0.25 * len(bars))), width_ratios=(2, 1, 1)
    )
    _categories(left, bars)
    edges = [i / SCORE_BINS for i in range(SCORE_BINS + 1)]
    middle.stairs(found["scores"]["rows"], edges, fill=True)
    middle.axvline(0.5, color="grey", lw=0.8)
    middle.set(xlabel="score: P(unsafe)", ylabel="rows")
    if times := found["times"]:
        right.stairs(
            [t["rows"] for t in times],
            [t["from_ms"] for t in times] + [times[-1]["to_ms"]],
            fill=True,
        )
        right.set_xscale("log")
    right.set(xlabel="ms to a verdict", ylabel="rows")
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is a box.
        warnings.simplefilter("ignore")
        figure.tight_layout()
        figure.savefig(picture, format="png", dpi=120)
    plt.close(figure)
    return picture.getvalue()


def _categories(axis: Any, bars: list[tuple[str, int, str]]) -> None:
    for place, (_, rows, colour) in enumerate(bars):
        axis.barh(place, rows, color=colour)
    # A dollar sign would begin a formula.
    names = [name[:48].replace("$", "\\$") for name, _, _ in bars]
    axis.set_yticks(range(len(bars)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("unsafe rows (orange: not in the policy)")
