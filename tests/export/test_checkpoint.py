"""What is read from a checkpoint, and which folders are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from proguard_edge.errors import ArtifactError
from proguard_edge.export import extras
from proguard_edge.export.checkpoint import Checkpoint, describe


def folder_with(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_the_description_is_what_the_engine_needs(checkpoint, model):
    assert describe(checkpoint) == {
        "architecture": "Qwen2_5_VLForConditionalGeneration",
        "layers": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "hidden": 64,
        "vocab": model.config.text_config.vocab_size,
        "context": 4096,
        "tied": True,
        "image_token_id": model.config.image_token_id,
        "vision": {"merge_size": 2, "window_size": 112, "patch_size": 14, "head_dim": 16},
    }


def test_a_description_without_vision_names_no_image_token(checkpoint):
    assert not {"vision", "image_token_id"} & set(describe(checkpoint, vision=False))


def test_the_flat_configuration_of_the_first_release_is_read(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    flat = {**config.pop("text_config"), **config, "model_type": "qwen2_5_vl"}
    flat.pop("layer_types")
    rope = flat.pop("rope_parameters")
    flat["rope_theta"] = rope["rope_theta"]
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    assert describe(folder_with(tmp_path, **flat)) == describe(checkpoint)


def test_rows_of_a_table_are_those_of_the_model(checkpoint, model):
    rows = Checkpoint(checkpoint).embeddings()
    expected = model.get_input_embeddings().weight.detach().numpy()
    assert rows.shape == expected.shape
    np.testing.assert_array_equal(rows[7:19], expected[7:19])


def test_only_an_untied_checkpoint_has_a_head(checkpoint, untied_checkpoint):
    assert Checkpoint(checkpoint).head() is None
    assert Checkpoint(untied_checkpoint).head() is not None


def test_the_digest_changes_with_the_weights(checkpoint, untied_checkpoint):
    assert Checkpoint(checkpoint).digest() == Checkpoint(checkpoint).digest()
    assert Checkpoint(checkpoint).digest() != Checkpoint(untied_checkpoint).digest()


def test_another_architecture_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="only Qwen2_5_VLForConditionalGeneration"):
        describe(folder_with(tmp_path, architectures=["LlamaForCausalLM"]))


def test_qwen3_vl_is_refused_with_its_name(tmp_path):
    with pytest.raises(ArtifactError, match="Qwen3-VL is not supported yet"):
        describe(folder_with(tmp_path, architectures=["Qwen3VLForConditionalGeneration"]))


def test_quantized_weights_are_refused(tmp_path):
    names = ["Qwen2_5_VLForConditionalGeneration"]
    quantized = folder_with(tmp_path, architectures=names, quantization_config={"bits": 4})
    with pytest.raises(ArtifactError, match="quantized already"):
        describe(quantized)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        describe(tmp_path)


def test_a_folder_without_files_is_refused(tmp_path, checkpoint):
    with pytest.raises(ArtifactError, match="cannot be read"):
        describe(tmp_path)
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(ArtifactError, match=r"no tokenizer\.json"):
        describe(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(ArtifactError, match="only safetensors"):
        Checkpoint(tmp_path).embeddings()
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        Checkpoint(tmp_path).embeddings()


def test_a_missing_library_names_the_command_that_brings_it():
    with pytest.raises(ArtifactError, match=r"pip install 'proguard-edge\[export\]'"):
        extras.need("no_such_module_anywhere")
