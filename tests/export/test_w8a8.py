"""Integer products in the decoder: ranges, smoothing, rounding, and processors that cannot."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from test_decoder import feeds, hidden_states

from proguard_edge.engine import integers
from proguard_edge.errors import ArtifactError, EngineError
from proguard_edge.export import w8a8
from proguard_edge.export.graph import save
from proguard_edge.export.onnx_artifact import export_onnx
from proguard_edge.export.onnx_decoder import build_graph, finish_decoder
from proguard_edge.export.ranges import measure_ranges, read_ranges
from proguard_edge.guard import Guard
from proguard_edge.train.sft_data import Sample

IDS = [[5, 9, 33, 120, 7, 64, 300, 12], [8, 41, 2, 77, 250, 19]]


PROMPTS = [Sample(ids, ids, (), len(ids)) for ids in IDS]


@pytest.fixture(scope="module")
def biased(checkpoint, tmp_path_factory):
    """The tiny checkpoint with biases of queries, keys and values, as released models have."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("biased") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    found = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in found.named_parameters():
            if "language_model" in name and name.endswith("bias"):
                value.normal_(0, 0.3)
    found.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ranges(biased, tmp_path_factory):
    return measure_ranges(biased, tmp_path_factory.mktemp("ranges") / "ranges.npz", PROMPTS)


