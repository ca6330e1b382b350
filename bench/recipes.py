"""One checkpoint through many recipes: size, what changed, and time to a verdict, side by side.

    python -m proguard_edge.bench.recipes CHECKPOINT OUT --data ROWS --calibration ROWS \\
        --like ARTIFACT [--recipe NAME …] [--set onnx-gptq-int4:gptq.group_size=64 …]

Every recipe is judged on the same rows against the checkpoint in float32, and none is failed: the
table shows what the gate would have said. Times are medians over rounds in which every artifact
that runs here judges the same fresh text once, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from proguard_edge.artifact import Artifact
from proguard_edge.bench.report import markdown_row
from proguard_edge.errors import ProGuardEdgeError
from proguard_edge.export.folder import Contents
from proguard_edge.export.gate import Gate
from proguard_edge.export.pipeline import run_recipe
from proguard_edge.export.quality import Limits, failures
from proguard_edge.export.recipe import Recipe, recipe_names
from proguard_edge.export.stages import Source
from proguard_edge.guard import Guard
from proguard_edge.train.sources import read_rows

ALL = Limits(min_agreement=0, max_kl=1e9, max_f1_drop=1, max_recall_drop=1, min_rows=1)
TEXT = (
    "Sentence {n} of a letter to my landlord: the heating has been off since Monday, the children "
    "sleep in their coats, and I would like to know when somebody comes to look at the boiler."
)


def export_all(
    names: Sequence[str], settings: dict[str, dict[str, Any]], source: Source, out: Path, gate: Gate
) -> list[dict[str, Any]]:
    """A table row for each recipe; one that cannot be run here is a row with its error."""
    found = []
    for name in names:
        recipe = Recipe.load(name).with_options(settings.get(name, {}))
        limits = recipe.limits
        begin = time.monotonic()
        try:
            done = run_recipe(
                recipe, source, out / name, out / "work", gate, force=True, report=print
            )
        except ProGuardEdgeError as error:
            print(f"{name}: {error}")
            found.append({"recipe": name, "error": f"{type(error).__name__}: {error}"})
            continue
        quality = done.quality or {}
        found.append(
            {
                "recipe": name,
                "engine": done.artifact.engine,
                "megabytes": round(sum(f.size for f in done.artifact.files.values()) / 1e6, 1),
                "seconds": round(time.monotonic() - begin, 1),
                "judged": quality["judged"],
                "parts": quality["parts"],
                "category_agreement": quality["category_agreement"],
                "gate": failures(quality, replace(limits, min_rows=1)),
                "steps": {n: step["seconds"] for n, step in done.steps.items()},
            }
        )
    return found


def time_all(folders: Sequence[Path], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds to a verdict by folder name, of those that an engine here can load."""
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        guards: dict[str, Guard] = {}
        for folder in folders:
            try:
                guard = Guard.load(folder, ocr=False)
                guard.moderate(user=TEXT.format(n="zero"))
            except ProGuardEdgeError as error:
                print(f"{folder.name}: not timed: {error}")
                continue
            guards[folder.name] = stack.enter_context(guard)
        for number in range(rounds):
            for name, guard in guards.items():
                begin = time.perf_counter()
                guard.moderate(user=TEXT.format(n=number))
                times.setdefault(name, []).append(1000 * (time.perf_counter() - begin))
    return {
        name: {
            "median": round(statistics.median(of), 1),
            "least": round(min(of), 1),
            "most": round(max(of), 1),
        }
        for name, of in times.items()
    }


def table(rows: Sequence[dict[str, Any]], times: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| recipe | MB | agreement | KL (nats) | F1 before → after | time to verdict | gate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['recipe']} | – | – | – | – | – | {row['error']} |")
            continue
        part = row["parts"]["request"]
        shown = times.get(row["recipe"])
        cells = (
            row["recipe"],
            row["megabytes"],
            part["agreement"],
            part["kl"],
            f"{part['before'].get('f1')} → {part['after'].get('f1')}",
            f"{shown['median']} ms" if shown else "not run here",
            "passed" if not row["gate"] else f"{len(row['gate'])} limits broken",
        )
        lines.append(markdown_row(cells))
    return "\n".join(lines)


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--recipe", action="append", help="default: all")
    parser.add_argument("--set", action="append", default=[], metavar="RECIPE:STEP.OPTION=VALUE")
    parser.add_argument("--python", action="append", default=[], metavar="STAGE=PATH")
    parser.add_argument("--limit", type=int, help="rows of each data file")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    args = parser.parse_args()
    settings: dict[str, dict[str, Any]] = {}
    for text in args.set:
        recipe, _, pair = text.partition(":")
        option, _, value = pair.partition("=")
        settings.setdefault(recipe, {})[option] = yaml.safe_load(value)
    rows = [row for path in args.data for row in islice(read_rows(path), args.limit)]
    contents = Contents.like(Artifact.open(args.like), args.checkpoint.resolve().name)
    pythons = dict(pair.split("=", 1) for pair in args.python)
    source = Source(args.checkpoint, contents, args.calibration, 0, pythons)
    names = args.recipe or recipe_names()
    found = export_all(names, settings, source, args.out, Gate(rows, ALL))
    times = time_all([args.out / row["recipe"] for row in found if "error" not in row], args.rounds)
    print(table(found, times))
    if args.json:
        figures = {"rows": len(rows), "recipes": found, "milliseconds": times}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
