"""Distillation on whole prompts: the loss of a batch, what a student learns, resuming, errors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tiny import tiny_checkpoint  # noqa: E402

from proguard_edge.errors import (  # noqa: E402
    ArtifactError,
    InputError,
    ProGuardEdgeError,
    TrainingError,
)
from proguard_edge.export.distill import (  # noqa: E402
    Teaching,
    distil,
    spread,
    student_of,
    teacher_for,
)
from proguard_edge.export.distill_batch import (  # noqa: E402
    Distillation,
    LessonSet,
    collate_lessons,
)
from proguard_edge.export.distill_data import Counts, Lesson  # noqa: E402
from proguard_edge.export.distill_loss import Mixture, divergence, two_way  # noqa: E402
from proguard_edge.policy import Policy  # noqa: E402
from proguard_edge.prompt import Template  # noqa: E402
from proguard_edge.train.examples import IGNORE  # noqa: E402
from proguard_edge.train.rows import Row  # noqa: E402
from proguard_edge.train.sft import Settings, builder_of, load_model  # noqa: E402
from proguard_edge.train.sft_data import SampleBuilder  # noqa: E402
from proguard_edge.train.student import make_student  # noqa: E402

POLICY = Policy.default().subset(["C10S2", "C8S1"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "checkpoint", seed=3)


@pytest.fixture(scope="module")
def builder(tiny: Path) -> SampleBuilder:
    return builder_of(tiny, Template.named("compact"), POLICY, hiding=None, seed=1)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Texts, a response of which the request is unlabelled, and a picture."""
    Image.new("RGB", (84, 84), (220, 20, 20)).save(tmp_path / "red.png")
    fields: list[dict[str, Any]] = [
        {"user": "how to bake bread", "request_label": "safe"},
        {"user": "how to hurt a man", "request_label": "unsafe", "category": "C8S1"},
        {"user": "what is rye, and where?", "response": "a grain", "response_label": "safe"},
        {"image": str(tmp_path / "red.png"), "request_label": "unsafe", "category": "C10S2"},
    ]
    base = {"source": "s", "licence": "MIT"}
    return [Row.from_dict({"id": str(n), **base, **row}) for n, row in enumerate(fields)]


def batch_of(lessons: Sequence[Lesson], builder: SampleBuilder, model: Any) -> dict[str, Any]:
    data = LessonSet(lessons, builder, Counts())
    size = model.config.vision_config.spatial_merge_size
    items = [data[i] for i in range(len(data))]
    return collate_lessons(items, image_token_id=model.config.image_token_id, merge_size=size)


@torch.no_grad()
def expected_loss(
    mixture: Mixture, student: Any, teacher: Any, batch: dict[str, Any]
) -> tuple[float, float]:
    """The two parts from all logits of every row, position by position."""
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "decisions", "said")}
    logits, others = student(**inputs).logits, teacher(**inputs).logits
    decided = {(int(r), int(p)) for r, p, _, _ in batch["decisions"]}
    hard, words = [], []
    for row, labels in enumerate(batch["labels"]):
        for place in range(1, len(labels)):
            if labels[place] == IGNORE:
                continue
            own, other = logits[row, place - 1], others[row, place - 1]
            hard.append(-float(own.log_softmax(-1)[labels[place]]))
            if (row, place - 1) not in decided:
                words.append(float(divergence(other[None], own[None], mixture.temperature)))
    labels = []
    for (r, p, safe, unsafe), said in zip(batch["decisions"], batch["said"], strict=True):
        own, other = (x[r, p, unsafe] - x[r, p, safe] for x in (logits, others))
        target = other if said.isnan() else said
        labels.append(
            float(divergence(two_way(target[None]), two_way(own[None]), mixture.temperature))
        )
    mean = [sum(x) / len(x) for x in (hard, words, labels)]
    return mean[0], mixture.temperature**2 * (mean[1] + mean[2])


