"""What a recipe's steps can be: each stage fills an empty folder, from the checkpoint and from the
folders of earlier steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proguard_edge.errors import ArtifactError
from proguard_edge.export.folder import Contents

Report = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """What all steps of a run begin with.

    data: labelled rows, a file or a folder, that quantization is calibrated on; None where no step
    needs them. seed: of everything that is drawn. pythons: interpreters of stages that have an
    environment of their own, by stage.
    """

    checkpoint: Path
    contents: Contents
    data: Path | None = None
    seed: int = 0
    pythons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One step to run. out: the empty folder to fill. inputs: folders by the stage's input."""

    source: Source
    out: Path
    options: Mapping[str, Any]
    inputs: Mapping[str, Path]
    report: Report


@dataclass(frozen=True)
class Stage:
    """options: names that a recipe may set. inputs: earlier steps that it needs; may_use: that it
    can do without. uses_data: whether the rows are part of what it depends on."""

    run: Callable[[Job], None]
    options: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    may_use: tuple[str, ...] = ()
    uses_data: bool = False


def _calibration(job: Job) -> None:
    from proguard_edge.calibration.sets import draw
    from proguard_edge.train.rows import write_jsonl
    from proguard_edge.train.sources import read_rows

    data = job.source.data
    if data is None:
        raise ArtifactError(
            "this recipe calibrates on labelled rows: give --calibration a file or folder of them"
        )
    readable = [r for r in read_rows(data) if r.modality in job.source.contents.modalities]
    chosen = draw(readable, int(job.options.get("size", 128)), job.source.seed)
    job.report(f"calibration set: {len(chosen.rows)} of {len(readable)} rows")
    write_jsonl(job.out / "rows.jsonl", chosen.rows)
    (job.out / "set.json").write_text(json.dumps(chosen.to_dict(), indent=1) + "\n")


def _samples(job: Job) -> Any:
    """The calibration set that an earlier step drew, as the runtime would send it."""
    from proguard_edge.calibration.sets import CalibrationSet, render
    from proguard_edge.train.rows import read_jsonl
    from proguard_edge.train.sft import builder_of

    source, contents = job.source, job.source.contents
    builder = builder_of(
        source.checkpoint,
        contents.template,
        contents.policy,
        hiding=None,
        seed=source.seed,
        response_line=contents.response_line,
    )
    folder = job.inputs["samples"]
    rows = tuple(read_jsonl(folder / "rows.jsonl"))
    digest = json.loads((folder / "set.json").read_text(encoding="utf-8"))["digest"]
    samples = render(CalibrationSet(rows, source.seed, digest), builder)
    for reason, count in samples.skipped.items():
        job.report(f"{count} rows of the calibration set were left out: {reason}")
    return samples


def _gptq(job: Job) -> None:
    from proguard_edge.export.gptq import quantize_gptq

    quantize_gptq(
        job.source.checkpoint,
        job.out,
        _samples(job),
        group_size=int(job.options.get("group_size", 128)),
        python=job.source.pythons.get("gptq"),
        report=job.report,
    )


def _ranges(job: Job) -> None:
    from proguard_edge.export.ranges import FILE, measure_ranges

    measure_ranges(job.source.checkpoint, job.out / FILE, _samples(job), job.report)


def _rtn(job: Job) -> None:
    from proguard_edge.export.gptq_round import round_to_gptq

    round_to_gptq(job.source.checkpoint, job.out, int(job.options.get("group_size", 128)))


def _onnx(job: Job) -> None:
    from proguard_edge.export.onnx_artifact import export_onnx

    export_onnx(
        job.source.checkpoint,
        job.out,
        job.source.contents,
        report=job.report,
        **_quantized(job),
        **job.options,
    )


def _transformers(job: Job) -> None:
    from proguard_edge.export.transformers_artifact import export_transformers

    export_transformers(
        job.source.checkpoint,
        job.out,
        job.source.contents,
        report=job.report,
        **_quantized(job),
    )


def _quantized(job: Job) -> dict[str, Path]:
    """The step whose integers or ranges are to be taken over, where there is one."""
    from proguard_edge.export.ranges import FILE

    found = {"gptq": job.inputs["gptq"]} if "gptq" in job.inputs else {}
    return {**found, "ranges": job.inputs["ranges"] / FILE} if "ranges" in job.inputs else found


def _bnb(job: Job) -> None:
    from proguard_edge.export.bnb import export_bnb

    export_bnb(
        job.source.checkpoint,
        job.out,
        job.source.contents,
        kind=str(job.options.get("kind", "nf4")),
        report=job.report,
    )


def _trtllm(job: Job) -> None:
    from proguard_edge.export.trtllm_artifact import export_trtllm

    export_trtllm(
        job.inputs["gptq"], job.out, job.source.checkpoint, job.source.contents, report=job.report
    )


def _edgellm(job: Job) -> None:
    from proguard_edge.export.edgellm import export_edgellm

    export_edgellm(
        job.inputs["gptq"],
        job.out,
        job.source.checkpoint,
        job.source.contents,
        python=job.source.pythons.get("edgellm"),
        report=job.report,
    )


STAGES: dict[str, Stage] = {
    "calibration": Stage(_calibration, ("size",), uses_data=True),
    "gptq": Stage(_gptq, ("group_size",), ("samples",)),
    "ranges": Stage(_ranges, (), ("samples",)),
    "rtn": Stage(_rtn, ("group_size",)),
    "onnx": Stage(
        _onnx,
        (
            "precision",
            "embeddings",
            "vision_precision",
            "context",
            "block_size",
            "accuracy_level",
            "compact_scales",
            "search",
        ),
        may_use=("gptq", "ranges"),
    ),
    "transformers": Stage(_transformers, may_use=("gptq",)),
    "bnb": Stage(_bnb, ("kind",)),
    "trtllm": Stage(_trtllm, (), ("gptq",)),
    "edgellm": Stage(_edgellm, (), ("gptq",)),
}
