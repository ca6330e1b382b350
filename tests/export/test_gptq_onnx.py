"""The integers of a GPTQ folder in the ONNX decoder and in TensorRT-LLM's layout are the same."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from gptq_folders import altered, without
from onnx import numpy_helper

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine.onnx import OnnxEngine
from proguard_edge.errors import ArtifactError
from proguard_edge.export.gptq_layout import GptqCheckpoint, pack_linear
from proguard_edge.export.gptq_onnx import check_integers, layer_names, pack_layers, take_over
from proguard_edge.export.gptq_round import round_to_gptq
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.export.onnx_decoder import finish_decoder
from proguard_edge.export.tensor_file import TensorFolder
from proguard_edge.export.trtllm import convert_trtllm

GROUP = 32
LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def gptq(checkpoint, tmp_path_factory):
    return round_to_gptq(checkpoint, tmp_path_factory.mktemp("rtn") / "gptq", GROUP)


@pytest.fixture(scope="module")
def decoder(fp32, gptq, tmp_path_factory):
    out = tmp_path_factory.mktemp("int4")
    path, _ = finish_decoder(fp32.path("decoder.onnx"), out, "int4", accuracy_level=0, gptq=gptq)
    return path


@pytest.fixture(scope="module")
def dequantized_model(model, gptq):
    """transformers' model with the weights that the GPTQ folder stands for."""
    import torch

    changed = copy.deepcopy(model)
    modules = dict(changed.model.language_model.named_modules())
    for name, linear in GptqCheckpoint(gptq):
        module = modules[name.removeprefix("model.")]
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(linear.dequantize().T))
    return changed


def logits_of_transformers(model, ids):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)[None]).logits[0, -1].numpy()


def logits_of(artifact, ids):
    with OnnxEngine(artifact, Cache(None), threads=1).start(ids[:20]) as sequence:
        return sequence.extend(ids[20:])


def test_onnx_gptq_and_tensorrt_llm_hold_the_same_integers(decoder, gptq, tmp_path):
    """Three readers, each with its own unpacking written out here."""
    out = convert_trtllm(gptq, tmp_path / "trtllm")
    graph = onnx.load(decoder).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = {n.name: n for n in graph.node if n.op_type == "MatMulNBits"}
    served = TensorFolder(out)
    source = GptqCheckpoint(gptq)
    assert len(nodes) == len(source.names) == 14
    for node in nodes.values():
        (name,) = layer_names(node.name, source)
        levels = source.linear(name).levels
        packed = arrays[node.input[1]]
        from_onnx = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1).T
        np.testing.assert_array_equal(from_onnx, levels)
        assert len(node.input) == 3 or not node.input[3]
        stored = served.array(f"{name}.weight").astype(np.int16)
        signed = np.stack([stored & 15, stored >> 4], 1).reshape(-1, stored.shape[1])
        signed = np.where(signed > 7, signed - 16, signed)
        np.testing.assert_array_equal(signed.T + 8, levels)


def test_the_artifact_computes_what_transformers_computes_from_these_weights(
    checkpoint, contents, gptq, dequantized_model, model, tmp_path
):
    artifact = export_onnx(
        checkpoint,
        tmp_path / "a",
        contents,
        embeddings="float32",
        vision_precision="fp32",
        accuracy_level=0,
        compact_scales=True,
        gptq=gptq,
    )
    ids = np.random.default_rng(0).integers(0, 400, 60)
    found = logits_of(artifact, ids)
    # fp32 sums in another order; logits deviate by about 4.
    np.testing.assert_allclose(found, logits_of_transformers(dequantized_model, ids), atol=1e-3)
    # The negative control: the original weights are far away.
    assert np.abs(found - logits_of_transformers(model, ids)).max() > 0.1
    assert artifact.manifest["quantization"] == GptqCheckpoint(gptq).record()
    assert Artifact.open(artifact.folder).precision == "int4"


@pytest.mark.parametrize("compact", [False, True])
def test_scales_are_those_of_gptq_in_either_type(fp32, gptq, tmp_path, compact):
    path, _ = finish_decoder(
        fp32.path("decoder.onnx"), tmp_path, "int4", compact_scales=compact, gptq=gptq
    )
    assert check_integers(path, GptqCheckpoint(gptq)) == 2 * (64 * 192 * 4)
    kinds = {
        numpy_helper.to_array(t).dtype
        for t in onnx.load(path).graph.initializer
        if t.name.endswith(".scales")
    }
    assert kinds == {np.dtype(np.float16 if compact else np.float32)}


