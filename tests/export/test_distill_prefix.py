"""Distillation on a shared prefix: the loss against whole prompts, learning, resuming, errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import torch.nn.functional as F  # noqa: E402
from artifacts import contents  # noqa: E402
from tiny import tiny_checkpoint  # noqa: E402

from proguard_edge.cache import Cache  # noqa: E402
from proguard_edge.errors import ArtifactError, InputError, TrainingError  # noqa: E402
from proguard_edge.export.distill import Teaching, student_of, teacher_for  # noqa: E402
from proguard_edge.export.distill_data import Counts, Lesson  # noqa: E402
from proguard_edge.export.distill_loss import Mixture, divergence, two_way  # noqa: E402
from proguard_edge.export.distill_prefix import (  # noqa: E402
    Distiller,
    Taught,
    distil_shared,
    taught_examples,
)
from proguard_edge.export.transformers_artifact import export_transformers  # noqa: E402
from proguard_edge.guard import Guard  # noqa: E402
from proguard_edge.policy import Policy  # noqa: E402
from proguard_edge.prompt import PromptEncoder, Template  # noqa: E402
from proguard_edge.train.examples import IGNORE  # noqa: E402
from proguard_edge.train.mixture import prompting_of  # noqa: E402
from proguard_edge.train.prefix_trainer import FORMAT_WEIGHT, Schedule, pad  # noqa: E402
from proguard_edge.train.rows import Row  # noqa: E402
from proguard_edge.train.sft import load_model  # noqa: E402

POLICY = Policy.default().subset(["C10S2", "C8S1"])
COMPACT = Template.named("compact")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "checkpoint", seed=3)


def row(name: str, **fields: Any) -> Row:
    return Row.from_dict({"id": name, "source": "s", "licence": "MIT", **fields})


ROWS = [
    row("a", user="how to bake bread", request_label="safe"),
    row("b", user="how to hurt a man", request_label="unsafe", category="C8S1"),
    row("c", user="what is rye, and where?", response="a grain", response_label="safe"),
    row("d", user="hit him", response="do it", request_label="unsafe", response_label="unsafe"),
]


def examples_of(checkpoint: Path, lessons: list[Lesson]) -> list[Taught]:
    prompting, _ = prompting_of(checkpoint, COMPACT, POLICY)
    encoder = PromptEncoder(checkpoint / "tokenizer.json", COMPACT, POLICY)
    return taught_examples(lessons, Counts(), prompting, encoder, 0)[1]


def distiller(
    checkpoint: Path, state: Path, mixture: Mixture, teacher: Path | None, **plan: Any
) -> Distiller:
    prompting, prefix = prompting_of(checkpoint, COMPACT, POLICY)
    model = teacher_for(checkpoint, teacher) if teacher else None
    return Distiller(checkpoint, state, prompting, prefix, Schedule(**plan), mixture, model)


@torch.no_grad()
def expected_loss(run: Distiller, batch: list[Taught], teacher: Any) -> tuple[float, float]:
    """The two parts from whole prompts through the models' own forward, position by position."""
    safe, unsafe = run.labels.tolist()
    hard, rest, words, labels = [], [], [], []
    for example in batch:
        ids = torch.tensor([[*run.prefix_ids.tolist(), *example.ids]])
        start = len(run.prefix_ids)
        own, other = (m(input_ids=ids).logits[0, start:] for m in (run.model, teacher))
        for place, said in zip(example.decided_at, example.differences, strict=True):
            gap, known = (x[place, unsafe] - x[place, safe] for x in (own, other))
            target = known if math.isnan(said) else torch.tensor(said)
            pair = two_way(target[None]), two_way(gap[None])
            labels.append(float(divergence(*pair, run.mixture.temperature)))
            if place in example.label_at:
                right = gap if example.targets[place] == unsafe else -gap
                hard.append(-float(F.logsigmoid(right)))
        for place, target in enumerate(example.targets):
            if target != IGNORE and place not in example.decided_at:
                rest.append(-float(own[place].log_softmax(-1)[target]))
                pair = other[place][None], own[place][None]
                words.append(float(divergence(*pair, run.mixture.temperature)))
    hard_part = sum(hard) / len(hard) + FORMAT_WEIGHT * sum(rest) / len(rest)
    soft = sum(words) / len(words) + sum(labels) / len(labels)
    return hard_part, run.mixture.temperature**2 * soft