def test_the_loss_of_a_padded_batch_is_that_of_every_position_by_itself(
    tiny: Path, teacher: Path, builder: SampleBuilder, rows: list[Row]
) -> None:
    student, other = load_model(tiny).eval(), teacher_for(tiny, teacher)
    lessons = [Lesson(row, (1.5,) if row.id == "1" else ()) for row in rows]
    batch = batch_of(lessons, builder, student)
    assert batch["said"].isnan().tolist() == [True, False, True, True, True]
    mixture = Mixture(2.0, 0.25)
    hard, soft = expected_loss(mixture, student, other, batch)
    loss = Distillation(mixture, other)
    with torch.no_grad():
        found = loss(student, dict(batch))
    assert float(found) == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-4)
    assert loss.figures() == {
        "hard": pytest.approx(hard, abs=1e-3),
        "soft": pytest.approx(soft, abs=1e-3),
        "agreement": pytest.approx(0.5, abs=0.51),
    }


def test_a_model_that_is_its_own_teacher_has_no_soft_loss(
    tiny: Path, builder: SampleBuilder, rows: list[Row]
) -> None:
    model = load_model(tiny).eval()
    batch = batch_of([Lesson(row) for row in rows], builder, model)
    loss = Distillation(Mixture(2.0, 1.0), teacher_for(tiny, tiny))
    with torch.no_grad():
        assert float(loss(model, batch)) == pytest.approx(0, abs=1e-5)
    assert loss.figures()["agreement"] == 1


def test_decisions_stand_where_the_labels_of_the_answer_do(
    tiny: Path, builder: SampleBuilder, rows: list[Row]
) -> None:
    batch = batch_of([Lesson(row) for row in rows], builder, load_model(tiny))
    decode = builder.encoder.decode
    said = [
        (row, decode([batch["input_ids"][row, place + 1]]), decode([safe]), decode([unsafe]))
        for row, place, safe, unsafe in batch["decisions"].tolist()
    ]
    assert {safe.strip(": ") for _, _, safe, _ in said} == {"safe"}
    assert {unsafe.strip(": ")[:2] for _, _, _, unsafe in said} == {"un"}
    assert [row for row, *_ in said] == [0, 1, 2, 2, 3]
    assert [word.strip(": ") for row, word, *_ in said if row != 2] == ["safe", "unsafe", "unsafe"]


def test_a_student_comes_nearer_to_its_teacher_on_texts_and_pictures(
    tiny: Path, teacher: Path, builder: SampleBuilder, rows: list[Row], tmp_path: Path
) -> None:
    teaching = Teaching(Mixture(1.0, 1.0), teacher, start=tiny)
    settings = Settings(steps=30, batch=4, rate=3e-3, train="all")
    lines: list[dict[str, Any]] = []
    out = tmp_path / "run"
    lessons, counts = [Lesson(row) for row in rows], Counts()
    folder = distil(tiny, lessons, counts, builder, teaching, settings, out, lines.append)

    def distance(checkpoint: Path) -> float:
        model = load_model(checkpoint).eval()
        loss = Distillation(Mixture(1.0, 1.0), teacher_for(tiny, teacher))
        with torch.no_grad():
            return float(loss(model, batch_of(lessons, builder, model)))

    assert distance(folder) < 0.5 * distance(tiny)
    assert lines[-1]["agreement"] == 1
    assert lines[-1]["tokens_per_second"] > 0
    assert len((out / "log.jsonl").read_text().splitlines()) == len(lines)
    record = json.loads((folder / "training.json").read_text())
    assert record["method"] == "distillation"
    assert len(record["teacher"]) == 64
    assert (record["temperature"], record["weight"], record["trust"]) == (1.0, 1.0, "rows")
    assert record["rows"] == {"s (MIT)": 4}


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    tiny: Path, teacher: Path, builder: SampleBuilder, rows: list[Row], tmp_path: Path
) -> None:
    lessons, teaching = [Lesson(row) for row in rows], Teaching(Mixture(), teacher)
    settings = Settings(steps=10, batch=2, accumulate=2, rate=1e-3, save_every=4)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] >= 6:
            raise KeyboardInterrupt

    def run(name: str, *report: Any) -> Path:
        arguments = (tiny, lessons, Counts(), builder, teaching, settings, tmp_path / name)
        return distil(*arguments, *report)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    steps: list[int] = []
    resumed = run("stopped", lambda line: steps.append(line["step"]))
    assert min(steps) > 4
    one, other = (load_model(folder).state_dict() for folder in (whole, resumed))
    start = load_model(tiny).state_dict()
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - other[name]).abs().max()) for name in one)
    # Float32 sums in another order at most; an optimizer begun anew would differ by about `moved`.
    assert apart < 1e-5 < moved / 100


