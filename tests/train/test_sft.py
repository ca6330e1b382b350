"""Supervised fine-tuning: what a sample teaches, that training sees what the runtime sees, and that
a checkpoint learns from text and from pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("accelerate")

from artifacts import contents

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine.transformers import TransformersEngine
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.guard import Guard
from proguard_edge.policy import Policy
from proguard_edge.prompt import Template
from proguard_edge.train.augment import Hiding
from proguard_edge.train.examples import IGNORE
from proguard_edge.train.rows import Row
from proguard_edge.train.sft import Settings, builder_of, fine_tune
from proguard_edge.train.sft_data import SampleBuilder, collate


def row(name: str, **fields: object) -> Row:
    return Row.from_dict({"id": name, "source": "s", "licence": "MIT", **fields})


@pytest.fixture
def builder(tiny: Path) -> SampleBuilder:
    policy = Policy.default()
    return builder_of(tiny, Template.named("compact"), policy, hiding=None, seed=1)


def taught(builder: SampleBuilder, row: Row) -> str:
    """The text of a sample's targets, unlabelled tokens as ~."""
    sample = builder(row)
    answer = sample.ids[next(i for i, t in enumerate(sample.targets) if t != IGNORE) :]
    targets = sample.targets[-len(answer) :]
    return "".join("~" if t == IGNORE else builder.encoder.decode([t]) for t in targets)


def test_every_token_of_a_labelled_answer_is_taught(builder: SampleBuilder) -> None:
    raw = row("a", user="hi", request_label="unsafe", category="C8S1")
    expected = "<answer>\nRequest:unsafe\nCategory:C8S1\n</answer><|im_end|>"
    assert taught(builder, raw) == expected


def test_an_unlabelled_request_is_not_taught_and_the_answer_ends_behind_the_labels(
    builder: SampleBuilder,
) -> None:
    raw = row("a", user="hi", response="no", response_label="unsafe")
    said = taught(builder, raw)
    assert "~" in said
    assert "safe" not in said.partition("Response")[0]
    assert said.endswith("esponse:unsafe")


def test_an_unknown_category_of_an_unsafe_row_is_not_taught(builder: SampleBuilder) -> None:
    assert taught(builder, row("a", user="hi", request_label="unsafe")).endswith("Request:unsafe")


def test_an_augmented_sample_names_what_its_policy_hides(tiny: Path) -> None:
    policy = Policy.default()
    builder = builder_of(tiny, Template.named("compact"), policy, hiding=Hiding(), seed=1)
    answers = {
        taught(builder, row(f"r{n}", user="hi", request_label="unsafe", category="C8S1"))
        for n in range(60)
    }
    categories = {answer.partition("Category:")[2].partition("\n")[0] for answer in answers}
    assert policy.get("C8S1").name in categories
    assert len(categories) > 8, "ids are shuffled"


def test_a_row_without_labels_or_without_content_is_left_out(builder: SampleBuilder) -> None:
    assert not builder.usable(row("a", user="hi"))
    assert not builder.usable(row("a", user=" ", request_label="safe"))


def test_no_usable_row_is_an_error(tiny: Path, builder: SampleBuilder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row has both"):
        fine_tune(tiny, [row("a", user="hi")], builder, Settings(steps=1), tmp_path)


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        builder_of(tmp_path, Template.named("compact"), Policy.default(), hiding=None, seed=0)


def test_training_reads_what_the_engine_reads(
    tiny: Path, tiny_hf: Path, builder: SampleBuilder, tmp_path: Path
) -> None:
    """Logits behind the prompt, in a padded batch, equal the engine's on ids and patches."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    Image.new("RGB", (90, 60), (200, 30, 40)).save(tmp_path / "red.png")
    rows = [
        row("a", user="a long question about nothing in particular, really", request_label="safe"),
        row("b", user="what is this?", image=str(tmp_path / "red.png"), request_label="safe"),
    ]
    samples = [builder(r) for r in rows]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()
    batch = collate(samples, model.config.image_token_id, 2)
    with torch.inference_mode():
        logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.numpy()
    with_engine = TransformersEngine(Artifact.open(tiny_hf))
    for index, sample in enumerate(samples):
        ids = np.array(sample.ids)
        with with_engine.start(ids[:5]) as sequence:
            expected = sequence.extend(ids[5:], sample.images)
        assert np.abs(logits[index, len(ids) - 1] - expected).max() < 1e-4


def test_a_checkpoint_learns_texts_and_pictures_and_resumes(
    tiny: Path, builder: SampleBuilder, tmp_path: Path
) -> None:
    rows = []
    for name, colour, label in (("red", (220, 20, 20), "unsafe"), ("blue", (20, 20, 220), "safe")):
        Image.new("RGB", (84, 84), colour).save(tmp_path / f"{name}.png")
        category = "C10S2" if label == "unsafe" else None
        image = str(tmp_path / f"{name}.png")
        rows.append(row(name, image=image, request_label=label, category=category))
        rows.append(row(f"t{name}", user=f"{name} {name}", request_label=label, category=category))
    policy = builder.encoder.policy.subset(["C10S2", "C8S1"])
    builder = replace(builder, encoder=builder.encoder.with_policy(policy))
    lines: list[dict[str, float]] = []
    out = tmp_path / "run"
    settings = Settings(steps=20, batch=4, rate=3e-3, train="all")
    fine_tune(tiny, rows, builder, settings, out, lines.append)
    first = len(lines)
    # A run that goes on with fresh weights would begin with the loss of fresh weights.
    trained = fine_tune(tiny, rows, builder, replace(settings, steps=36), out, lines.append)
    assert lines[first]["step"] > 20
    assert lines[first]["loss"] < 0.2 * lines[0]["loss"]
    assert lines[-1]["tokens_per_second"] > 0
    assert json.loads((trained / "training.json").read_text())["rows"] == {"s (MIT)": 4}
    artifact = tmp_path / "artifact"
    export_transformers(trained, artifact, contents("compact", policy=policy))
    with Guard.load(artifact, cache=Cache(None)) as guard:
        for sample in rows:
            verdict = guard.moderate(sample.user, sample.image)
            assert verdict.request.label == sample.request_label, sample.id
            assert (verdict.category.id if verdict.category else None) == sample.category


def test_where_the_model_answers_for_every_conversation_the_line_is_taught(tiny: Path) -> None:
    template, policy = Template.named("proguard"), Policy.default()
    builder = builder_of(tiny, template, policy, hiding=None, seed=1, response_line="always")
    raw = row("a", user="hi", request_label="safe")
    assert taught(builder, raw).startswith("<answer>\nRequest:safe\nResponse:safe\nCategory:None")
