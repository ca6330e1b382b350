"""A whole recipe: shared integers, an artifact that is judged through another, resumed steps."""

from __future__ import annotations

import json

import pytest
import yaml
from artifacts import contents as contents_of

from proguard_edge.artifact import check_digests
from proguard_edge.errors import ArtifactError, QualityError
from proguard_edge.export.gate import Gate
from proguard_edge.export.pipeline import run_recipe
from proguard_edge.export.quality import Limits
from proguard_edge.export.recipe import Recipe
from proguard_edge.export.stages import Source
from proguard_edge.train.rows import Row, write_jsonl

RECIPE = {
    "name": "served",
    "summary": "round to nearest, for TensorRT-LLM",
    "hardware": "a GPU",
    "steps": {
        "rounded": {"stage": "rtn", "group_size": 32},
        "check": {"stage": "onnx", "precision": "int4", "gptq": "rounded", "embeddings": "float32"},
        "served": {"stage": "trtllm", "gptq": "rounded"},
    },
    "artifact": "served",
    "judged": "check",
}
LOOSE = Limits(min_agreement=0.5, max_kl=1, max_f1_drop=1, max_recall_drop=1, min_rows=8)
CONTENTS = contents_of(free_names=False, modalities=("text",))


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    path = tmp_path / "served.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return Recipe.load(str(path))


@pytest.fixture
def rows() -> list[Row]:
    return [
        Row(f"r{i}", "own", "none", f"This is sentence number {i} of a short text.", None, None,
            "unsafe" if i % 2 else "safe", None, None)
        for i in range(8)
    ]  # fmt: skip


def test_an_artifact_for_another_machine_is_judged_through_its_integers(
    checkpoint, recipe, rows, tmp_path
):
    said = []
    source = Source(checkpoint, CONTENTS)
    work = tmp_path / "work"
    done = run_recipe(recipe, source, tmp_path / "out", work, Gate(rows, LOOSE), report=said.append)
    artifact = done.artifact
    check_digests(artifact)
    assert (artifact.engine, artifact.precision) == ("tensorrt_llm", "w4a16_awq")
    assert any("TensorRT-LLM itself was not run" in line for line in said)
    quality = artifact.manifest["quality"]
    assert (quality["measured"], quality["judged"], quality["passed"]) == (True, "check", True)
    assert set(done.steps) == {"rounded", "check", "served"}
    assert all(step["peak_rss_mb"]["own"] > 50 for step in done.steps.values())
    report = json.loads((artifact.folder / "quality.json").read_text())
    assert report["before"].startswith("tiny, transformers")
    assert report["after"].startswith("tiny, onnx int4")

    said.clear()
    again = run_recipe(
        recipe, source, tmp_path / "again", work, Gate(rows, LOOSE), report=said.append
    )
    assert sum("done before" in line for line in said) == 3
    assert again.artifact.digest == artifact.digest


def test_other_contents_make_other_steps(checkpoint, recipe, tmp_path):
    work = tmp_path / "work"
    run_recipe(recipe, Source(checkpoint, CONTENTS), tmp_path / "a", work, None)
    said = []
    other = contents_of("compact", free_names=False, modalities=("text",))
    made = run_recipe(
        recipe, Source(checkpoint, other), tmp_path / "b", work, None, report=said.append
    )
    assert not any("done before" in line for line in said)
    assert made.artifact.manifest["quality"] == {"measured": False}


def test_a_strict_gate_keeps_an_old_artifact_in_its_place(checkpoint, recipe, rows, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    source = Source(checkpoint, CONTENTS)
    old = run_recipe(recipe, source, out, work, None).artifact.digest
    strict = Gate(rows, Limits(min_agreement=0, max_kl=0, min_rows=1))
    with pytest.raises(QualityError, match="diverge"):
        run_recipe(recipe, source, out, work, strict, force=True)
    from proguard_edge.artifact import Artifact

    assert Artifact.open(out).digest == old
    assert (tmp_path / "out.quality" / "quality.md").is_file()


def test_rows_to_calibrate_on_are_asked_for_and_part_of_the_key(checkpoint, tmp_path):
    made = {
        **RECIPE,
        "steps": {"set": {"stage": "calibration", "size": 2}, **RECIPE["steps"]},
    }
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    recipe, work = Recipe.load(str(path)), tmp_path / "work"
    with pytest.raises(ArtifactError, match="--calibration"):
        run_recipe(recipe, Source(checkpoint, CONTENTS), tmp_path / "a", work, None)
    data = tmp_path / "rows.jsonl"
    labels = ["safe", "unsafe", "safe"]
    write_jsonl(data, [Row(f"c{i}", "own", "none", f"text {i}", None, None, label, None, None)
                       for i, label in enumerate(labels)])  # fmt: skip
    done = run_recipe(recipe, Source(checkpoint, CONTENTS, data), tmp_path / "a", work, None)
    # A folder without its record is what the failed run left behind.
    folder = next(p.with_suffix("") for p in work.glob("calibration-*.json"))
    assert len((folder / "rows.jsonl").read_text().splitlines()) == 2
    assert done.steps["set"]["stage"] == "calibration"