@pytest.fixture(scope="module")
def graph(biased, tmp_path_factory):
    return build_graph(biased, tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def integer_graph(graph, ranges, tmp_path_factory):
    out = tmp_path_factory.mktemp("w8a8")
    return finish_decoder(graph, out, "w8a8", ranges=ranges)[0]


def test_ranges_are_the_largest_activations_but_of_the_first_token(biased, ranges):
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    decoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(biased).model.language_model
    with torch.no_grad():
        read = [
            decoder.layers[0].input_layernorm(decoder.embed_tokens(torch.tensor(x))) for x in IDS
        ]
    expected = torch.cat([x[1:] for x in read]).abs().amax(0).numpy()
    assert not np.allclose(torch.cat(read).abs().amax(0).numpy(), expected)
    found = read_ranges(ranges)
    np.testing.assert_allclose(found["0.attn"], expected, rtol=1e-5)
    widths = {"attn": 64, "o": 64, "mlp": 64, "down": 192}
    assert {k: v.shape for k, v in found.items()} == {
        f"{layer}.{place}": (width,) for layer in (0, 1) for place, width in widths.items()
    }


def test_smoothing_alone_changes_nothing(graph, ranges, model, tmp_path):
    smoothed = ir.load(graph)
    before = {k: v.const_value.numpy().copy() for k, v in smoothed.graph.initializers.items()}
    for layer in (0, 1):
        w8a8._smooth(w8a8._Weights(smoothed.graph, layer), read_ranges(ranges), str(layer), 4)
    after = {k: v.const_value.numpy() for k, v in smoothed.graph.initializers.items()}
    assert sum(not np.array_equal(before[k], after[k]) for k in before) == 2 * (7 + 2 + 1)
    path, _ = save(smoothed, tmp_path / "decoder.onnx")
    inputs = feeds(model)
    np.testing.assert_allclose(hidden_states(path, inputs), hidden_states(graph, inputs), atol=1e-4)


def test_every_matrix_is_an_integer_one_and_little_is_lost(graph, integer_graph, model):
    kinds = [node.op_type for node in onnx.load(integer_graph).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 14
    assert "MatMul" not in kinds
    # Tokens are rounded once for all matrices that read them.
    assert kinds.count("QuantizeLinear") == 8
    inputs = feeds(model)
    exact = hidden_states(graph, inputs)[:, -1:]
    lost = np.sqrt(np.square(hidden_states(integer_graph, inputs) - exact).mean())
    # Deviation of the hidden states is 1; 0.033 was measured.
    assert 0.001 < lost < 0.06


def test_a_token_does_not_depend_on_the_size_of_later_ones(integer_graph, model):
    inputs = feeds(model)
    session = ort.InferenceSession(str(integer_graph), providers=["CPUExecutionProvider"])
    alone = session.run(["present.1.key"], inputs)[0]
    inputs["inputs_embeds"] = inputs["inputs_embeds"].copy()
    inputs["inputs_embeds"][:, -1] = np.random.default_rng(1).normal(size=64) * 1000
    found = session.run(["present.1.key"], inputs)[0]
    np.testing.assert_allclose(found[:, :, :-1], alone[:, :, :-1], atol=1e-5)
    assert not np.allclose(found[:, :, -1], alone[:, :, -1], atol=1e-2)


def test_a_token_of_zeros_gives_numbers(integer_graph, model):
    inputs = feeds(model)
    inputs["inputs_embeds"] = np.zeros_like(inputs["inputs_embeds"])
    assert np.isfinite(hidden_states(integer_graph, inputs)).all()


def test_equal_inputs_give_equal_bytes(graph, ranges, integer_graph, tmp_path):
    again = finish_decoder(graph, tmp_path, "w8a8", ranges=ranges)
    for path in again:
        assert path.read_bytes() == integer_graph.with_name(path.name).read_bytes()


@pytest.mark.parametrize("precision", ["w8a8", "int8"])
def test_ranges_and_w8a8_belong_together(graph, ranges, tmp_path, precision):
    given = None if precision == "w8a8" else ranges
    with pytest.raises(ArtifactError, match="belong to a decoder in w8a8"):
        finish_decoder(graph, tmp_path, precision, ranges=given)


def test_ranges_of_another_model_are_refused(graph, ranges, tmp_path):
    arrays = dict(read_ranges(ranges))
    arrays["1.down"] = arrays["1.down"][:100]
    np.savez(tmp_path / "ranges.npz", **arrays)
    with pytest.raises(ArtifactError, match="100 ranges for 192 rows"):
        finish_decoder(graph, tmp_path, "w8a8", ranges=tmp_path / "ranges.npz")
    np.savez(tmp_path / "ranges.npz", **{k: v for k, v in arrays.items() if k[0] == "0"})
    with pytest.raises(ArtifactError, match="this one has 2 layers"):
        finish_decoder(graph, tmp_path, "w8a8", ranges=tmp_path / "ranges.npz")
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ArtifactError, match="no ranges of activations"):
        read_ranges(tmp_path / "text.npz")


def test_ranges_need_samples(checkpoint, tmp_path):
    with pytest.raises(ArtifactError, match="none were given"):
        measure_ranges(checkpoint, tmp_path / "ranges.npz", [])


def test_the_probe_of_the_runtime_is_what_the_export_writes(tmp_path):
    ir.save(w8a8.probe_model(), tmp_path / "products.onnx")
    assert (tmp_path / "products.onnx").read_bytes() == integers.PROBE.read_bytes()
    session = ort.InferenceSession(str(integers.PROBE), providers=["CPUExecutionProvider"])
    one = np.full((1, 64), 129, np.uint8)
    assert np.all(session.run(None, {"tokens": one})[0] == 64 * 127)


def test_a_processor_that_cuts_products_off_gives_no_verdict(
    biased, ranges, contents, tmp_path, monkeypatch
):
    artifact = tmp_path / "artifact"
    export_onnx(biased, artifact, contents, precision="w8a8", ranges=ranges)
    # Without VNNI pairs of products end at 32767.
    monkeypatch.setattr(
        integers, "_products", lambda: np.full((4, 32), 32 * (32767 - 2 * 128 * 127))
    )
    with pytest.raises(EngineError, match="does not add products of 8-bit integers exactly"):
        Guard.load(artifact, ocr=False)
    monkeypatch.undo()
    try:
        integers.check_products()
    except EngineError:
        pytest.skip("this processor cannot")
    with Guard.load(artifact, threads=1, ocr=False) as guard:
        assert 0 < guard.moderate("How do I sharpen a knife?").request.score < 1
