"""What checkpoints answer to rows that they were not trained on, in the terms of `train grpo`.

    python -m proguard_edge.train.held_out BEFORE AFTER --data ROWS --similarity FOLDER --out R.json

Each row is put under a policy of its own, the same for all checkpoints. Each checkpoint answers it
once greedily and `--samples` times at temperature 1, which is what GRPO sees. Where the true
category is in the policy an id is right, where it is hidden a name: the reward is given for both
apart, with 95 % bootstrap intervals over rows, and for what it gained over the first checkpoint.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from proguard_edge.cli.exit import handle_errors
from proguard_edge.cli.options import TEMPLATES, hide_option, prompting_of
from proguard_edge.errors import InputError
from proguard_edge.train.reward import Reward, reward
from proguard_edge.train.similarity import SentenceSimilarity, Similarity
from proguard_edge.train.sources import read_rows
from proguard_edge.train.verl.dataset import Builder, Example
from proguard_edge.train.verl.generate import Generator, Job, Sampling

KINDS = ("safe", "in policy", "hidden")
RESAMPLES = 2000


@dataclass(frozen=True)
class Answered:
    """The rewards of a checkpoint's greedy answer to a row, and of its sampled ones.

    kind: one of `KINDS`, or "unnamed". unsafe: the request's label, None where nobody gave it.
    """

    kind: str
    unsafe: bool | None
    greedy: Reward
    sampled: tuple[Reward, ...]


# Of each row a numerator and a denominator, [rows, 2]: a mean, and F1, are ratios of their sums.
Measure = Callable[[Sequence[Answered]], NDArray[np.float64]]


def answer_rows(
    checkpoint: Path,
    examples: Sequence[Example],
    builder: Builder,
    similarity: Similarity,
    samples: int,
    max_tokens: int,
    *,
    reasoning: bool,
    seed: int = 0,
) -> list[Answered]:
    """What a checkpoint answers. Raises OSError where there is none."""
    import torch

    generator = Generator.load(checkpoint)
    jobs = [Job(tuple(example.ids), _pictures(example)) for example in examples]
    torch.manual_seed(seed)

    def judged(each: int, sampling: Sampling) -> list[Reward]:
        order = [i for i in range(len(jobs)) for _ in range(each)]
        answers = generator([jobs[i] for i in order], sampling)
        return [
            _reward(
                _text(builder, answer.ids, generator.end_ids), examples[i], similarity, reasoning
            )
            for i, answer in zip(order, answers, strict=True)
        ]

    greedy = judged(1, Sampling(max_tokens, temperature=0.0))
    sampled = judged(samples, Sampling(max_tokens))
    return [
        Answered(
            kind=_kind(example),
            unsafe=_unsafe(example),
            greedy=greedy[i],
            sampled=tuple(sampled[i * samples : (i + 1) * samples]),
        )
        for i, example in enumerate(examples)
    ]


def summarize(answers: Sequence[Answered], before: Sequence[Answered]) -> dict[str, Any]:
    """Means with intervals, and differences to the same rows of `before`.

    "request_f1": of the unsafe class, greedy; an answer out of format counts as wrong.
    """
    found: dict[str, Any] = {"request_f1": _interval(_f1, answers, before)}
    for how in ("greedy", "sampled"):
        part: dict[str, Any] = {}
        for name in ("total", "format", "request", "category"):
            part[name] = _interval(_mean(how, name), answers, before)
        for kind in KINDS:
            chosen = [i for i, a in enumerate(answers) if a.kind == kind]
            if chosen:
                part[f"category, {kind}"] = _interval(
                    _mean(how, "category"),
                    [answers[i] for i in chosen],
                    [before[i] for i in chosen],
                )
        found[how] = part
    return found


def _interval(
    measure: Measure, after: Sequence[Answered], before: Sequence[Answered]
) -> dict[str, Any]:
    """The measure, what it gained, and 95 % of the bootstrap over rows for both."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(after), (RESAMPLES, len(after)))
    now, then = measure(after), measure(before)
    values = _ratio(now[draws])
    whole, whole_before = float(_ratio(now)), float(_ratio(then))
    return {
        "rows": len(after),
        "value": round(whole, 4),
        "interval": _ends(values),
        "gain": round(whole - whole_before, 4),
        "gain_interval": _ends(values - _ratio(then[draws])),
    }


