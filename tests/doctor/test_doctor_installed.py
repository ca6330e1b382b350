"""An installed bundle: which one it is, whose it is, and every file that is not as it came.

The installs are real ones of small bundles, with a stand-in of a few lines for our wheel.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("model_signing")

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))

from doctor_jobs import subject
from small import keys, small_bundle, stand_in

from proguard_edge.artifact import Artifact
from proguard_edge.bundle.install import Installed, install, installed_in
from proguard_edge.doctor import contents, installed
from proguard_edge.doctor.finding import Finding
from proguard_edge.starter import STARTER

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
STARTER_IN_WHEEL = "proguard_edge/starter/artifact/artifact.json"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return keys(tmp_path_factory.mktemp("keys") / "pair")


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return keys(tmp_path_factory.mktemp("keys") / "others")[1]


def put(folder: Path, key: Path | None, more: dict[str, str] | None = None) -> Installed:
    """An install of release 7, with an artifact and a policy. more: files of our wheel."""
    made = stand_in("7.0", more=more or {})
    lock = f"proguard-edge==7.0 --hash=sha256:{hashlib.sha256(made).hexdigest()}\n".encode()
    files: dict[str, Path | bytes] = {
        "wheels/proguard_edge-7.0-py3-none-any.whl": made,
        "requirements/runtime.txt": lock,
        "artifacts/a/artifact.json": b"{}",
        "policies/ours.yaml": b"name: ours\n",
    }
    bundle = small_bundle(folder / "7.pgb", key, release=7, files=files, python=HERE)
    return install(bundle, None, folder / "opt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, str]) -> Installed:
    """A signed install."""
    return put(tmp_path_factory.mktemp("made"), pair[0])


@pytest.fixture
def here(made: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """A copy of it, as if this were its Python."""
    folder = tmp_path / "versions" / made.folder.name
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("venv"))
    monkeypatch.setattr(sys, "prefix", str(folder / "venv"))
    return installed_in(folder)


def found(public_key: str | None = None) -> list[Finding]:
    return list(installed.check(subject(STARTER, public_key=public_key)))


def problems(public_key: str | None = None) -> list[str]:
    return [finding.found for finding in found(public_key) if finding.state == "problem"]


def test_release_name_and_key_of_an_install_are_told(here, pair):
    whose, files = found(pair[1])
    assert (whose.state, whose.found) == ("ok", "release 7 of small, signed by this key")
    assert (files.state, files.found.split()[1]) == ("ok", "3")
    assert whose.details["digest"] == here.manifest.digest


@pytest.mark.usefixtures("here")
def test_without_a_key_the_signature_is_a_note():
    whose, files = found()
    assert (whose.state, files.state) == ("note", "ok")
    assert "release 7 of small; its signature was not checked" in whose.found
    assert "--public-key" in whose.remedy


@pytest.mark.usefixtures("here")
def test_another_key_is_a_problem(other_key):
    (said,) = problems(other_key)
    assert "manifest.sig: signed with another key" in said


def test_an_unsigned_bundle_is_a_note_and_with_a_key_a_problem(tmp_path, monkeypatch, pair):
    made = put(tmp_path, None)
    monkeypatch.setattr(sys, "prefix", str(made.folder / "venv"))
    assert [finding.state for finding in found()] == ["note", "ok"]
    (said,) = problems(pair[1])
    assert "not signed" in said


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("artifacts/a/artifact.json", "changed"),
        ("artifacts/a/artifact.json", "other size"),
        ("policies/ours.yaml", "missing"),
        ("policies/ours.yaml", "a pipe"),
        ("wheels/proguard_edge-7.0-py3-none-any.whl", "changed"),
        ("policies/more.yaml", "one more"),
        ("artifacts/b", "a link to a folder"),
    ],
)
def test_each_file_that_is_not_as_it_came_is_named(here, pair, name, what):
    path = here.folder / name
    if what == "changed":
        raw = path.read_bytes()
        path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    elif what == "a link to a folder":
        path.symlink_to(here.folder / "artifacts" / "a")
    elif what in ("one more", "other size"):
        path.write_bytes(b"name: more\n")
    else:
        path.unlink()
        if what == "a pipe":
            os.mkfifo(path)
    for key in (pair[1], None):
        (said,) = problems(key)
        assert said.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "name", ["policies", "artifacts/a", "policies/ours.yaml", "artifacts/a/artifact.json"]
)
def test_a_link_is_not_what_came_even_where_it_leads_to_the_same_bytes(here, tmp_path, name):
    path = here.folder / name
    path.replace(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (said,) = problems()
    assert said == f"{path}: is a link, and came with the bundle as none"


def test_many_files_are_counted_and_all_named_for_machines(here):
    for number in range(installed.MAX_NAMED + 5):
        (here.folder / "policies" / f"{number:03}.yaml").write_bytes(b"")
    said = [finding for finding in found() if finding.state == "problem"]
    assert len(said) == installed.MAX_NAMED + 1
    assert said[-1].found == "and 5 files more"
    assert len(said[0].details["faults"]) == installed.MAX_NAMED + 5


@pytest.mark.parametrize("change", ["gone", "malformed", "another", "a folder"])
def test_a_manifest_that_is_not_the_one_it_came_with_is_a_problem(here, pair, change):
    path = here.folder / "manifest.json"
    raw = path.read_bytes()
    if change == "another":
        path.write_bytes(raw.replace(b'"release": 7', b'"release": 9'))
    elif change == "malformed":
        path.write_bytes(raw[:-9])
    else:
        path.unlink()
        if change == "a folder":
            path.mkdir()
    (said,) = problems(pair[1])
    assert "manifest.json" in said


def test_a_signature_that_was_taken_away_is_a_problem_with_a_key(here, pair):
    (here.folder / "manifest.sig").unlink()
    (said,) = problems(pair[1])
    assert "not signed" in said


def test_installing_the_same_bundle_again_mends_what_was_changed(tmp_path, pair, monkeypatch):
    made = put(tmp_path, pair[0])
    monkeypatch.setattr(sys, "prefix", str(made.folder / "venv"))
    (made.folder / "manifest.sig").unlink()
    (made.folder / "policies" / "ours.yaml").unlink()
    (made.folder / "policies" / "more.yaml").touch()
    (made.folder / "artifacts" / "a" / "artifact.json").write_bytes(b"[]")
    assert len(problems(pair[1])) == 4
    anew = install(tmp_path / "7.pgb", pair[1], tmp_path / "opt")
    assert anew.folder != made.folder
    monkeypatch.setattr(sys, "prefix", str(anew.folder / "venv"))
    assert [finding.state for finding in found(pair[1])] == ["ok", "ok"]


def test_another_environment_is_none_of_a_bundle(pair):
    (plain,) = found()
    assert (plain.state, "not installed from a bundle" in plain.found) == ("ok", True)
    (asked,) = found(pair[1])
    assert asked.state == "note"


def test_the_starter_is_signed_as_a_part_of_a_signed_bundle(tmp_path, monkeypatch, pair, other_key):
    manifest = (STARTER / "artifact.json").read_text(encoding="utf-8")
    made = put(tmp_path, pair[0], {STARTER_IN_WHEEL: manifest})

    def said(key: str) -> tuple[str, str]:
        of = [f for f in contents.check(subject(STARTER, public_key=key)) if "sign" in f.found]
        return of[0].state, of[0].found

    assert said(pair[1])[0] == "problem"
    monkeypatch.setattr(sys, "prefix", str(made.folder / "venv"))
    state, text = said(pair[1])
    assert (state, "as a part of release 7 of small" in text) == ("ok", True)
    assert said(other_key)[0] == "problem"
    wheel = made.folder / "wheels" / "proguard_edge-7.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert said(pair[1])[0] == "problem"


def test_an_artifact_that_was_read_already_is_not_read_again(here, monkeypatch):
    looked_at = subject(STARTER)
    looked_at.artifact = Artifact.open(STARTER)
    read: list[Path] = []
    real = installed.file_digest
    monkeypatch.setattr(installed, "file_digest", lambda path: read.append(path) or real(path))
    known = installed._verified(looked_at.artifact)
    assert known[STARTER.resolve() / "NOTICE"] == looked_at.artifact.files["NOTICE"].sha256
    paths = {here.folder / e.path: e.sha256 for e in here.manifest.files}
    assert list(installed.deviations(here, paths)) == []
    assert read == []
    assert list(installed.deviations(here, {})) == []
    assert len(read) == 3
