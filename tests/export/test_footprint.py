"""The tables of docs/workstation.md against the real modules, and against what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proguard_edge.engine.kv import KVShape
from proguard_edge.export import footprint
from proguard_edge.export.footprint import ROUTES, TABLES, judging, kept, kv_bytes
from proguard_edge.export.sizes import PROGUARD, SHAPES, TOWER

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def result(name: str):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", ["3B", "7B"])
def test_weights_are_counted_as_in_the_model(model):
    torch = pytest.importorskip("torch")
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shape = SHAPES[model]
    config = Qwen2_5_VLConfig(
        text_config=shape,
        vision_config={**TOWER, "out_hidden_size": shape["hidden_size"]},
        tie_word_embeddings=shape["tie_word_embeddings"],
    )
    with torch.device("meta"):
        found = Qwen2_5_VLForConditionalGeneration(config)
    count = sum(parameter.numel() for parameter in found.parameters())
    # Norms, biases and the embedding of patches are not counted.
    assert 0 <= count - PROGUARD[model].total < 0.002 * count


def test_keys_and_values_are_those_of_the_engine():
    for model, shape in SHAPES.items():
        head = shape["hidden_size"] // shape["num_attention_heads"]
        buffer = KVShape(shape["num_hidden_layers"], shape["num_key_value_heads"], head).zeros(1000)
        assert kv_bytes(model, 1000, 4) == buffer.nbytes


@pytest.mark.parametrize(
    ("recipe", "file", "measured"),
    [
        ("onnx-int4", "real_shape_3b.json", lambda r: r["contenders"][0]["megabytes"] * 1e6),
        ("onnx-w8a8", "real_shape_3b_w8a8.json", lambda r: r["contenders"][0]["megabytes"] * 1e6),
        (
            "trtllm-int4",
            "real_shape_3b.json",
            lambda r: r["exports"]["rtn (GPTQ layout)"]["bytes"]["trtllm"],
        ),
    ],
)
def test_an_artifact_is_as_large_as_one_of_that_shape_was(recipe, file, measured):
    assert kept(recipe, "3B") == pytest.approx(measured(result(file)), rel=0.03)


def test_memory_while_judging_is_what_a_process_took_at_most():
    int4 = next(route for route in ROUTES if route.recipe == "onnx-int4")
    peak = result("real_shape_3b.json")["memory"]["peak_rss_mb"] * 1e6
    assert peak <= sum(judging(int4, "3B")) < 1.1 * peak


def test_a_card_keeps_a_tenth_of_its_memory_free():
    assert footprint.card(7.2e9) == "8 GB"
    assert footprint.card(7.3e9) == "12 GB"


def test_every_table_has_a_line_for_both_models():
    for table in (make() for make in TABLES.values()):
        assert "3B" in table
        assert "7B" in table