def _ratio(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of numerators over sum of denominators of [..., rows, 2]; 0 over 0 is 0."""
    above, below = np.moveaxis(shares.sum(-2), -1, 0)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))


def _ends(values: Any) -> list[float]:
    return [round(float(v), 4) for v in np.quantile(values, (0.025, 0.975))]


def _mean(how: str, name: str) -> Measure:
    def measure(answers: Sequence[Answered]) -> NDArray[np.float64]:
        rewards = [(a.greedy,) if how == "greedy" else a.sampled for a in answers]
        sums = [sum(getattr(r, name) for r in found) for found in rewards]
        return np.array([sums, [len(found) for found in rewards]], np.float64).T

    return measure


def _f1(answers: Sequence[Answered]) -> NDArray[np.float64]:
    labelled = np.array([a.unsafe is not None for a in answers])
    right = np.array([a.greedy.request > 0 for a in answers]) & labelled
    hits = 2.0 * (right & np.array([bool(a.unsafe) for a in answers]))
    return np.stack([hits, hits + (labelled & ~right)], 1)


def _reward(text: str, example: Example, similarity: Similarity, reasoning: bool) -> Reward:
    info = example.record["extra_info"]
    return reward(
        text,
        example.task.target,
        frozenset(example.task.policy.ids),
        similarity,
        info["modality"],
        response_line=info["response_line"],
        reasoning=reasoning,
    )


def _kind(example: Example) -> str:
    target = example.task.target
    if not target.unsafe:
        return "safe"
    if target.category is not None:
        return "in policy"
    return "hidden" if target.ood_name is not None else "unnamed"


def _unsafe(example: Example) -> bool | None:
    label = example.task.target.request
    return None if label is None else label == "unsafe"


def _text(builder: Builder, ids: list[int], ends: Sequence[int]) -> str:
    return str(builder.decode(ids[:-1] if ids and ids[-1] in ends else ids))


def _pictures(example: Example) -> tuple[Any, ...]:
    from PIL import Image

    return tuple(Image.open(io.BytesIO(i["bytes"])) for i in example.record["images"])


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Labelled rows.")
@click.option("--similarity", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file.")
@click.option("--policy", default="default", show_default=True)
@click.option("--template", default="proguard", metavar=f"FILE|{'|'.join(TEMPLATES)}")
@click.option("--reasoning/--no-reasoning", default=True, show_default=True)
@hide_option
@click.option("--samples", type=click.IntRange(0), default=4, show_default=True, help="A row.")
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@handle_errors
def main(
    checkpoints: tuple[Path, ...],
    data: Path,
    similarity: Path,
    out: Path | None,
    policy: str,
    template: str,
    reasoning: bool,
    hide: float,
    samples: int,
    max_tokens: int,
    seed: int,
) -> None:
    """Rewards of checkpoints on held-out rows; gains are over the first."""
    builder = Builder(prompting_of(checkpoints[0], template, policy, reasoning, hide))
    rows = read_rows(data)
    examples = [e for row in rows if (e := builder.example(row, seed, "held out")) is not None]
    if not examples:
        raise InputError(f"{data}: no row can be judged: {builder.counts}")
    embeddings = SentenceSimilarity(similarity)
    found: list[dict[str, Any]] = []
    first: list[Answered] = []
    for checkpoint in checkpoints:
        answers = answer_rows(
            checkpoint,
            examples,
            builder,
            embeddings,
            samples,
            max_tokens,
            reasoning=reasoning,
            seed=seed,
        )
        first = first or answers
        found.append({"checkpoint": checkpoint.name, **summarize(answers, first)})
        click.echo(_line(checkpoint, found[-1]))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _line(checkpoint: Path, found: dict[str, Any]) -> str:
    parts = {"F1": found["request_f1"], **found["greedy"]}
    shown = (f"{name} {p['value']:.3f} ({p['gain']:+.3f})" for name, p in parts.items())
    return f"{checkpoint}: " + "  ".join(shown)


if __name__ == "__main__":
    main()