def test_another_teaching_in_the_same_folder_is_an_error(
    tiny: Path, builder: SampleBuilder, rows: list[Row], tmp_path: Path
) -> None:
    def run(weight: float, steps: int) -> Path:
        teaching = Teaching(Mixture(2.0, weight), tiny)
        settings = Settings(steps=steps, batch=1)
        return distil(
            tiny, [Lesson(rows[0])], Counts(), builder, teaching, settings, tmp_path / "r"
        )

    run(0.5, 1)
    run(0.5, 2)
    with pytest.raises(TrainingError, match="begun with other weight"):
        run(0.75, 2)


def test_accumulated_batches_weigh_as_one(
    tiny: Path, builder: SampleBuilder, rows: list[Row], tmp_path: Path
) -> None:
    """One row in two batches of a step moves the weights as in one batch."""
    lessons = [Lesson(rows[1], (2.0,)), replace(Lesson(rows[1], (2.0,)))]
    moved = []
    for batch, accumulate in ((2, 1), (1, 2)):
        settings = Settings(steps=1, batch=batch, accumulate=accumulate, rate=1e-3)
        teaching, out = Teaching(Mixture()), tmp_path / str(batch)
        logged: list[dict[str, Any]] = []
        distil(tiny, lessons, Counts(), builder, teaching, settings, out, logged.append)
        moved.append(logged[0]["loss"])
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)


def test_only_what_the_student_reads_whole_is_taught(
    builder: SampleBuilder, rows: list[Row]
) -> None:
    long = replace(rows[0], user="word " * 600)
    counts = Counts()
    data = LessonSet(
        [Lesson(long, (3.0,)), Lesson(long, (-3.0,)), Lesson(long), Lesson(rows[2], (3.0, -1.0))],
        builder,
        counts,
    )
    assert [lesson.differences for lesson in data.lessons] == [(-3.0,), (), (3.0, -1.0)]
    assert counts.too_long == 1
    with pytest.raises(InputError, match="no row has both"):
        LessonSet([Lesson(replace(rows[0], request_label=None))], builder, counts)


def test_kept_layers_are_spread_and_hold_both_ends() -> None:
    assert spread(15, 30) == (0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29)
    assert spread(2, 30) == (0, 29)
    assert spread(5, 5) == (0, 1, 2, 3, 4)
    for keep in (1, 31):
        with pytest.raises(InputError, match="has 30 layers"):
            spread(keep, 30)


def test_a_student_is_cut_out_once(tmp_path: Path, teacher: Path) -> None:
    deep = tiny_checkpoint(tmp_path / "deep", layers=4)
    made = student_of(deep, (0, 3), tmp_path)
    weights = load_model(made).state_dict()
    source = load_model(deep).state_dict()
    name = "model.language_model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(weights[name.format(1)], source[name.format(3)])
    assert name.format(2) not in weights
    before = (made / "model.safetensors").stat().st_mtime_ns
    student_of(deep, (0, 3), tmp_path)
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    for checkpoint, layers in ((deep, (0, 2)), (teacher, (0, 3))):
        with pytest.raises(TrainingError, match="other layers"):
            student_of(checkpoint, layers, tmp_path)
    with pytest.raises(ArtifactError, match="has layers 0 to 3"):
        student_of(deep, (0, 4), tmp_path / "other")


def test_a_teacher_that_cannot_read_the_students_ids_is_an_error(
    tiny: Path, tmp_path: Path
) -> None:
    make_student(tiny, tmp_path / "words", (0, 1), 300)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "pictures").mkdir()
    for file in tiny.iterdir():
        (tmp_path / "pictures" / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny / "config.json").read_text())
    config["vision_config"]["patch_size"] = 16
    (tmp_path / "pictures" / "config.json").write_text(json.dumps(config))
    for name, message in (
        ("words", "another vocabulary .* --verdicts"),
        ("bare", r"no tokenizer\.json"),
        ("pictures", "another patch_size"),
    ):
        with pytest.raises(ProGuardEdgeError, match=message):
            teacher_for(tiny, tmp_path / name)


def test_an_unknown_difference_is_nan(builder: SampleBuilder, rows: list[Row]) -> None:
    data = LessonSet([Lesson(rows[2]), Lesson(rows[2], (1.0, 2.0))], builder, Counts())
    assert [math.isnan(x) for x in data[0].differences] == [True, True]
    assert data[1].differences == (1.0, 2.0)
