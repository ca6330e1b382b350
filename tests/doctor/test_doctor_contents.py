"""Broken artifacts: each fault is named, and nothing relies on the artifact afterwards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from doctor_jobs import subject

from proguard_edge.artifact import Artifact, sign_artifact, write_artifact
from proguard_edge.doctor.contents import check
from proguard_edge.doctor.finding import Finding
from proguard_edge.starter import STARTER


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The starter as links; a test that writes to a file takes its link away first."""
    folder = tmp_path / "copy"
    shutil.copytree(STARTER, folder, copy_function=os.symlink)
    return folder


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def described(folder: Path, **changes: object) -> Path:
    """With other fields in the manifest; None takes one away."""
    (folder / "artifact.json").unlink()
    fields = {**Artifact.open(STARTER).description(), **changes}
    write_artifact(folder, {name: value for name, value in fields.items() if value is not None})
    return folder


def examined(folder: Path) -> tuple[list[Finding], bool]:
    """The findings, and whether the artifact may be used."""
    looked_at = subject(folder)
    return list(check(looked_at)), looked_at.artifact is not None


def problem(folder: Path) -> Finding:
    """The only finding that is not ok."""
    findings, usable = examined(folder)
    assert not usable
    (bad,) = [finding for finding in findings if finding.state != "ok"]
    assert (bad.check, bad.state) == ("artifact", "problem")
    return bad


def of_state(folder: Path, state: str) -> str:
    findings, usable = examined(folder)
    assert usable
    return "\n".join(finding.found for finding in findings if finding.state == state)


def test_the_starter_is_whole_and_says_what_it_may_be_used_for():
    findings, usable = examined(STARTER)
    assert usable
    assert {finding.state for finding in findings} == {"ok", "note"}
    (note,) = [finding for finding in findings if finding.state == "note"]
    assert "CC-BY-NC-4.0" in note.found
    text = "\n".join(finding.found for finding in findings)
    for said in ("every byte as listed", "engine onnx, int4", "reads text in en", "bounded"):
        assert said in text


def test_a_truncated_file_is_named_with_both_sizes(copy):
    data = (copy / "tokenizer.json").read_bytes()
    rewrite(copy / "tokenizer.json", data[:-1])
    found = problem(copy)
    assert "tokenizer.json" in found.found
    assert f"{len(data) - 1} bytes, the manifest says {len(data)}" in found.found
    assert found.remedy.startswith("copy the artifact again")


def test_one_byte_that_changed_is_found(copy):
    data = bytearray((copy / "embeddings.scales.npy").read_bytes())
    data[-1] ^= 1
    rewrite(copy / "embeddings.scales.npy", bytes(data))
    assert "embeddings.scales.npy: altered" in problem(copy).found


def test_a_missing_file_and_one_too_many_are_named(copy):
    (copy / "note.txt").write_text("x")
    assert "note.txt: not listed" in problem(copy).found
    (copy / "note.txt").unlink()
    (copy / "NOTICE").unlink()
    assert "NOTICE: No such file" in problem(copy).found


def test_a_folder_that_is_no_artifact_says_so(tmp_path):
    assert "not an artifact" in problem(tmp_path).found
    assert "not an artifact" in problem(tmp_path / "absent").found
    (tmp_path / "artifact.json").write_text('{"format": "proguard-edge/9"}')
    assert "proguard-edge/9" in problem(tmp_path).found


@pytest.mark.parametrize("engine", ["edgellm", "remote", "auto"])
def test_an_engine_that_does_not_run_here_is_a_problem(copy, engine):
    assert f"for the engine '{engine}'" in problem(described(copy, engine=engine)).found


def test_a_policy_or_a_template_that_cannot_be_read_is_a_problem(copy):
    policy = (copy / "policy.yaml").read_bytes()
    rewrite(copy / "policy.yaml", b"name: x\n")
    found = problem(described(copy))
    assert "policy.yaml" in found.found
    assert "policy validate" in found.remedy
    rewrite(copy / "policy.yaml", policy)
    rewrite(copy / "template.jinja", b"{% if %}")
    assert "template.jinja" in problem(described(copy)).found


def test_what_an_artifact_does_not_say_of_itself_is_a_note(copy):
    described(copy, languages=None, miss_bounds=None, licence=None, quality={"measured": False})
    notes = of_state(copy, "note")
    for said in ("which languages", "no bounds", "licence is not stated", "without the quality"):
        assert said in notes
    described(copy, calibration=None)
    assert "no calibrated scores" in of_state(copy, "note")


def test_a_licence_that_allows_all_use_is_ok(copy):
    assert "licence: Apache-2.0" in of_state(described(copy, licence="Apache-2.0"), "ok")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A private key's file; the public key that belongs to it, and another."""
    pytest.importorskip("model_signing")
    from proguard_edge.signing import keygen

    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "a.pem", folder / "a.pub")
    keygen(folder / "b.pem", folder / "b.pub")
    return folder / "a.pem", (folder / "a.pub").read_text(), (folder / "b.pub").read_text()


def signature_of(folder: Path, public_key: str | None) -> tuple[Finding | None, bool]:
    """What is said of the signature, and whether the artifact may be used."""
    looked_at = subject(folder, public_key=public_key)
    said = [f for f in check(looked_at) if "signe" in f.found or "signature" in f.found]
    return (said[0] if said else None), looked_at.artifact is not None


def test_a_signature_is_checked_with_a_key_and_mentioned_without(copy, keys):
    assert signature_of(copy, None) == (None, True)
    sign_artifact(copy, keys[0])
    good, usable = signature_of(copy, keys[1])
    assert (good.state, good.found, usable) == ("ok", "signed by this key", True)
    unchecked, usable = signature_of(copy, None)
    assert (unchecked.state, usable) == ("note", True)
    assert "was not checked" in unchecked.found
    assert "doctor --public-key" in unchecked.remedy


def test_an_artifact_that_this_key_did_not_sign_is_a_problem_and_is_not_used(copy, keys):
    unsigned, usable = signature_of(copy, keys[1])
    assert (unsigned.state, "not signed" in unsigned.found, usable) == ("problem", True, False)
    assert "artifact sign" in unsigned.remedy
    sign_artifact(copy, keys[0])
    other, usable = signature_of(copy, keys[2])
    assert (other.state, "another key" in other.found, usable) == ("problem", True, False)
    assert "do not use it" in other.remedy
    raw = (copy / "artifact.json").read_bytes()
    rewrite(copy / "artifact.json", raw + b" ")
    altered, usable = signature_of(copy, keys[1])
    assert (altered.state, "altered after" in altered.found, usable) == ("problem", True, False)


def test_findings_are_plain_data():
    findings, _ = examined(STARTER)
    assert json.loads(json.dumps([finding.details for finding in findings]))