def test_zeros_that_are_not_the_middle_level_are_taken_over_too(fp32, gptq, tmp_path):
    shifted = altered(gptq, tmp_path / "g", f"{LAYER}.qzeros", lambda a: a ^ np.int32(0x1))
    (tmp_path / "o").mkdir()
    path, _ = finish_decoder(fp32.path("decoder.onnx"), tmp_path / "o", "int4", gptq=shifted)
    check_integers(path, GptqCheckpoint(shifted))
    with pytest.raises(ArtifactError, match=rf"zeros of {LAYER}"):
        check_integers(path, GptqCheckpoint(gptq))


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("qweight", lambda a: a ^ np.int32(1 << 4), "levels"),
        ("scales", lambda a: np.nextafter(a, np.float16(1)), "scales"),
    ],
)
def test_a_single_other_number_is_found(decoder, gptq, tmp_path, part, change, words):
    def first_only(array):
        array[:1, :1] = change(array[:1, :1])
        return array

    other = altered(gptq, tmp_path / "g", f"{LAYER}.{part}", first_only)
    with pytest.raises(ArtifactError, match=rf"the {words} of {LAYER}"):
        check_integers(decoder, GptqCheckpoint(other))


def test_integers_of_another_checkpoint_are_refused(fp32, gptq, tmp_path):
    other = altered(
        gptq, tmp_path / "g", f"{LAYER}.qweight", lambda a: np.random.default_rng(0).permutation(a)
    )
    with pytest.raises(ArtifactError, match="do not round this checkpoint's weights"):
        finish_decoder(fp32.path("decoder.onnx"), tmp_path, "int4", gptq=other)


def test_a_projection_that_was_left_out_is_an_error(fp32, gptq, tmp_path):
    partly = without(gptq, tmp_path / "g", LAYER)
    with pytest.raises(ArtifactError, match="down_proj is not rounded"):
        finish_decoder(fp32.path("decoder.onnx"), tmp_path, "int4", gptq=partly)


def test_other_precisions_have_no_use_for_integers(fp32, gptq, tmp_path):
    with pytest.raises(ArtifactError, match="int4, not in int8"):
        finish_decoder(fp32.path("decoder.onnx"), tmp_path, "int8", gptq=gptq)


def test_groups_that_the_kernel_cannot_read_are_refused(fp32, checkpoint, tmp_path):
    import onnx_ir as ir

    small = round_to_gptq(checkpoint, tmp_path / "g", 8)
    with pytest.raises(ArtifactError, match="groups of 8"):
        take_over(ir.load(fp32.path("decoder.onnx")), GptqCheckpoint(small))


def test_fused_matrices_are_layers_side_by_side(gptq):
    source = GptqCheckpoint(gptq)
    names = layer_names("/model/layers.0/attn/qkv_proj/MatMul", source)
    assert [name.rsplit(".", 1)[1] for name in names] == ["q_proj", "k_proj", "v_proj"]
    packed = pack_layers([source.linear(name) for name in names])
    start = 0
    for name in names:
        alone = pack_layers([source.linear(name)])
        end = start + len(alone["Q"])
        np.testing.assert_array_equal(packed["Q"][start:end], alone["Q"])
        np.testing.assert_array_equal(packed["scales"][start:end], alone["scales"])
        start = end
    assert start == len(packed["Q"]) == 64 + 32 + 32


def test_a_matrix_that_is_no_projection_is_an_error(gptq):
    with pytest.raises(ArtifactError, match="no projection"):
        layer_names("/lm_head/MatMul", GptqCheckpoint(gptq))


def test_packing_is_that_of_the_folder(gptq):
    """`pack_linear` and the folder agree word for word, also after a round through the reader."""
    source = GptqCheckpoint(gptq)
    for part, array in pack_linear(source.linear(LAYER)).items():
        np.testing.assert_array_equal(array, source.tensors.array(f"{LAYER}.{part}"))
