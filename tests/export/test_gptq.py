"""GPTQ as a stage: what goes into the other environment, and what is checked of what comes back."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from gptq_folders import Sample, altered, make_samples, without

from proguard_edge.cache import Cache
from proguard_edge.engine import load_engine, transformers
from proguard_edge.engine.positions import rope_positions
from proguard_edge.errors import ArtifactError, EngineError
from proguard_edge.export import gptq as stage
from proguard_edge.export.gptq import (
    check_python,
    environment,
    install_command,
    quantize_gptq,
    verify,
    write_samples,
)
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.gptq_round import round_to_gptq
from proguard_edge.export.gptq_stage import calibration
from proguard_edge.export.transformers_artifact import export_transformers
from proguard_edge.requirements import LOCKS

GROUP = 64


@pytest.fixture
def samples(checkpoint, model):
    return make_samples(checkpoint, model.config.image_token_id)


def test_samples_arrive_as_the_runtime_made_them(samples, model, tmp_path):
    write_samples(samples, tmp_path / "samples.npz")
    image_id = model.config.image_token_id
    batches = calibration(tmp_path / "samples.npz", image_id, 2)
    assert len(batches) == len(samples)
    for sample, batch in zip(samples, batches, strict=True):
        assert batch["input_ids"].tolist() == [sample.ids]
        assert batch["attention_mask"].all()
        grids = [image.grid for image in sample.images]
        positions, _ = rope_positions(np.array(sample.ids), image_id, grids, 2)
        np.testing.assert_array_equal(batch["position_ids"][:, 0], positions)
        assert ("pixel_values" in batch) == bool(sample.images)
        if sample.images:
            np.testing.assert_array_equal(batch["pixel_values"], sample.images[0].pixels)
            assert batch["image_grid_thw"].tolist() == [list(sample.images[0].grid)]


def test_a_model_reads_the_batches_as_they_are(samples, model, tmp_path):
    """The keys are those of transformers' forward, for text and for images."""
    import torch

    write_samples(samples, tmp_path / "samples.npz")
    for batch in calibration(tmp_path / "samples.npz", model.config.image_token_id, 2)[:2]:
        with torch.no_grad():
            logits = model(**batch).logits
        assert logits.shape[1] == batch["input_ids"].shape[1]
        assert torch.isfinite(logits).all()


def test_the_digest_follows_every_sample(samples, tmp_path):
    path = tmp_path / "samples.npz"
    digest = write_samples(samples, path)
    assert write_samples(samples, path) == digest
    changed = [Sample([*samples[0].ids[:-1], 7], ()), *samples[1:]]
    assert write_samples(changed, path) != digest
    assert write_samples(samples[1:], path) != digest
    assert write_samples([*samples[1:], samples[0]], path) != digest


def test_a_missing_environment_names_the_command_that_makes_it(monkeypatch):
    wanted = stage.GPTQMODEL
    # Whether this interpreter has another version or, as is usual, none.
    monkeypatch.setattr(stage, "GPTQMODEL", "0.0")
    with pytest.raises(ArtifactError, match="env create gptq, or set PROGUARD_EDGE_GPTQ_PYTHON"):
        check_python(sys.executable)
    with pytest.raises(ArtifactError, match="cannot be run"):
        check_python("/nonexistent/python")
    assert f"\ngptqmodel=={wanted} " in (LOCKS / "gptq.txt").read_text()
    assert "\n" not in install_command()


def test_the_stage_runs_without_the_network():
    found = environment({"HOME": "x", "GPTQMODEL_CPU_WORKERS": "4"})
    assert found["HF_HUB_OFFLINE"] == found["TRANSFORMERS_OFFLINE"] == "1"
    assert found["GPTQMODEL_CPU_WORKERS"] == "4"
    assert environment({})["GPTQMODEL_CPU_WORKERS"] == "2"


def test_groups_that_do_not_fit_are_refused_before_anything_starts(
    checkpoint, samples, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "check_python", lambda _: pytest.fail("it started"))
    with pytest.raises(ArtifactError, match="largest that fits is 64"):
        quantize_gptq(checkpoint, tmp_path / "out", samples, group_size=128)
    with pytest.raises(ArtifactError, match="none were given"):
        quantize_gptq(checkpoint, tmp_path / "out", [], group_size=64)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_gives_its_last_words_and_leaves_nothing(
    checkpoint, samples, tmp_path, monkeypatch
):
    """The interpreter of the tests has no gptqmodel: a run that nevertheless starts must fail."""
    monkeypatch.setattr(stage, "check_python", lambda _: None)
    with pytest.raises(ArtifactError, match=r"failed \(exit code 1\): .*gptqmodel"):
        quantize_gptq(
            checkpoint, tmp_path / "out", samples, group_size=GROUP, python=sys.executable
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def rounded(checkpoint, tmp_path_factory):
    return round_to_gptq(checkpoint, tmp_path_factory.mktemp("rtn") / "gptq", GROUP)


def test_the_verification_gives_the_error_of_every_matrix(checkpoint, rounded):
    errors = verify(checkpoint, rounded)
    assert len(errors) == 14
    # Normal weights in groups of 64 lose about 0.09.
    assert 0.08 < min(errors.values()) <= max(errors.values()) < 0.11


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "model.layers.0.mlp.up_proj.qzeros",
            lambda a: a + np.int32(0x22222222),
            "lies .* from its weights",
        ),
        ("model.layers.0.input_layernorm.weight", lambda a: a * np.float32(1.5), "not what it was"),
        ("model.layers.0.self_attn.q_proj.bias", lambda a: a + np.float32(1e-7), "not what it was"),
    ],
)
def test_the_verification_finds_what_is_wrong(checkpoint, rounded, tmp_path, name, change, words):
    broken = altered(rounded, tmp_path / "b", name, change)
    with pytest.raises(ArtifactError, match=words):
        verify(checkpoint, broken)


def test_a_folder_that_lacks_a_layer_is_found(checkpoint, rounded, tmp_path):
    partly = without(rounded, tmp_path / "g", "model.layers.1.mlp.down_proj")
    with pytest.raises(ArtifactError, match=r"layers\.1\.mlp\.down_proj is rounded in one"):
        verify(checkpoint, partly)


def test_an_artifact_for_transformers_holds_the_weights_of_gptq(
    checkpoint, rounded, contents, tmp_path, monkeypatch
):
    artifact = export_transformers(checkpoint, tmp_path / "a", contents, gptq=rounded)
    assert (artifact.engine, artifact.precision) == ("transformers", "gptq-int4")
    assert artifact.manifest["quantization"] == GptqCheckpoint(rounded).record()
    weights = "model.safetensors"
    assert artifact.path(f"hf/{weights}").read_bytes() == (rounded / weights).read_bytes()
    config = json.loads(artifact.path("hf/config.json").read_text())
    assert config["quantization_config"]["backend"] == "torch"
    # Without what reads them: one line that says so, no random weights.
    monkeypatch.setattr(transformers, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"need optimum and gptqmodel.*env create gptq"):
        load_engine(artifact, Cache(None), threads=1)


def test_weights_of_another_checkpoint_do_not_get_into_an_artifact(
    checkpoint, rounded, contents, tmp_path
):
    broken = altered(
        rounded,
        tmp_path / "b",
        "model.layers.0.mlp.up_proj.qweight",
        lambda a: np.random.default_rng(0).permutation(a),
    )
    with pytest.raises(ArtifactError, match="from its weights"):
        export_transformers(checkpoint, tmp_path / "a", contents, gptq=broken)
    assert not (tmp_path / "a").exists()
