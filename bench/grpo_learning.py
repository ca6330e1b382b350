"""What a learning run of `train grpo` on a CPU begins with: rows, a policy and a small student.

    python -m proguard_edge.bench.grpo_learning DATA CHECKPOINT OUT
    proguard-edge train grpo --profile cpu-smoke --model OUT/sft/checkpoint \
        --data OUT/train.jsonl --validation OUT/held_out.jsonl --policy OUT/policy.yaml ...

DATA is a folder of labelled rows, CHECKPOINT the starter's. The policy has six categories with
short names, so that a prompt takes about 100 tokens. The student, five layers of the starter and
8,192 of its words, learns the form of an answer, a part of the categories, and that a hidden one
is answered by a name: what is left is what the reward is to teach.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from proguard_edge.cli.exit import handle_errors
from proguard_edge.policy import Category, Policy
from proguard_edge.template import Template
from proguard_edge.train.augment import Hiding
from proguard_edge.train.contrast import contrast_rows
from proguard_edge.train.rows import Row, read_folder, write_jsonl

LAYERS = (0, 1, 2, 3, 29)
VOCABULARY = 8192
CHARACTERS = 220
OF_A_CATEGORY = 500
SAFE = 1800
SAFE_INSTRUCTIONS = 400
HELD_OUT = 300

# The default policy's main category, and what the small policy calls it.
KINDS = {
    "C1": ("Copyright", ("Piracy", "Plagiarism", "Stolen works")),
    "C4": ("Hacking", ("Computer misuse", "Cyber attacks", "Malware")),
    "C6": ("Fraud", ("Financial crime", "Scams", "Money laundering")),
    "C7": ("Hate", ("Bigotry", "Racism", "Attacks on groups")),
    "C8": ("Drugs and weapons", ("Dangerous goods", "Explosives", "Poisons")),
    "C9": ("Violence", ("Physical harm", "Injury", "Killing")),
}


def small_policy() -> Policy:
    """The six categories of `KINDS`, each with three synonyms."""
    return Policy(
        name="kinds",
        version="1",
        categories=tuple(
            Category(f"C{number}", name, synonyms=synonyms)
            for number, (name, synonyms) in enumerate(KINDS.values(), 1)
        ),
    )


def draw(rows: Iterable[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows: short requests that are safe or of a category of `KINDS`."""
    renamed = {old: f"C{number}" for number, old in enumerate(KINDS, 1)}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.user or row.image or len(row.user) >= CHARACTERS or row.request_label is None:
            continue
        category = None
        if row.request_label == "unsafe":
            category = renamed.get((row.category or "").split("S")[0])
            if category is None:
                continue
        group = category or ("instructions" if row.source == "alpaca" else "safe")
        groups[group].append(replace(row, response=None, response_label=None, category=category))
    rng = random.Random(seed)
    caps = {"safe": SAFE, "instructions": SAFE_INSTRUCTIONS}
    chosen: list[Row] = []
    for name, members in sorted(groups.items()):
        rng.shuffle(members)
        chosen += members[: caps.get(name, OF_A_CATEGORY)]
    rng.shuffle(chosen)
    held = [row for row in chosen if row.in_held_out(12)][:HELD_OUT]
    gone = {row.id for row in held}
    return [row for row in chosen if row.id not in gone], held


def epochs(rows: list[Row], count: int) -> list[Row]:
    """The rows `count` times under ids of their own: augmentation gives each another policy."""
    return [replace(row, id=f"{row.id}#{n}") for n in range(count) for row in rows]


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1), default=500, show_default=True, help="Of SFT.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True)
@click.option("--rate", type=float, default=4e-4, show_default=True)
@click.option("--hide", type=float, default=0.3, show_default=True)
@handle_errors
def main(
    data: Path, checkpoint: Path, out: Path, steps: int, batch: int, rate: float, hide: float
) -> None:
    """Rows, policy and a supervised student to begin a learning run with."""
    from proguard_edge.train.sft import Settings, builder_of, fine_tune
    from proguard_edge.train.student import make_student

    out.mkdir(parents=True, exist_ok=True)
    policy = small_policy()
    (out / "policy.yaml").write_text(policy.to_yaml(), encoding="utf-8")
    rows, held = draw([*read_folder(data), *(Row.from_dict(r) for r in contrast_rows(0))])
    write_jsonl(out / "train.jsonl", rows)
    write_jsonl(out / "held_out.jsonl", held)
    click.echo(f"{len(rows)} rows to train on, {len(held)} held out")
    student = out / "student"
    if not (student / "config.json").is_file():
        size = make_student(checkpoint, student, LAYERS, VOCABULARY)
        click.echo(f"student: {size / 1e6:.1f} M parameters")
    builder = builder_of(
        student, Template.named("compact"), policy, hiding=Hiding(hide, 0.0), seed=1
    )
    needed = -(-steps * batch // len(rows))
    settings = Settings(steps=steps, batch=batch, rate=rate, train="all", save_every=100)

    def report(line: dict[str, Any]) -> None:
        click.echo(line)

    folder = fine_tune(student, epochs(rows, needed), builder, settings, out / "sft", report)
    click.echo(folder)


if __name__ == "__main__":
    main()
