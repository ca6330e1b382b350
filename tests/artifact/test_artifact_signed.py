"""A signed artifact is its maker's, or an error that names the file, before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("model_signing")

from click.testing import CliRunner, Result
from variants import variant

from proguard_edge.artifact import (
    Artifact,
    check_digests,
    check_signature,
    sign_artifact,
    write_artifact,
)
from proguard_edge.calibration.fit import write as calibrated
from proguard_edge.cli import main
from proguard_edge.engine import load
from proguard_edge.errors import ArtifactError, InputError
from proguard_edge.guard import Guard
from proguard_edge.signing import keygen
from proguard_edge.starter import STARTER


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of the private and of the public key."""
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "maker.pem", folder / "maker.pub")
    return folder / "maker.pem", folder / "maker.pub"


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """The public key of somebody else."""
    keygen(tmp_path / "other.pem", tmp_path / "other.pub")
    return tmp_path / "other.pub"


@pytest.fixture
def signed(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    """A signed copy of the starter."""
    folder = shutil.copytree(STARTER, tmp_path / "signed")
    sign_artifact(folder, pair[0])
    return folder


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def check(folder: Path, public: Path) -> None:
    check_signature(Artifact.open(folder), public.read_text())


def test_signing_keeps_the_digest_and_adds_one_file_that_the_reader_allows(signed, pair):
    assert Artifact.open(signed).digest == Artifact.open(STARTER).digest
    names = {path.name for path in signed.iterdir()} - {path.name for path in STARTER.iterdir()}
    assert names == {"artifact.sig"}
    check_digests(Artifact.open(signed))
    check(signed, pair[1])


def test_the_same_artifact_signed_twice_has_the_same_signature(signed, pair):
    first = (signed / "artifact.sig").read_bytes()
    sign_artifact(signed, pair[0])
    assert (signed / "artifact.sig").read_bytes() == first


def test_model_signing_itself_accepts_the_signature(signed, pair, tmp_path):
    from model_signing import verifying

    folder = tmp_path / "only the manifest"
    folder.mkdir()
    shutil.copy(signed / "artifact.json", folder)
    config = verifying.Config().use_elliptic_key_verifier(public_key=pair[1])
    config.verify(folder, signed / "artifact.sig")
    (folder / "artifact.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"mismatch|Hash"):
        config.verify(folder, signed / "artifact.sig")


def test_what_is_not_signed_or_by_another_key_is_an_error_that_names_the_signature(signed, another):
    with pytest.raises(ArtifactError, match=r"artifact\.sig: there is none.*not signed"):
        check(STARTER, another)
    with pytest.raises(ArtifactError, match=r"artifact\.sig: signed with another key"):
        check(signed, another)


def test_a_changed_manifest_is_named(signed, pair):
    manifest = signed / "artifact.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"bias"', b'"bias" '))
    with pytest.raises(ArtifactError, match=r"artifact\.json: was altered after it was signed"):
        check(signed, pair[1])


def test_no_byte_of_a_signature_may_change(signed, pair):
    path = signed / "artifact.sig"
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ArtifactError, match=r"artifact\.sig: "):
            check(signed, pair[1])
    for other in (b"", b"{}", b"[" * 100_000, good + b"\n", good[:-1]):
        path.write_bytes(other)
        with pytest.raises(ArtifactError, match=r"artifact\.sig: malformed"):
            check(signed, pair[1])


def test_a_signature_on_a_bundle_is_none_on_an_artifact(signed, pair):
    from proguard_edge.signing import sign

    raw = (signed / "artifact.json").read_bytes()
    (signed / "artifact.sig").write_bytes(sign("manifest.json", raw, pair[0]))
    with pytest.raises(ArtifactError, match=r"artifact\.sig: the signature is on something else"):
        check(signed, pair[1])


def test_a_signature_that_is_no_file_is_refused(signed, pair):
    (signed / "artifact.sig").unlink()
    (signed / "artifact.sig").mkdir()
    with pytest.raises(ArtifactError, match=r"artifact\.sig: not a regular file"):
        check(signed, pair[1])


def test_a_manifest_may_not_list_the_signature_or_itself(signed):
    manifest = json.loads((signed / "artifact.json").read_bytes())
    for name in ("artifact.sig", "artifact.json"):
        files = {**manifest["files"], name: {"size": 1, "sha256": "0" * 64}}
        (signed / "artifact.json").write_text(json.dumps({**manifest, "files": files}))
        with pytest.raises(ArtifactError, match=f"lists {name}"):
            Artifact.open(signed)


def test_what_is_not_as_listed_is_not_signed(tmp_path, pair):
    folder = shutil.copytree(STARTER, tmp_path / "copy")
    (folder / "NOTICE").write_bytes(b"x" * (folder / "NOTICE").stat().st_size)
    with pytest.raises(ArtifactError, match="NOTICE: altered"):
        sign_artifact(folder, pair[0])
    assert not (folder / "artifact.sig").exists()


def test_writing_another_manifest_drops_the_signature_and_says_so(signed, pair):
    said: list[str] = []
    description = Artifact.open(signed).description()
    write_artifact(signed, description, said.append)
    assert said == []
    check(signed, pair[1])
    write_artifact(signed, {**description, "name": "other"}, said.append)
    assert not (signed / "artifact.sig").exists()
    assert len(said) == 1
    assert "artifact.sig" in said[0]
    write_artifact(signed, description, said.append)
    assert len(said) == 1


def test_what_a_stopped_write_left_is_neither_listed_nor_in_the_way(signed, pair):
    description = Artifact.open(signed).description()
    for name in ("artifact.json.tmp", "artifact.sig.tmp"):
        (signed / name).write_bytes(b"{")
    assert sign_artifact(signed, pair[0]).digest == Artifact.open(STARTER).digest
    for name in ("artifact.json.tmp", "artifact.sig.tmp"):
        (signed / name).write_bytes(b"{")
    written = write_artifact(signed, description)
    assert written.digest == Artifact.open(STARTER).digest
    check_digests(written)


def test_a_listed_file_is_not_removed_for_its_name(signed, pair):
    description = Artifact.open(signed).description()
    (signed / "artifact.json.tmp").write_bytes(b"{")
    listed = json.loads((signed / "artifact.json").read_bytes())
    entry = {"size": 1, "sha256": hashlib.sha256(b"{").hexdigest()}
    listed["files"]["artifact.json.tmp"] = entry
    (signed / "artifact.json").write_text(json.dumps(listed))
    sign_artifact(signed, pair[0])
    check_digests(Artifact.open(signed))
    assert "artifact.json.tmp" not in write_artifact(signed, description).files


def test_calibrating_drops_the_signature_and_says_so(signed):
    said: list[str] = []
    calibrated(signed, miss_bounds={}, say=said.append)
    assert not (signed / "artifact.sig").exists()
    assert "artifact sign" in "\n".join(said)


def test_an_artifact_of_this_key_is_loaded_from_a_file_or_from_text(signed, pair):
    for key in (pair[1], str(pair[1]), pair[1].read_text()):
        with Guard.load(signed, threads=1, ocr=False, public_key=key) as guard:
            assert guard.moderate("How do I bake bread?").request.label == "safe"


@pytest.mark.parametrize("fault", ["unsigned", "other key", "altered", "no key", "no such key"])
def test_nothing_is_loaded_from_an_artifact_that_this_key_did_not_sign(
    signed: Path, pair: tuple[Path, Path], another: Path, fault: str, monkeypatch: Any
) -> None:
    key: Path | str = pair[1]
    if fault == "unsigned":
        (signed / "artifact.sig").unlink()
    elif fault == "other key":
        key = another
    elif fault == "altered":
        manifest = signed / "artifact.json"
        manifest.write_bytes(manifest.read_bytes() + b" ")
    elif fault == "no key":
        key = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    else:
        key = "absent.pub"
    touched: list[object] = []
    monkeypatch.setattr(load, "_loaded", lambda *a: touched.append(a))
    monkeypatch.setattr("proguard_edge.guard.verify_once", lambda *a: touched.append(a))
    expected = InputError if fault == "no such key" else ArtifactError
    with pytest.raises(expected):
        Guard.load(signed, public_key=key)
    assert touched == []


def test_a_signed_artifact_whose_other_files_changed_is_not_loaded(signed, pair):
    policy = signed / "policy.yaml"
    policy.write_bytes(policy.read_bytes().replace(b"Weapons", b"weapons"))
    with pytest.raises(ArtifactError, match=r"policy\.yaml: altered"):
        Guard.load(signed, public_key=pair[1])


def test_the_commands_sign_verify_and_refuse(tmp_path, pair, another):
    folder = shutil.copytree(STARTER, tmp_path / "copy")
    none = run("artifact", "verify", folder, "--public-key", pair[1])
    assert (none.exit_code, "artifact.sig" in none.stderr) == (3, True)
    assert run("artifact", "sign", folder, "--key", pair[0]).exit_code == 0
    good = run("artifact", "verify", folder, "--public-key", pair[1])
    assert (good.exit_code, "signed by this key" in good.output) == (0, True)
    assert "signed" not in run("artifact", "verify", folder).output
    assert "artifact.sig, not checked" in run("artifact", "show", folder).output
    bad = run("artifact", "verify", folder, "--public-key", another)
    assert (bad.exit_code, bad.stderr.count("\n")) == (3, 1)
    assert "signed with another key" in bad.stderr
    assert run("artifact", "sign", folder, "--key", pair[1]).exit_code == 3
    (folder / "NOTICE").write_bytes(b"")
    altered = run("artifact", "verify", folder, "--public-key", pair[1])
    assert (altered.exit_code, "NOTICE" in altered.stderr) == (3, True)


def test_moderate_takes_verdicts_from_artifacts_of_this_key_alone(signed, pair, another):
    words = ("moderate", "--text", "How do I bake bread?", "--no-ocr", "--artifact", signed)
    assert run(*words, "--public-key", pair[1]).exit_code == 0
    refused = run(*words, "--public-key", another)
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "artifact.sig: signed with another key" in refused.stderr


def test_a_worker_of_the_server_refuses_what_this_key_did_not_sign(signed, pair, another):
    from proguard_edge.serve.workers import GuardSpec, make_guard

    _, facts = make_guard(GuardSpec(signed, threads=1, ocr=False, public_key=pair[1].read_text()))
    assert facts.digest == Artifact.open(signed).digest
    with pytest.raises(ArtifactError, match="signed with another key"):
        make_guard(GuardSpec(signed, threads=1, public_key=another.read_text()))


VERIFY = """
import sys
for name in ("cryptography", "model_signing", "torch", "google.protobuf"):
    sys.modules[name] = None
from proguard_edge.cli import main
main(sys.argv[1:])
"""


def test_verifying_needs_nothing_but_the_runtime(signed, pair):
    words = ["artifact", "verify", str(signed), "--public-key", str(pair[1])]
    command = [sys.executable, "-c", VERIFY, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "signed by this key" in done.stdout


def test_a_variant_of_a_signed_artifact_is_not_signed(signed, pair, tmp_path):
    with pytest.raises(ArtifactError, match="not signed"):
        check(variant(signed, tmp_path / "other", name="other"), pair[1])