def test_the_loss_on_a_shared_prefix_is_that_of_whole_prompts(
    tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    lessons = [Lesson(r, (1.5,) if r.id == "b" else ()) for r in ROWS]
    batch = examples_of(tiny, lessons)
    assert [len(e.decided_at) for e in batch] == [1, 1, 2, 2]
    run = distiller(tiny, tmp_path / "state", Mixture(2.0, 0.25), teacher, tokens=100)
    ids = pad([e.ids for e in batch], 0)
    with torch.no_grad():
        found = run.loss(batch, ids, run.lm.hidden(ids, run.lm.prefix(run.prefix_ids)))
    hard, soft = expected_loss(run, batch, load_model(teacher).eval())
    assert float(found) == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-4)


def test_a_model_that_is_its_own_teacher_has_no_soft_loss(tiny: Path, tmp_path: Path) -> None:
    batch = examples_of(tiny, [Lesson(r) for r in ROWS])
    run = distiller(tiny, tmp_path / "state", Mixture(2.0, 1.0), tiny, tokens=100)
    ids = pad([e.ids for e in batch], 0)
    with torch.no_grad():
        loss = run.loss(batch, ids, run.lm.hidden(ids, run.lm.prefix(run.prefix_ids)))
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert run.figures.take()["agreement"] == 1


def test_a_student_with_half_the_layers_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    deep = tiny_checkpoint(tmp_path / "deep", seed=5, layers=4)
    student, out = student_of(deep, (0, 3), tmp_path), tmp_path / "run"
    lines: list[dict[str, Any]] = []
    lessons = [Lesson(r) for r in ROWS]
    teaching = Teaching(Mixture(1.0, 1.0), deep, start=deep, layers=(0, 3))
    schedule = Schedule(tokens=9000, rounded_tokens=500, rate=3e-3)
    counts = Counts()
    folder = distil_shared(
        student, lessons, counts, COMPACT, POLICY, teaching, schedule, out, lines.append
    )

    def distance(checkpoint: Path) -> float:
        run = distiller(checkpoint, tmp_path / "none", Mixture(1.0, 1.0), deep, tokens=1)
        batch = examples_of(checkpoint, lessons)
        ids = pad([e.ids for e in batch], 0)
        with torch.no_grad():
            return float(run.loss(batch, ids, run.lm.hidden(ids, run.lm.prefix(run.prefix_ids))))

    assert distance(folder) < 0.5 * distance(student)
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert logged == lines
    assert lines[-1]["tokens"] >= 9500
    # All weight is the teacher's here, and each line holds the means since the one before.
    assert all(line["loss"] == pytest.approx(line["soft"], abs=2e-4) for line in lines)
    assert lines[-1]["tokens_per_second"] > 0
    record = json.loads((folder / "training.json").read_text())
    assert record["layers"] == [0, 3]
    assert record["rows"] == {"s (MIT)": 4}
    assert record["tokens"] == lines[-1]["tokens"]
    assert record["settings"]["rounded_tokens"] == 500


