"""Recipe files, finished steps, and estimates."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from proguard_edge.errors import ArtifactError
from proguard_edge.export import sizes
from proguard_edge.export.recipe import Recipe, recipe_names
from proguard_edge.export.store import Store

RESULTS = Path(__file__).parents[2] / "bench" / "results"
MADE = {
    "name": "mine",
    "summary": "a line",
    "hardware": "this",
    "steps": {"a": {"stage": "rtn", "group_size": 64}, "b": {"stage": "onnx", "gptq": "a"}},
    "artifact": "b",
}


def load(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**MADE, **changes}))
    return Recipe.load(str(path))


@pytest.mark.parametrize("name", recipe_names())
def test_the_package_s_recipes(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.hardware
    assert sizes.need(recipe.step(recipe.artifact), sizes.PROGUARD["3B"]).kept > 1e9


def test_a_file_is_a_recipe(tmp_path):
    recipe = load(tmp_path, gate={"min_agreement": 0.9})
    assert recipe.judged == "b"
    assert recipe.limits.min_agreement == 0.9
    assert recipe.step("b").inputs == {"gptq": "a"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"artifact": "c"}, "no step 'c'"),
        ({"judged": "c"}, "no step 'c'"),
        ({"steps": {"b": {"stage": "onnx", "gptq": "a"}}}, "no step before"),
        ({"steps": {"b": {"stage": "trtllm"}}}, "b needs gptq"),
        ({"steps": {"b": {"stage": "bake"}}}, "no stage 'bake'"),
        ({"steps": {"b": {"stage": "onnx", "colour": 1}}}, "no option colour"),
        ({"gate": {"min_agreemnt": 0.9}}, "a gate has no min_agreemnt"),
        ({"extra": 1}, "a recipe has no extra"),
        ({"steps": 3}, "not a recipe"),
        ({"steps": {"b": None}}, "not a recipe"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    with pytest.raises(ArtifactError, match=words):
        load(tmp_path, **changes)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ArtifactError, match="onnx-int4"):
        Recipe.load("onnx-int5")


def test_options_are_set_by_step_and_name(tmp_path):
    recipe = load(tmp_path).with_options({"a.group_size": 32})
    assert recipe.step("a").options == {"group_size": 32}
    with pytest.raises(ArtifactError, match="no option"):
        recipe.with_options({"c.group_size": 32})
    with pytest.raises(ArtifactError, match="has no option colour"):
        recipe.with_options({"a.colour": 32})


def test_a_finished_step_is_not_run_again(tmp_path):
    store, runs = Store(tmp_path), []

    def make(folder):
        runs.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").write_text("x")

    folder, record, there = store.step("onnx", "k" * 64, {"stage": "onnx"}, make)
    assert not there
    assert record["bytes"] == 1
    again, _, there = store.step("onnx", "k" * 64, {"stage": "onnx"}, make)
    assert there
    assert again == folder
    assert len(runs) == 1
    store.step("onnx", "l" * 64, {"stage": "onnx"}, make)
    assert len(runs) == 2


def test_a_stopped_step_begins_again_with_an_empty_folder(tmp_path):
    store = Store(tmp_path)

    def stop(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.step("onnx", "k" * 64, {}, stop)
    left = []
    store.step("onnx", "k" * 64, {}, lambda folder: left.extend(folder.iterdir()))
    assert left == []


def test_a_full_disk_stops_before_the_first_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    with pytest.raises(ArtifactError, match=r"1\.0 GB are free.*--work"):
        sizes.check_disk(Recipe.load("onnx-int4"), sizes.PROGUARD["7B"], tmp_path / "work")


def test_weights_of_a_config_are_those_of_the_checkpoint(checkpoint):
    from safetensors import safe_open

    found = sizes.Weights.of(json.loads((checkpoint / "config.json").read_text()))
    counts = {"decoder": 0, "table": 0, "vision": 0}
    with safe_open(checkpoint / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            shape = file.get_slice(name).get_shape()
            kind = "vision" if "visual" in name else "table" if "embed" in name else "decoder"
            if len(shape) == 2 and "patch" not in name:
                counts[kind] += shape[0] * shape[1]
    assert found.decoder == counts["decoder"]
    assert found.table == counts["table"]
    assert found.vision == counts["vision"]


def test_a_config_that_lacks_a_size_is_an_error():
    with pytest.raises(ArtifactError, match="hidden_size"):
        sizes.Weights.of({})


def test_memory_of_the_released_sizes_is_estimated_near_what_was_measured():
    """onnx-int4 of a checkpoint of 3B's shape in bfloat16 took 6.4 GB at its peak."""
    recipe = Recipe.load("onnx-int4")
    step = recipe.step(recipe.artifact)
    assert 6.4e9 < sizes.need(step, sizes.PROGUARD["3B"]).memory < 10e9
    assert sizes.need(step, sizes.PROGUARD["7B"]).memory < 24 * 2**30


def test_integer_products_take_a_byte_a_weight():
    recipe = Recipe.load("onnx-w8a8")
    of = sizes.PROGUARD["3B"]
    assert of.decoder < sizes.need(recipe.step("onnx"), of, vision=False).kept < 1.2 * of.decoder
    assert sizes.need(recipe.step("ranges"), of).memory > 2 * of.total


def test_what_bitsandbytes_takes_on_disk_is_as_measured_on_the_starter():
    measured = json.loads((RESULTS / "recipes.json").read_text())["recipes"]
    megabytes = {of["recipe"]: of["megabytes"] for of in measured}
    decoder = 30 * (576 * 64 * (2 * 9 + 2 * 3) + 3 * 576 * 1536)
    weights = sizes.Weights(decoder, decoder // 30, 0, 0, 0)
    kept = [
        sizes.need(recipe.step(recipe.artifact), weights).kept / 1e6
        for recipe in map(Recipe.load, ("bnb-int8", "bnb-nf4"))
    ]
    # The difference is the decoder's alone: everything else stays as it was in both.
    assert kept[0] - kept[1] == pytest.approx(
        megabytes["bnb-int8"] - megabytes["bnb-nf4"], rel=0.02
    )
