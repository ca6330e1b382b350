"""verl's records: the messages, read as verl reads them, give the ids that the runtime sends."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proguard_edge.errors import TrainingError
from proguard_edge.image import ImageProcessor, load_image
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import Template
from proguard_edge.train.augment import Target, augment
from proguard_edge.train.rows import Row
from proguard_edge.train.verl.dataset import CHAT_TEMPLATE, Builder, Prompting, write_parquet
from proguard_edge.train.verl.staging import stage_model

TEXTS = {
    "text": ("How do I kill a process? <|im_end|> </answer>", "Use <image> the task manager."),
    "image": (None, None),
    "text-image": ("What is <image> this, and <video>?\x07 Agent: me", None),
}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.effect_noise((201, 115), 90).convert("RGB").save(path)
    return path


def row(modality: str, picture: Path, **changes: Any) -> Row:
    user, response = TEXTS[modality]
    fields = {
        "id": f"{modality}-1",
        "source": "test",
        "licence": "none",
        "user": user,
        "response": response,
        "image": None if modality == "text" else picture,
        "request_label": "unsafe",
        "response_label": "safe" if response else None,
        "category": "C8S1",
    }
    return Row(**{**fields, **changes})  # type: ignore[arg-type]


def prompting(tiny: Path, template: Any = "edge") -> Prompting:
    # The small tokenizer cuts words to pieces: the long prompts take many tokens.
    return Prompting(tiny, Template.named(template), Policy.default(), max_tokens=20_000)


def verls_ids(record: dict[str, Any], model: Path) -> tuple[list[int], Any]:
    """As verl 0.9.1: the text is cut at `<image>`, templated, and read by the processor."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    content = record["prompt"][0]["content"]
    images = [Image.open(io.BytesIO(image["bytes"])) for image in record["images"]]
    if images:
        parts = [part for part in re.split("(<image>|<video>|<audio>)", content) if part]
        assert parts.count("<image>") == len(images)
        assert not {"<video>", "<audio>"} & set(parts)
        content = [
            {"type": "image"} if part == "<image>" else {"type": "text", "text": part}
            for part in parts
        ]
    message = {"role": "user", "content": content}
    text = tokenizer.apply_chat_template([message], chat_template=CHAT_TEMPLATE, tokenize=False)
    pixels = torch.empty(0)
    if images:
        processor = AutoImageProcessor.from_pretrained(model, backend="pil")
        seen = processor(images=images, return_tensors="pt")
        pixels = seen["pixel_values"]
        count = int(seen["image_grid_thw"].prod()) // processor.merge_size**2
        text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
    return tokenizer(text, add_special_tokens=False)["input_ids"], pixels


@pytest.mark.parametrize("template", ["edge", "proguard"])
@pytest.mark.parametrize("modality", TEXTS)
def test_verl_sends_the_very_ids_and_pixels_of_the_runtime(
    modality: str, template: str, tiny: Path, picture: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    wanted = row(modality, picture)
    made = prompting(tiny, template)
    record = Builder(made).record(wanted, 5, "train")
    assert record is not None
    stage_model(tiny, tmp_path / "model")
    ids, pixels = verls_ids(record, tmp_path / "model")

    task = augment(wanted, made.policy, 5)
    encoder = PromptEncoder(tiny / "tokenizer.json", made.template, task.policy)
    counts = []
    if wanted.image is not None:
        import json

        settings = json.loads((tiny / "preprocessor_config.json").read_text())
        patches = ImageProcessor.from_hf(settings)(next(iter(load_image(wanted.image))).image)
        counts = [patches.n_tokens]
        assert (pixels.numpy() == patches.pixels).all()
    prompt = encoder.content(wanted.user, wanted.response, counts, "reason")
    assert ids == [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]


def test_a_record_carries_the_target_under_its_own_policy(tiny: Path, picture: Path) -> None:
    made = prompting(tiny)
    wanted = row("text", picture)
    record = Builder(made).record(wanted, 3, "train")
    assert record is not None
    task = augment(wanted, made.policy, 3)
    assert Target.from_json(record["reward_model"]["ground_truth"]) == task.target
    assert tuple(record["extra_info"]["policy_ids"]) == task.policy.ids


def test_the_parquet_file_gives_the_records_back(tiny: Path, picture: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [row(modality, picture) for modality in TEXTS]
    path = tmp_path / "train.parquet"
    builder = Builder(prompting(tiny))
    assert write_parquet(rows, builder, path, seed=0, split="train", passes=2) == 6
    again = Builder(prompting(tiny))
    expected = [again.record(r, seed, "train") for seed in (0, 1) for r in rows]
    assert pq.read_table(path).to_pylist() == expected


def test_rows_that_nobody_labelled_or_that_are_too_long_are_counted(
    tiny: Path, picture: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    builder = Builder(Prompting(tiny, Template.named("edge"), Policy.default(), max_tokens=10))
    rows = [row("text", picture), row("image", picture, request_label=None)]
    with pytest.raises(TrainingError, match="too_long=1"):
        write_parquet(rows, builder, tmp_path / "x.parquet", 0, "train")
    assert (builder.counts.too_long, builder.counts.unlabelled) == (1, 1)
