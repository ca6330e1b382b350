"""Conversion to ModelOpt's layout, against a loop that takes one nibble after the other."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from gptq_folders import altered

from proguard_edge.errors import ArtifactError
from proguard_edge.export.gptq_layout import GptqCheckpoint, GptqLinear, pack_linear
from proguard_edge.export.gptq_round import round_to_gptq
from proguard_edge.export.tensor_file import TensorFolder, write_tensors
from proguard_edge.export.trtllm import NOT_RUN, convert_trtllm, pack, unpack, verify_trtllm

GROUP = 32
LAYER = "model.layers.0.self_attn.k_proj"


@pytest.fixture(scope="module")
def gptq(checkpoint, tmp_path_factory):
    return round_to_gptq(checkpoint, tmp_path_factory.mktemp("rtn") / "gptq", GROUP)


@pytest.fixture(scope="module")
def converted(gptq, tmp_path_factory):
    return convert_trtllm(gptq, tmp_path_factory.mktemp("trt") / "out")


def linear(rows=64, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    shape = rows // GROUP, columns
    return GptqLinear(
        rng.integers(0, 16, (rows, columns)).astype(np.uint8),
        np.full(shape, 8, np.uint8),
        rng.uniform(0.01, 0.1, shape).astype(np.float16),
        GROUP,
    )


def slow_weights(weight, scale):
    """float32 [in, out] from the definition of the layout."""
    found = np.empty((weight.shape[1], 2 * weight.shape[0]), np.float32)
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            byte = int(weight[j // 2, i])
            nibble = byte // 16 if j % 2 else byte % 16
            signed = nibble - 16 if nibble >= 8 else nibble
            found[i, j] = np.float32(signed) * np.float32(scale[j, i // GROUP])
    return found


def test_the_bytes_spell_the_weights_of_gptq():
    one = linear()
    weight, scale = pack(one), one.scales.T
    assert weight.shape == (3, 64)
    np.testing.assert_array_equal(slow_weights(weight, scale), one.dequantize())
    np.testing.assert_array_equal(unpack(weight, scale, GROUP), one.dequantize())


def test_swapped_nibbles_are_other_weights():
    one = linear()
    weight = pack(one)
    swapped = (weight << 4) | (weight >> 4)
    assert not np.array_equal(slow_weights(swapped, one.scales.T), one.dequantize())


def test_zeros_other_than_eight_are_refused():
    one = linear()
    one.zeros[0, 0] = 7
    with pytest.raises(ArtifactError, match="sym True"):
        pack(one)


def test_an_odd_number_of_outputs_is_refused():
    with pytest.raises(ArtifactError, match="even number"):
        pack(linear(columns=5))


def test_a_whole_folder_is_converted_without_loss(gptq, converted):
    assert verify_trtllm(gptq, converted) == 2 * (64 * 192 * 4)
    source, target = GptqCheckpoint(gptq), TensorFolder(converted)
    for name, layer in source:
        weight, scale = target.array(f"{name}.weight"), target.array(f"{name}.weight_scale")
        np.testing.assert_array_equal(slow_weights(weight, scale), layer.dequantize())
        ones = target.array(f"{name}.pre_quant_scale")
        assert ones.shape == (layer.levels.shape[0],)
        assert (ones == 1).all()
    assert len(target.names()) == len(source.others()) + 3 * 14


def test_the_library_reads_what_is_written(converted):
    from safetensors.numpy import load_file

    arrays = load_file(converted / "model.safetensors")
    assert arrays[f"{LAYER}.weight"].dtype == np.uint8
    assert arrays[f"{LAYER}.bias"].dtype == np.float32


def test_the_settings_are_those_of_modelopt(converted):
    quant = json.loads((converted / "hf_quant_config.json").read_text())
    assert quant["quantization"] == {
        "quant_algo": "W4A16_AWQ",
        "kv_cache_quant_algo": None,
        "group_size": GROUP,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "exclude_modules": ["lm_head", "visual*", "model.visual*"],
    }
    assert quant["producer"]["name"] == "proguard-edge"
    config = json.loads((converted / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    serve = yaml.safe_load((converted / "serve.yaml").read_text())
    assert serve["kv_cache_config"]["enable_block_reuse"]
    assert serve["enable_chunked_prefill"]
    assert serve["cuda_graph_config"]["enable_padding"]
    assert "trtllm-serve" in (converted / "README.md").read_text()
    assert (converted / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"{LAYER}.weight", lambda a: a ^ np.uint8(0x10)),
        (f"{LAYER}.weight", lambda a: (a << np.uint8(4)) | (a >> np.uint8(4))),
        (f"{LAYER}.weight_scale", lambda a: np.nextafter(a, np.float16(1))),
        (f"{LAYER}.bias", lambda a: a + np.float32(1)),
    ],
)
def test_the_verification_finds_what_differs(gptq, converted, tmp_path, name, change):
    broken = altered(converted, tmp_path / "b", name, change)
    with pytest.raises(ArtifactError, match=LAYER):
        verify_trtllm(gptq, broken)


def test_a_zero_point_off_by_one_stops_the_conversion(gptq, tmp_path):
    shifted = altered(gptq, tmp_path / "g", f"{LAYER}.qzeros", lambda a: a + np.int32(0x11111111))
    with pytest.raises(ArtifactError, match=f"{LAYER}: zeros other than 8"):
        convert_trtllm(shifted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reordered_inputs_stop_the_conversion(gptq, tmp_path):
    turned = altered(gptq, tmp_path / "g", f"{LAYER}.g_idx", lambda a: a[::-1].copy())
    with pytest.raises(ArtifactError, match="desc_act"):
        convert_trtllm(turned, tmp_path / "out")


def test_a_model_in_bfloat16_gets_ones_in_bfloat16(gptq, tmp_path):
    copied = shutil.copytree(gptq, tmp_path / "g")
    config = json.loads((copied / "config.json").read_text()) | {"dtype": "bfloat16"}
    (copied / "config.json").write_text(json.dumps(config))
    target = TensorFolder(convert_trtllm(copied, tmp_path / "out"))
    name = f"{LAYER}.pre_quant_scale"
    assert target.spec(name).dtype == "BF16"
    import torch
    from safetensors.torch import load_file

    ones = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert torch.equal(ones, torch.ones(64, dtype=torch.bfloat16))


def test_several_shards_keep_their_index(gptq, tmp_path):
    tensors = TensorFolder(gptq)
    split = shutil.copytree(gptq, tmp_path / "g")
    (split / "model.safetensors").unlink()
    names = sorted(tensors.names())
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        write_tensors(split / file, {n: tensors.spec(n) for n in part}, tensors.raw)
    places = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {}, "weight_map": places}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    out = convert_trtllm(split, tmp_path / "out")
    found = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(found.values()) == set(files)
    assert verify_trtllm(gptq, out) == 2 * (64 * 192 * 4)


def test_the_report_says_what_was_not_run(gptq, tmp_path):
    lines = []
    convert_trtllm(gptq, tmp_path / "out", report=lines.append)
    assert lines[-1] == NOT_RUN
    assert any("equal" in line for line in lines)


def test_packed_words_are_not_kept_where_they_cannot_be_packed():
    with pytest.raises(ArtifactError, match="eight levels a word"):
        pack_linear(linear(columns=6))
