"""TensorRT Edge-LLM: the kernel's weight layout, and the check of an exported graph."""

from __future__ import annotations

import sys

import numpy as np
import onnx_ir as ir
import pytest
from artifacts import contents as contents_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_checkpoint

from proguard_edge.artifact import check_digests
from proguard_edge.environments import interpreter
from proguard_edge.errors import ArtifactError
from proguard_edge.export.edgellm import (
    PLUGIN,
    PYTHON,
    check_graph,
    check_python,
    check_shapes,
    export_edgellm,
    half_copy,
)
from proguard_edge.export.edgellm_layout import pack, unpack
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.gptq_round import round_to_gptq
from proguard_edge.export.tensor_file import TensorFolder


def by_hand(levels: np.ndarray, row: int, thread: int) -> int:
    """One 32-bit word, spelled out from the description of the layout, tile by tile."""
    inputs, outputs = levels.shape
    tiles = -(-inputs // 64)
    tile, index = divmod(row, 8)
    tile_n, tile_k = divmod(tile, tiles)
    step, half = divmod(index, 2)
    word = 0
    for place, (upper, offset) in enumerate(
        [(0, 0), (0, 8), (1, 0), (1, 8), (0, 1), (0, 9), (1, 1), (1, 9)]
    ):
        n = 128 * tile_n + 64 * half + thread // 4 + 32 * upper
        k = 64 * tile_k + 16 * step + 2 * (thread % 4) + offset
        level = int(levels[k, n]) if n < outputs and k < inputs else 8
        word |= level << (4 * place)
    return word


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_layout_is_the_described_one_and_reads_back(wide, deep, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 16, (64 * deep, 64 * wide), dtype=np.uint8)
    packed = pack(levels)
    np.testing.assert_array_equal(unpack(packed, 64 * wide, 64 * deep), levels)
    words = packed.view("<u4")
    for _ in range(20):
        row, thread = rng.integers(len(words)), rng.integers(128)
        assert words[row, thread] == by_hand(levels, int(row), int(thread))


def test_padding_and_shapes_are_checked():
    packed = pack(np.full((64, 64), 3, np.uint8))
    with pytest.raises(ArtifactError, match="shape"):
        unpack(packed, 192, 64)
    with pytest.raises(ArtifactError, match="not zero"):
        unpack(np.zeros_like(packed), 64, 64)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint that the kernel's tiles can take, rounded to the GPTQ layout."""
    folder = tmp_path_factory.mktemp("wide")
    made = tiny_checkpoint(folder / "tiny", hidden=128, layers=1)
    return made, round_to_gptq(made, folder / "gptq", 64)


def graph_of(gptq: GptqCheckpoint, path, change=None):
    """A graph that holds the folder's matrices as the exporter writes them."""
    nodes, values = [], []
    entries = [gptq.linear(name) for name in gptq.decoder.values()]
    for number, linear in enumerate(entries):
        levels = linear.levels.copy()
        if change is not None and number == 2:
            levels = change(levels)
            if levels is None:
                continue
        inputs, outputs = levels.shape
        weights = ir.Value(name=f"w{number}", const_value=ir.tensor(pack(levels)))
        scales = ir.Value(name=f"s{number}", const_value=ir.tensor(np.array(linear.scales)))
        values += [weights, scales]
        attributes = {"gemm_n": outputs, "gemm_k": inputs, "group_size": gptq.group_size}
        x = ir.Value(name=f"x{number}")
        nodes.append(ir.node(PLUGIN, [x, weights, scales], attributes, domain="trt_edgellm"))
    inputs = [node.inputs[0] for node in nodes]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=values, opset_imports={"": 20})
    ir.save(ir.Model(graph, ir_version=10), path)
    return path


def moved(levels):
    levels[5, 7] ^= 1
    return levels


def test_a_graph_with_gptq_s_integers_passes_and_a_changed_one_does_not(wide, tmp_path):
    gptq = GptqCheckpoint(wide[1])
    check_shapes(gptq)
    assert check_graph(graph_of(gptq, tmp_path / "a.onnx"), gptq) == 7
    with pytest.raises(ArtifactError, match="integers that GPTQ does not"):
        check_graph(graph_of(gptq, tmp_path / "b.onnx", moved), gptq)
    with pytest.raises(ArtifactError, match="is not in the graph"):
        check_graph(graph_of(gptq, tmp_path / "c.onnx", lambda _: None), gptq)


def test_float32_becomes_float16_and_integers_stay(wide, tmp_path):
    half_copy(wide[1], tmp_path / "half")
    before, after = TensorFolder(wide[1]), TensorFolder(tmp_path / "half")
    assert before.names() == after.names()
    for name in before.names():
        if before.spec(name).dtype == "F32":
            np.testing.assert_array_equal(after.array(name), before.array(name).astype("f2"))
        else:
            assert after.raw(name) == before.raw(name)


def test_a_python_without_the_exporter_names_the_command():
    with pytest.raises(ArtifactError, match="proguard-edge env create edgellm"):
        check_python(sys.executable)


@pytest.mark.slow
@pytest.mark.skipif(
    interpreter("edgellm", None, PYTHON) == sys.executable,
    reason=f"no {PYTHON}, no `env create edgellm`",
)
def test_nvidia_s_exporter_keeps_every_integer(wide, tmp_path):
    # Released checkpoints have one, and the exporter stops without it.
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (wide[1] / "chat_template.jinja").write_text(template)
    said = []
    made = export_edgellm(wide[1], tmp_path / "out", wide[0], contents_of(), report=said.append)
    check_digests(made)
    assert made.engine == "edgellm"
    assert any("7 matrices of the graph hold the integers" in line for line in said)
    assert {"edgellm/llm/model.onnx", "edgellm/visual/model.onnx", "edgellm/build.sh"} <= set(
        made.files
    )