def test_a_student_of_verdicts_alone_says_what_the_teacher_said(tiny: Path, tmp_path: Path) -> None:
    """Through the runtime, on the rows that it was taught, whatever their words mean."""
    said = {"a": "unsafe", "b": "safe", "e": "unsafe", "f": "safe"}
    lessons = []
    for number, (name, label) in enumerate(said.items()):
        unsafe = label == "unsafe"
        labelled = row(
            name,
            user=f"how to {name * 3} bread {number}",
            request_label=label,
            category="C8S1" if unsafe else None,
        )
        lessons.append(Lesson(labelled, (3.0 if unsafe else -3.0,)))
    teaching, schedule = Teaching(Mixture(2.0, 0.75)), Schedule(tokens=9000, rate=3e-3)
    folder = distil_shared(
        tiny, lessons, Counts(), COMPACT, POLICY, teaching, schedule, tmp_path / "run"
    )
    artifact = tmp_path / "artifact"
    export_transformers(folder, artifact, contents("compact", policy=POLICY))
    with Guard.load(artifact, cache=Cache(None)) as guard:
        for lesson in lessons:
            verdict = guard.moderate(lesson.row.user)
            assert verdict.request.label == said[lesson.row.id]
            # The teacher was 95 % sure, and the student learns no more than that by heart.
            assert max(verdict.score, 1 - verdict.score) == pytest.approx(0.95, abs=0.045)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    tiny: Path, teacher: Path, tmp_path: Path
) -> None:
    lessons = [Lesson(replace(r, id=f"{r.id}{n}")) for n in range(30) for r in ROWS]
    schedule = Schedule(tokens=16000, rounded_tokens=3000, rate=1e-3, save_every=0)
    teaching = Teaching(Mixture(), teacher)

    def run(name: str, *report: Any) -> Path:
        out = tmp_path / name
        arguments = (tiny, lessons, Counts(), COMPACT, POLICY, teaching, schedule, out)
        return distil_shared(*arguments, *report)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 10:
            raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    # Saved at the sixth step: four are done again.
    assert torch.load(tmp_path / "stopped" / "state.pt", weights_only=False)["step"] == 6
    steps: list[int] = []
    resumed = run("stopped", lambda line: steps.append(line["step"]))
    assert steps[0] == 10
    one, other = (load_model(folder).state_dict() for folder in (whole, resumed))
    start = load_model(tiny).state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    # Float32 sums in another order at most; an optimizer begun anew would differ by about `moved`.
    assert apart < 1e-5 < moved / 50
    with pytest.raises(TrainingError, match="begun with other teacher"):
        distil_shared(
            tiny,
            lessons,
            Counts(),
            COMPACT,
            POLICY,
            Teaching(Mixture(), tiny),
            schedule,
            tmp_path / "stopped",
        )


def test_what_cannot_share_a_prefix_is_an_error(tiny: Path, tmp_path: Path) -> None:
    def run(lessons: list[Lesson], template: Template = COMPACT) -> Path:
        teaching, schedule = Teaching(Mixture()), Schedule(tokens=1)
        return distil_shared(
            tiny, lessons, Counts(), template, POLICY, teaching, schedule, tmp_path / "run"
        )

    with pytest.raises(InputError, match="a row with a picture; leave --shared-prefix out"):
        run([Lesson(row("p", user="look", image="p.png", request_label="safe"))])
    with pytest.raises(InputError, match="no row has both"):
        run([Lesson(row("u", user="hi"))])
    source = COMPACT.source.replace("Say safe", "{% if has_response %}Now{% endif %} say safe")
    with pytest.raises(ArtifactError, match="no prefix that all rows share"):
        run([Lesson(ROWS[0])], Template(source))
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        distil_shared(
            tmp_path,
            [Lesson(ROWS[0])],
            Counts(),
            COMPACT,
            POLICY,
            Teaching(Mixture()),
            Schedule(tokens=1),
            tmp_path / "run",
        )


def test_an_unsafe_verdict_on_a_text_that_is_cut_is_left_out(tiny: Path) -> None:
    prompting, _ = prompting_of(tiny, COMPACT, POLICY)
    encoder = PromptEncoder(tiny / "tokenizer.json", COMPACT, POLICY)
    long, counts = replace(ROWS[1], user="word " * 300), Counts()
    lessons = [Lesson(long, (2.0,)), Lesson(long, (-2.0,)), Lesson(long)]
    kept, _ = taught_examples(lessons, counts, prompting, encoder, 0)
    assert [lesson.differences for lesson in kept] == [(-2.0,), ()]
    assert counts.too_long == 1
