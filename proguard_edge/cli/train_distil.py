"""`proguard-edge train distil`: a student learns from a teacher to answer at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import (
    FILE,
    hide_option,
    policy_named,
    response_line_of,
    template_named,
)

if TYPE_CHECKING:
    from proguard_edge.export.distill import Teaching
    from proguard_edge.export.distill_data import Counts, Lesson, Trust
    from proguard_edge.policy import Policy
    from proguard_edge.train.rows import Row

# What belongs to one way of training only; the other refuses it instead of ignoring it.
WHOLE = ("steps", "batch", "accumulate", "part", "augment", "save_every")
SHARED = ("tokens", "rounded_tokens")


@click.command()
@click.option("--teacher", type=FILE, help="The teacher's checkpoint folder: logits in process.")
@click.option("--verdicts", type=FILE, help="What `moderate-batch` said of the rows: any engine.")
@click.option(
    "--teacher-artifact",
    type=FILE,
    help="What made --verdicts; its calibration is taken out of the scores.",
)
@click.option("--model", type=FILE, help="Checkpoint to begin with.  [default: the teacher's]")
@click.option("--layers", metavar="I,J,…", help="Keep these layers of it, counted from 0.")
@click.option("--keep", type=click.IntRange(2), help="Keep so many of its layers, evenly spread.")
@click.option("--data", type=FILE, required=True, multiple=True, help="The rows; may be repeated.")
@click.option("--out", type=FILE, required=True, help="Run folder; run again to resume.")
@click.option(
    "--trust",
    type=click.Choice(["teacher", "rows"]),
    default="teacher",
    show_default=True,
    help="Whose label is the answer where --verdicts and a row both have one.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="How much both distributions are softened.",
)
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Of the teacher's distribution; the answer has the rest.",
)
@click.option(
    "--shared-prefix", is_flag=True, help="Texts only, one policy: the fast way on a CPU."
)
@click.option("--steps", type=click.IntRange(1), help="To train for, without --shared-prefix.")
@click.option("--batch", type=click.IntRange(1), help="Rows.  [default: 4]")
@click.option("--accumulate", type=click.IntRange(1), help="Batches a step.  [default: 1]")
@click.option(
    "--part",
    type=click.Choice(["all", "decoder", "vision"]),
    help="Which weights learn.  [default: decoder]",
)
@click.option("--save-every", type=click.IntRange(1), help="Steps.  [default: 200]")
@click.option("--tokens", type=click.IntRange(1), help="To train for, with --shared-prefix.")
@click.option(
    "--rounded-tokens",
    type=click.IntRange(0),
    help="So many more at the end with weights as 4-bit rounding leaves them.  [default: 0]",
)
@click.option("--rate", type=float, help="Peak.  [default: 1e-5; --shared-prefix: 1.5e-4]")
@click.option("--frozen-layers", type=click.IntRange(0), default=0, help="Lower layers that rest.")
@click.option("--policy", default="default", show_default=True, metavar="FILE|default")
@click.option("--template", default="compact", show_default=True, metavar="FILE|NAME")
@click.option(
    "--augment", is_flag=True, default=None, help="Shuffle and hide categories row by row."
)
@hide_option
@click.option("--total", type=click.IntRange(1), help="Draw so many rows, modalities balanced.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines.")
@handle_errors
def distil(
    teacher: Path | None,
    verdicts: Path | None,
    teacher_artifact: Path | None,
    model: Path | None,
    layers: str | None,
    keep: int | None,
    data: tuple[Path, ...],
    out: Path,
    trust: Trust,
    temperature: float,
    weight: float,
    shared_prefix: bool,
    policy: str,
    template: str,
    hide: float,
    total: int | None,
    seed: int,
    as_json: bool,
    **amounts: Any,
) -> None:
    """Teach a Qwen2.5-VL checkpoint what a larger model, or one that reasons, says of the rows.

    Writes OUT/checkpoint, which `proguard-edge export` turns into an artifact, and OUT/log.jsonl.
    """
    start = model or teacher
    if start is None or not (teacher or verdicts):
        raise click.UsageError("give --teacher, or --verdicts and --model")
    if (teacher_artifact and not verdicts) or (layers and keep):
        raise click.UsageError(
            "--layers or --keep, not both" if layers else "--teacher-artifact is for --verdicts"
        )
    _check_amounts(shared_prefix, amounts)

    from proguard_edge.export.extras import need

    need("torch", "transformers", "accelerate", extra="train")
    from proguard_edge.artifact import Artifact
    from proguard_edge.export.distill import Teaching
    from proguard_edge.export.distill_data import lessons, read_verdicts
    from proguard_edge.export.distill_loss import Mixture

    own_policy = policy_named(policy)
    said = None
    if verdicts is not None:
        made_by = Artifact.open(teacher_artifact) if teacher_artifact is not None else None
        said = read_verdicts(verdicts, made_by)
    rows = _rows(data, total, seed)
    augment = bool(amounts.pop("augment"))
    taught, counts = lessons(rows, said, own_policy, trust, ids_only=augment)
    kept = _layers(start, layers, keep)
    mixture = Mixture(temperature, weight)
    teaching = Teaching(mixture, teacher, said, trust, start, kept)
    student = start
    if kept is not None:
        from proguard_edge.export.distill import student_of

        student = student_of(start, kept, out)
    amounts = {name: value for name, value in amounts.items() if value is not None}
    run = _Run(student, taught, counts, teaching, out, own_policy, template, seed, as_json)
    folder = run.shared(amounts) if shared_prefix else run.whole(amounts, hide if augment else None)
    for name, count in vars(counts).items():
        if count and name != "taught":
            click.echo(f"{count} rows left out: {name.replace('_', ' ')}", err=True)
    line = {"checkpoint": str(folder), "rows": counts.taught, "counts": vars(counts)}
    click.echo(json.dumps(line) if as_json else folder)


def _check_amounts(shared_prefix: bool, amounts: dict[str, Any]) -> None:
    """Raises UsageError for an option of the other way, or without the length of the run."""
    other = WHOLE if shared_prefix else SHARED
    needed = "tokens" if shared_prefix else "steps"
    wrong = [name for name in other if amounts[name] is not None]
    if wrong:
        which = "with" if shared_prefix else "without"
        raise click.UsageError(
            f"--{wrong[0].replace('_', '-')} has no meaning {which} --shared-prefix"
        )
    if amounts[needed] is None:
        raise click.UsageError(f"--{needed}: how long to train")


def _rows(data: tuple[Path, ...], total: int | None, seed: int) -> list[Row]:
    from proguard_edge.train.sampling import balance
    from proguard_edge.train.sources import read_rows

    rows = [row for path in data for row in read_rows(path)]
    return rows if total is None else balance(rows, total, seed)


def _layers(start: Path, layers: str | None, keep: int | None) -> tuple[int, ...] | None:
    if layers is not None:
        try:
            return tuple(int(i) for i in layers.split(","))
        except ValueError:
            raise click.UsageError(f"--layers {layers!r}: numbers with commas between") from None
    if keep is None:
        return None
    from proguard_edge.export.checkpoint import Checkpoint
    from proguard_edge.export.distill import spread

    kept: tuple[int, ...] = spread(
        keep, int(Checkpoint(start).config.text_config.num_hidden_layers)
    )
    return kept


class _Run:
    """What both ways of training are given."""

    def __init__(
        self,
        student: Path,
        taught: list[Lesson],
        counts: Counts,
        teaching: Teaching,
        out: Path,
        policy: Policy,
        template: str,
        seed: int,
        as_json: bool,
    ) -> None:
        self._student, self._taught, self._counts, self._out = student, taught, counts, out
        self._teaching, self._policy, self._template = teaching, policy, template
        self._seed, self._as_json = seed, as_json

    def shared(self, amounts: dict[str, Any]) -> Path:
        """By `distill_prefix`; returns the checkpoint folder."""
        from proguard_edge.export.distill_prefix import distil_shared
        from proguard_edge.train.prefix_trainer import Schedule

        if response_line_of(self._template) == "always":
            raise click.UsageError(f"--template {self._template}: leave --shared-prefix out")
        folder: Path = distil_shared(
            self._student,
            self._taught,
            self._counts,
            template_named(self._template),
            self._policy,
            self._teaching,
            Schedule(**amounts),
            self._out,
            self._report,
            seed=self._seed,
        )
        return folder

    def whole(self, amounts: dict[str, Any], hide: float | None) -> Path:
        """By `distill`, `hide` as in `train sft --augment`; returns the checkpoint folder."""
        from proguard_edge.export.distill import distil
        from proguard_edge.train.augment import Hiding
        from proguard_edge.train.sft import Settings, builder_of

        builder = builder_of(
            self._student,
            template_named(self._template),
            self._policy,
            hiding=Hiding(hide, hide) if hide is not None else None,
            seed=self._seed,
            response_line=response_line_of(self._template),
        )
        if "part" in amounts:
            amounts["train"] = amounts.pop("part")
        folder: Path = distil(
            self._student,
            self._taught,
            self._counts,
            builder,
            self._teaching,
            Settings(seed=self._seed, **amounts),
            self._out,
            self._report,
        )
        return folder

    def _report(self, line: dict[str, Any]) -> None:
        if self._as_json:
            click.echo(json.dumps(line))
            return
        parts = [f"step {line['step']}"]
        parts += [f"{line['tokens']:,} tokens"] if "tokens" in line else []
        parts += [f"{name} {line[name]:.4f}" for name in ("loss", "hard", "soft") if name in line]
        parts += [f"agreement {line['agreement']:.3f}"] if "agreement" in line else []
        click.echo("  ".join([*parts, f"{line['tokens_per_second']:.0f} tokens/s"]), err=True)
        sys.stderr.flush()
