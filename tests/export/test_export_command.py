"""`proguard-edge export`, from the command line to a verdict's logits."""

from __future__ import annotations

import json

import numpy as np
from click.testing import CliRunner

from proguard_edge.artifact import Artifact, check_digests
from proguard_edge.cache import Cache
from proguard_edge.cli.export import export
from proguard_edge.engine import load_engine
from proguard_edge.export import extras


def run(*arguments):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


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
    done = run(checkpoint, "-o", out, "--engine", "transformers", "--name", "reference")
    assert done.exit_code == 0, done.output
    assert "reference, transformers float32, sha256 " in done.stdout
    weights = (out / "hf" / "model.safetensors").read_bytes()
    assert weights == (checkpoint / "model.safetensors").read_bytes()


def test_both_engines_agree(checkpoint, fp32, tmp_path):
    out = tmp_path / "artifact"
    assert run(checkpoint, "-o", out, "--engine", "transformers").exit_code == 0
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
    assert done.stderr.startswith("error: ")
    assert "not empty" in done.stderr


def test_a_missing_extra_is_one_line(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    done = run(checkpoint, "-o", tmp_path / "a")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert "pip install 'proguard-edge[export]'" in done.stderr


def test_options_of_the_other_engine_are_a_usage_error(checkpoint, tmp_path):
    done = run(checkpoint, "-o", tmp_path / "a", "--engine", "transformers", "--precision", "int4")
    assert done.exit_code == 2
