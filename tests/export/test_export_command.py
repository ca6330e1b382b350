"""`proguard-edge export`, from the command line to a verdict's logits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from proguard_edge.artifact import Artifact, check_digests
from proguard_edge.cache import Cache
from proguard_edge.cli.export import export
from proguard_edge.engine import load_engine
from proguard_edge.export import extras
from proguard_edge.export.inspection import inspect
from proguard_edge.train.rows import Row, write_jsonl


def run(*arguments):
    """Without a gate, unless the arguments name rows for it."""
    words = [str(argument) for argument in arguments]
    if "-o" in words and "--data" not in words:
        words.append("--no-gate")
    return CliRunner().invoke(export, words)


def test_an_int4_artifact_from_the_command_line_runs(checkpoint, tmp_path):
    out = tmp_path / "artifact"
    done = run(checkpoint, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    assert "decoder, int4" in done.stderr
    summary = json.loads(done.stdout)
    artifact = Artifact.open(out)
    check_digests(artifact)
    assert summary["digest"] == artifact.digest
    assert (
        summary["bytes"]
        == sum(path.stat().st_size for path in out.iterdir())
        - (out / "artifact.json").stat().st_size
    )
    engine = load_engine(artifact, Cache(None), threads=1)
    with engine.start(np.arange(1, 20)) as sequence:
        assert np.isfinite(sequence.extend(np.arange(30, 50))).all()


def test_the_reference_artifact_keeps_the_weights(checkpoint, tmp_path):
    out = tmp_path / "artifact"
    done = run(checkpoint, "-o", out, "--recipe", "transformers", "--name", "reference")
    assert done.exit_code == 0, done.output
    assert "reference, transformers float32, sha256 " in done.stdout
    weights = (out / "hf" / "model.safetensors").read_bytes()
    assert weights == (checkpoint / "model.safetensors").read_bytes()


def test_both_engines_agree(checkpoint, fp32, tmp_path):
    out = tmp_path / "artifact"
    assert run(checkpoint, "-o", out, "--recipe", "transformers").exit_code == 0
    prefix, content = np.arange(1, 40), np.arange(50, 80)
    logits = []
    for artifact in (fp32, Artifact.open(out)):
        with load_engine(artifact, Cache(None), threads=1).start(prefix) as sequence:
            logits.append(sequence.extend(content))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_an_occupied_folder_is_an_error(checkpoint, tmp_path):
    (tmp_path / "mine").touch()
    done = run(checkpoint, "-o", tmp_path)
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "not empty" in done.stderr


def test_a_missing_extra_names_what_to_install(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = run(checkpoint, "-o", tmp_path / "a")
    assert done.exit_code == 3
    assert done.stderr.count("error: ") == 1
    assert "pip install 'proguard-edge[export]'" in done.stderr


def test_a_recipe_and_its_options_are_checked_before_anything_is_made(checkpoint, tmp_path):
    out = tmp_path / "a"
    for words, expected in (
        (("--recipe", "onnx-int5"), "no recipe 'onnx-int5'"),
        (("--set", "onnx.colour=1"), "has no option colour"),
        (("--min-agreement", "99", "--data", "rows.jsonl"), "not percent"),
    ):
        done = run(checkpoint, "-o", out, *words)
        assert done.exit_code == 3
        assert expected in done.stderr
        assert not out.exists()


def test_without_rows_the_gate_must_be_declined(checkpoint, tmp_path):
    done = CliRunner().invoke(export, [str(checkpoint), "-o", str(tmp_path / "a")])
    assert done.exit_code == 2
    assert "--no-gate" in done.stderr


def test_recipes_are_listed():
    done = run("recipes", "--json")
    found = {of["name"]: of for of in json.loads(done.stdout)}
    assert {"onnx-int4", "onnx-int8", "gptq-int4", "trtllm-int4", "bnb-nf4"} <= set(found)
    assert 2 < found["onnx-int4"]["gigabytes"]["3B"] < 5


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = [
        Row(f"r{i}", "own", "none", f"Sentence number {i}", None, None, label, None, None)
        for i in range(12)
        for label in ["unsafe" if i % 2 else "safe"]
    ]
    write_jsonl(path, made)
    return path


def test_the_gate_s_report_travels_with_the_artifact(checkpoint, rows, tmp_path):
    out = tmp_path / "a"
    words = ("--recipe", "onnx-fp32", "--template", "edge", "--data", rows, "--min-rows", "10")
    done = run(checkpoint, "-o", out, *words, "--json")
    assert done.exit_code == 0, done.output
    artifact = Artifact.open(out)
    check_digests(artifact)
    quality = artifact.manifest["quality"]
    assert quality["passed"]
    assert quality["parts"]["request"]["agreement"] == 1.0
    assert {"quality.json", "quality.md", "quality.png"} <= set(artifact.files)
    shown = run("inspect", out)
    assert "attention" in shown.stdout
    assert '"agreement": 1.0' in shown.stdout
    again = run(checkpoint, "-o", tmp_path / "b", *words, "--work", tmp_path / "a.work")
    assert again.exit_code == 0, again.output
    assert "done before" in again.stderr


def test_a_failed_gate_leaves_its_report_and_no_artifact(checkpoint, rows, tmp_path):
    out = tmp_path / "a"
    words = ("--recipe", "onnx-int8", "--template", "edge", "--data", rows)
    done = run(checkpoint, "-o", out, *words, "--min-rows", "1000")
    assert done.exit_code == 3
    assert "12 requests were compared, 1000 are needed" in done.stderr
    assert not out.exists()
    report = json.loads((tmp_path / "a.quality" / "quality.json").read_text())
    assert report["gate"]["passed"] is False


def test_inspection_counts_every_byte_of_the_weights(fp32):
    found = inspect(fp32)
    weights = sum(held["bytes"] for held in found["modules"])
    files = sum(size for name, size in found["files"].items() if name.endswith((".data", ".npy")))
    assert 0 < weights - files < 0.05 * files or abs(weights - files) < 0.05 * files
    assert {held["precision"] for held in found["modules"]} <= {"float", "int64", "float32"}
