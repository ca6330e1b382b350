"""The exported artifact computes what transformers computes from the checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from proguard_edge.artifact import Calibration, check_digests
from proguard_edge.cache import Cache
from proguard_edge.engine.onnx import OnnxEngine
from proguard_edge.errors import ArtifactError
from proguard_edge.export import onnx_artifact
from proguard_edge.export.folder import Contents, staged
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.image import ImageProcessor

# fp32 against fp32, the sums in another order: 1e-5 was measured on logits of deviation 4.
TOLERANCE = 1e-4


def picture(artifact, width, height, seed=0):
    rng = np.random.default_rng(seed)
    settings = json.loads(artifact.path("processor.json").read_text())
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ImageProcessor.from_json(settings)(Image.fromarray(noise))


def request_ids(model, images=()):
    """A prefix of text and a content with its images, int64."""
    config = model.config
    rng = np.random.default_rng(0)
    content = [rng.integers(0, 400, 9)]
    for image in images:
        start, end = config.vision_start_token_id, config.vision_end_token_id
        content += [[start], [config.image_token_id] * image.n_tokens, [end]]
    content.append(rng.integers(0, 400, 20))
    return rng.integers(0, 400, 40), np.concatenate(content).astype(np.int64)


def reference_logits(model, ids, images=()):
    import torch

    inputs = torch.tensor(ids)[None]
    vision = {}
    if images:
        vision = {
            "pixel_values": torch.tensor(np.concatenate([image.pixels for image in images])),
            "image_grid_thw": torch.tensor([image.grid for image in images]),
            "mm_token_type_ids": (inputs == model.config.image_token_id).long(),
        }
    with torch.no_grad():
        return model(input_ids=inputs, **vision).logits[0].numpy()


def engine_logits(artifact, prefix, content, images=()):
    engine = OnnxEngine(artifact, Cache(None), threads=1)
    with engine.start(prefix) as sequence:
        return sequence.extend(content, images)


def test_text_logits_equal_those_of_transformers(fp32, model):
    prefix, content = request_ids(model)
    expected = reference_logits(model, np.concatenate([prefix, content]))[-1]
    np.testing.assert_allclose(engine_logits(fp32, prefix, content), expected, atol=TOLERANCE)


@pytest.mark.parametrize("sizes", [[(210, 150)], [(60, 300), (112, 112)]])
def test_image_logits_equal_those_of_transformers(fp32, model, sizes):
    images = [picture(fp32, *size) for size in sizes]
    prefix, content = request_ids(model, images)
    expected = reference_logits(model, np.concatenate([prefix, content]), images)[-1]
    found = engine_logits(fp32, prefix, content, images)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_another_image_gives_other_logits(fp32, model):
    """The negative control: the tolerance above would not hide a wrong picture."""
    images = [picture(fp32, 210, 150)]
    prefix, content = request_ids(model, images)
    other = reference_logits(
        model, np.concatenate([prefix, content]), [picture(fp32, 210, 150, seed=1)]
    )
    difference = np.abs(engine_logits(fp32, prefix, content, images) - other[-1]).max()
    assert difference > 100 * TOLERANCE


def test_an_untied_head_is_a_table_of_its_own(untied_checkpoint, contents, tmp_path):
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(untied_checkpoint).eval()
    artifact = export_onnx(
        untied_checkpoint, tmp_path / "a", contents, precision="fp32", embeddings="float32"
    )
    prefix, content = request_ids(model)
    expected = reference_logits(model, np.concatenate([prefix, content]))[-1]
    assert "head.npy" in artifact.files
    assert not artifact.model["tied"]
    np.testing.assert_allclose(engine_logits(artifact, prefix, content), expected, atol=TOLERANCE)


def test_the_manifest_says_what_the_artifact_is(fp32, checkpoint):
    check_digests(fp32)
    assert (fp32.engine, fp32.precision, fp32.name) == ("onnx", "fp32", "tiny guard")
    assert fp32.limits == {"window_tokens": 512, "overlap_tokens": 64, "reason_tokens": 512}
    assert fp32.manifest["source"]["name"] == checkpoint.name
    assert {"NOTICE", "decoder.onnx.data", "vision.onnx.data"} <= set(fp32.files)


def test_the_table_has_the_shape_that_the_manifest_says(fp32):
    shape = np.load(fp32.path("embeddings.npy"), mmap_mode="r").shape
    assert shape == (fp32.model["vocab"], fp32.model["hidden"])
    # The tokenizer's ids, among them those of its special tokens, all have a row.
    tokenizer = Tokenizer.from_file(str(fp32.path("tokenizer.json")))
    assert max(tokenizer.get_vocab().values()) < fp32.model["vocab"]


def test_the_tokenizer_is_the_checkpoints_without_white_space(fp32, checkpoint):
    raw = fp32.path("tokenizer.json").read_text(encoding="utf-8")
    original = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(raw) == json.loads(original)
    assert list(json.loads(raw)["model"]["vocab"]) == list(json.loads(original)["model"]["vocab"])
    assert "\n" not in raw
    assert len(raw) < 0.8 * len(original)
    text = "naïve 日本語 👩‍👩‍👧 <|im_start|>  two  spaces\r\n"
    ids = [Tokenizer.from_str(t).encode(text).ids for t in (raw, original)]
    assert ids[0] == ids[1]


@pytest.fixture
def no_builder(monkeypatch):
    """Exports that are about other files than the decoder need not build one."""

    def write(_checkpoint, out, *_args, **_options):
        (out / "decoder.onnx").write_bytes(b"decoder")

    monkeypatch.setattr(onnx_artifact, "export_decoder", write)


@pytest.mark.usefixtures("no_builder")
def test_a_text_only_artifact_has_no_vision_tower(checkpoint, contents, tmp_path):
    text = Contents(contents.policy, contents.template, "text", modalities=("text",))
    artifact = export_onnx(checkpoint, tmp_path / "a", text)
    assert not {"vision.onnx", "processor.json"} & set(artifact.files)
    assert "image_token_id" not in artifact.model


@pytest.mark.usefixtures("no_builder")
def test_extra_fields_and_calibration_stand_in_the_manifest(checkpoint, contents, tmp_path):
    full = Contents(
        contents.policy,
        contents.template,
        "full",
        calibration={"request": Calibration(0.5, 2.0)},
        policy_is_fixed=True,
        free_names=False,
        limits={"window_tokens": 256},
        extra={"licences": {"weights": "Apache-2.0"}},
    )
    artifact = export_onnx(checkpoint, tmp_path / "a", full, context=1024)
    assert artifact.calibration["request"] == Calibration(0.5, 2.0)
    assert artifact.policy_is_fixed
    assert not artifact.free_names
    assert artifact.limits["window_tokens"] == 256
    assert artifact.model["context"] == 1024
    assert artifact.manifest["licences"] == {"weights": "Apache-2.0"}


@pytest.mark.usefixtures("no_builder")
def test_a_field_that_the_export_fills_cannot_be_given(checkpoint, contents, tmp_path):
    wrong = Contents(contents.policy, contents.template, "x", extra={"engine": "mine"})
    with pytest.raises(ArtifactError, match="fills engine"):
        export_onnx(checkpoint, tmp_path / "a", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_context_beyond_the_checkpoints_is_refused(checkpoint, contents, tmp_path):
    with pytest.raises(ArtifactError, match="4096"):
        export_onnx(checkpoint, tmp_path / "a", contents, context=5000)


@pytest.mark.usefixtures("no_builder")
def test_a_failed_export_leaves_nothing_behind(checkpoint, contents, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_artifact, "write_table", full)
    with pytest.raises(ArtifactError, match="No space left"):
        export_onnx(checkpoint, tmp_path / "a", contents)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_force_replaces_only_artifacts(tmp_path):
    out = tmp_path / "a"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force, words in ((False, "not empty"), (True, "not an artifact")):
        with pytest.raises(ArtifactError, match=words), staged(out, force):
            pass
    (out / "artifact.json").write_text("{}")
    with staged(out, force=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new.txt"]


@pytest.mark.usefixtures("no_builder")
def test_an_image_token_that_the_tokenizer_has_under_another_id_is_refused(
    checkpoint, contents, tmp_path
):
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config["image_token_id"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="image token"):
        export_onnx(copy, tmp_path / "a", contents)
