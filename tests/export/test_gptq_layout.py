"""The GPTQ layout, read and written, against a loop that takes one bit after the other."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.gptq_layout import (
    GptqCheckpoint,
    GptqLinear,
    pack_linear,
    read_linear,
    unpack_linear,
)
from proguard_edge.export.gptq_onnx import relative_error
from proguard_edge.export.gptq_round import check_groups, round_to_gptq
from proguard_edge.export.rounding import round_blocks
from proguard_edge.export.tensor_file import Spec, TensorFile, TensorFolder, write_tensors

GROUP = 32


def random_linear(rows=96, columns=24, group=GROUP, seed=0, symmetric=False):
    rng = np.random.default_rng(seed)
    shape = rows // group, columns
    zeros = np.full(shape, 8) if symmetric else rng.integers(0, 16, shape)
    return GptqLinear(
        rng.integers(0, 16, (rows, columns)).astype(np.uint8),
        zeros.astype(np.uint8),
        rng.uniform(0.01, 0.1, shape).astype(np.float16),
        group,
    )


def bit(word, index):
    """Bit `index` of a signed 32-bit word."""
    return (int(word) & 0xFFFFFFFF) >> index & 1


def slow_weights(parts, group):
    """float32 [in, out], one weight at a time, from the definition of the layout."""
    rows, columns = 8 * parts["qweight"].shape[0], parts["qweight"].shape[1]
    found = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            level = sum(bit(parts["qweight"][i // 8, j], 4 * (i % 8) + b) << b for b in range(4))
            stored = sum(
                bit(parts["qzeros"][i // group, j // 8], 4 * (j % 8) + b) << b for b in range(4)
            )
            zero = (stored + 1) % 16
            found[i, j] = np.float32(level - zero) * np.float32(parts["scales"][i // group, j])
    return found


def equal(a, b):
    return all(np.array_equal(getattr(a, p), getattr(b, p)) for p in ("levels", "zeros", "scales"))


@pytest.mark.parametrize("symmetric", [False, True])
def test_packing_and_unpacking_are_inverse(symmetric):
    linear = random_linear(symmetric=symmetric)
    assert equal(unpack_linear(pack_linear(linear), GROUP), linear)
    assert linear.symmetric is symmetric


def test_the_weights_are_those_that_the_bits_spell():
    linear = random_linear()
    np.testing.assert_array_equal(linear.dequantize(), slow_weights(pack_linear(linear), GROUP))


def test_symmetric_zeros_are_stored_as_sevens():
    words = pack_linear(random_linear(symmetric=True))["qzeros"]
    assert (words == 0x77777777).all()


@pytest.mark.parametrize("part", ["qweight", "qzeros"])
def test_swapped_nibbles_and_shifted_zeros_are_seen(part):
    """The negative control of the loop above: it would not agree with a wrong order."""
    parts = pack_linear(random_linear(symmetric=True, seed=3))
    words = parts[part].view(np.uint32)
    if part == "qzeros":
        wrong = (words + np.uint32(0x11111111)).view(np.int32)
    else:
        low, high = words & np.uint32(0x0F0F0F0F), words & np.uint32(0xF0F0F0F0)
        wrong = ((low << np.uint32(4)) | (high >> np.uint32(4))).view(np.int32)
    found = unpack_linear({**parts, part: wrong}, GROUP).dequantize()
    assert not np.array_equal(found, slow_weights(parts, GROUP))
    np.testing.assert_array_equal(found, slow_weights({**parts, part: wrong}, GROUP))


def test_reordered_inputs_are_refused():
    parts = pack_linear(random_linear())
    order = parts["g_idx"].copy()
    order[[0, -1]] = order[[-1, 0]]
    with pytest.raises(ArtifactError, match="desc_act"):
        unpack_linear({**parts, "g_idx": order}, GROUP)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("scales", lambda a: a.astype(np.float32), "scales is float32"),
        ("scales", lambda a: a[:-1], "not F16"),
        ("scales", lambda a: a * np.float16(np.inf), "not finite"),
        ("qzeros", lambda a: a[:, :-1], "qzeros is"),
        ("g_idx", lambda a: a[:-1], "g_idx is"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(part, change, words):
    parts = pack_linear(random_linear())
    with pytest.raises(ArtifactError, match=words):
        unpack_linear({**parts, part: change(parts[part])}, GROUP)


def test_a_matrix_that_groups_do_not_divide_is_refused():
    with pytest.raises(ArtifactError, match="groups of 64"):
        unpack_linear(pack_linear(random_linear()), 64)


@pytest.fixture(scope="module")
def rounded(checkpoint, tmp_path_factory):
    return round_to_gptq(checkpoint, tmp_path_factory.mktemp("rtn") / "gptq", GROUP)


def test_a_rounded_folder_holds_what_plain_rounding_gives(checkpoint, rounded):
    source = Checkpoint(checkpoint)
    found = GptqCheckpoint(rounded)
    assert len(found.names) == 2 * 7
    for name, linear in found:
        weight = source.tensor(f"{name}.weight")
        blocks = round_blocks(weight.reshape(-1, GROUP), 4, symmetric=True, half_scales=True)
        np.testing.assert_array_equal(linear.dequantize().T, blocks.weights().reshape(weight.shape))
        # Normal weights in blocks of 32 lose 0.08; another layer's weights would lose 1.4.
        assert relative_error(weight.T, linear) < 0.1


def test_a_rounded_folder_keeps_everything_else(checkpoint, rounded):
    before, after = TensorFolder(checkpoint), TensorFolder(rounded)
    others = GptqCheckpoint(rounded).others()
    assert any(name.endswith("q_proj.bias") for name in others)
    assert any("visual" in name for name in others)
    assert len(others) == len(before.names()) - 2 * 7
    for name in others:
        assert before.spec(name) == after.spec(name)
        assert before.raw(name) == after.raw(name)
    assert (rounded / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


def test_the_library_reads_what_is_written(rounded):
    from safetensors.numpy import load_file

    arrays = load_file(rounded / "model.safetensors")
    linear = read_linear(rounded, "model.layers.0.mlp.up_proj")
    parts = {p: arrays[f"model.layers.0.mlp.up_proj.{p}"] for p in ("qweight", "qzeros", "scales")}
    np.testing.assert_array_equal(linear.dequantize(), slow_weights(parts, GROUP))


def test_a_group_that_divides_no_matrix_names_the_largest_that_does(checkpoint, tmp_path):
    """64 inputs of the hidden size, 192 of the intermediate one."""
    with pytest.raises(ArtifactError, match=r"groups of 128 .* largest that fits is 64"):
        round_to_gptq(checkpoint, tmp_path / "out", 128)
    assert list(tmp_path.iterdir()) == []
    check_groups(checkpoint, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 8}, "8 bits"),
        ({"desc_act": True}, "desc_act"),
        ({"checkpoint_format": "gptq_v2"}, "gptq_v2"),
        ({"quant_method": "awq"}, "awq"),
        ({"group_size": -1}, "group size of -1"),
        ({"dynamic": {"x": {}}}, "dynamic"),
        (None, "not a GPTQ checkpoint"),
    ],
)
def test_other_settings_are_refused(rounded, tmp_path, change, words):
    copy = shutil.copytree(rounded, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    if change is None:
        del config["quantization_config"]
    else:
        config["quantization_config"] |= change
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=words):
        GptqCheckpoint(copy)


def test_the_manifests_record_follows_the_weights(rounded, tmp_path):
    record = GptqCheckpoint(rounded).record()
    assert (record["method"], record["bits"], record["group_size"]) == ("round to nearest", 4, 32)
    copy = shutil.copytree(rounded, tmp_path / "copy")
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    assert GptqCheckpoint(copy).record()["sha256"] != record["sha256"]


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(rounded, tmp_path, cut):
    path = tmp_path / "model.safetensors"
    path.write_bytes((rounded / "model.safetensors").read_bytes()[:cut])
    with pytest.raises(ArtifactError, match="safetensors"):
        TensorFile(path)


def test_a_content_of_another_length_is_refused(tmp_path):
    specs = {"a": Spec("F32", (3,))}
    with pytest.raises(ArtifactError, match="8 bytes, not 12"):
        write_tensors(tmp_path / "x", specs, lambda _: np.zeros(2, np.float32))
