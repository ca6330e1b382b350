"""Run a recipe: its steps, the quality gate, and the finished artifact in its place.

Steps and verdicts are kept in a work folder, so that a run that was stopped goes on where it was,
and recipes that share steps share their results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proguard_edge.artifact import Artifact, write_artifact
from proguard_edge.errors import ArtifactError, QualityError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import versions
from proguard_edge.export.folder import link_or_copy, staged
from proguard_edge.export.gate import Gate
from proguard_edge.export.recipe import Recipe, Step
from proguard_edge.export.stages import STAGES, Job, Source
from proguard_edge.export.store import Store

Report = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """A finished export. quality: its record, None where it was not measured."""

    artifact: Artifact
    steps: dict[str, dict[str, Any]]
    quality: dict[str, Any] | None


def run_recipe(
    recipe: Recipe,
    source: Source,
    out: Path,
    work: Path,
    gate: Gate | None,
    *,
    force: bool = False,
    report: Report = lambda _: None,
) -> Done:
    """Make `out` from the checkpoint; `work` holds finished steps and may be deleted afterwards.

    gate: None leaves the export unmeasured, and its manifest says so. Raises QualityError when the
    gate is not passed: the report then lies in `OUT.quality` and no artifact is made. Raises
    ArtifactError, PolicyError.
    """
    with staged(out, force) as folder:
        folders, records = _run_steps(recipe, source, Store(work), report)
        _copy(folders[recipe.artifact], folder)
        quality = None
        if gate is not None:
            report(f"quality gate, {recipe.judged}")
            measured = gate.measure(folders[recipe.judged], source, work, report)
            measured.record["judged"] = recipe.judged
            measured.write(folder)
            if lines := measured.failures:
                kept = out.absolute().with_name(f"{out.name}.quality")
                measured.write(kept)
                raise QualityError(f"{recipe.name}: {'; '.join(lines)}; see {kept}")
            quality = measured.record
        _describe(folder, recipe, records, quality, report)
    return Done(Artifact.open(out), records, quality)


def _run_steps(
    recipe: Recipe, source: Source, store: Store, report: Report
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Folders and records of the recipe's steps by name."""
    base = _digest(
        {
            "checkpoint": Checkpoint(source.checkpoint).digest(),
            "contents": source.contents.digest(),
            "seed": source.seed,
            "package": versions()["proguard-edge"],
        }
    )
    folders: dict[str, Path] = {}
    records: dict[str, dict[str, Any]] = {}
    for number, step in enumerate(recipe.steps, 1):
        inputs = {name: folders[of] for name, of in step.inputs.items()}
        keys = {name: records[of]["key"] for name, of in step.inputs.items()}
        description = {"stage": step.stage, "options": dict(step.options), "inputs": keys}
        key = _digest({"base": base, **description, "data": _data_digest(step, source)})

        def make(folder: Path, step: Step = step, inputs: dict[str, Path] = inputs) -> None:
            STAGES[step.stage].run(Job(source, folder, step.options, inputs, report))

        report(f"step {number} of {len(recipe.steps)}: {step.name}")
        folders[step.name], records[step.name], there = store.step(
            step.stage, key, description, make
        )
        if there:
            report(f"{step.name}: done before, {folders[step.name].name}")
    return folders, records


def _data_digest(step: Step, source: Source) -> str | None:
    if not STAGES[step.stage].uses_data or source.data is None:
        return None
    state = hashlib.sha256()
    for path in _files(source.data):
        status = path.stat()
        state.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return state.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise ArtifactError(f"{path}: no such file or folder of rows")
    yield from sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else (path,)


def _copy(source: Path, target: Path) -> None:
    """The step's files, as hard links where the file system can."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            link_or_copy(path, place)


def _describe(
    folder: Path,
    recipe: Recipe,
    records: dict[str, dict[str, Any]],
    quality: dict[str, Any] | None,
    report: Report,
) -> None:
    """Write recipe and quality into the manifest."""
    manifest = Artifact.open(folder).description()
    manifest["recipe"] = {
        "name": recipe.name,
        "steps": {
            name: {key: record[key] for key in ("stage", "options", "key")}
            for name, record in records.items()
        },
    }
    manifest["quality"] = _summary(quality)
    write_artifact(folder, manifest, report)


def _summary(quality: dict[str, Any] | None) -> dict[str, Any]:
    if quality is None:
        return {"measured": False}
    parts = {
        name: {key: of[key] for key in ("rows", "agreement", "kl")}
        for name, of in quality["parts"].items()
    }
    return {"measured": True, "judged": quality["judged"], **quality["gate"], "parts": parts}


def _digest(of: dict[str, Any]) -> str:
    text = json.dumps(of, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
