"""`proguard-edge doctor`, as an operator runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proguard_edge import __version__
from proguard_edge.artifact import Artifact
from proguard_edge.cli.doctor import doctor
from proguard_edge.doctor import STATES, Diagnosis, Finding
from proguard_edge.starter import STARTER

CHECKS = {
    *(
        "artifact",
        "bundle",
        "libraries",
        "processor",
        "memory",
        "cache",
        "disk",
        "gpu",
        "providers",
    ),
    *("verdict", "prefix", "network"),
}


def run(cache: Path, *words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, sys.executable, "-m", "proguard_edge", "doctor", *map(str, words)]
    environment = {**os.environ, "PROGUARD_EDGE_CACHE": str(cache)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def invoked(*words: object) -> Result:
    return CliRunner().invoke(doctor, [str(word) for word in words])


def alone() -> tuple[str, ...]:
    """A command that takes the network away, where this machine lets us."""
    for words in (("unshare", "-n"), ("unshare", "-rn")):
        if shutil.which("unshare") is None:
            break
        if not subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
            return words
    return ()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doctor") / "cache"


@pytest.fixture(scope="module")
def report(cache: Path) -> dict:
    """Of the first run of a user, as JSON."""
    done = run(cache, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def found(report: dict, check: str) -> list[dict]:
    return [finding for finding in report["findings"] if finding["check"] == check]


def test_the_report_is_one_object_of_a_known_form(report):
    assert report["format"] == "proguard-edge-doctor/1"
    assert report["version"] == __version__
    assert report["fit"] is True
    digest = Artifact.open(STARTER).digest
    assert report["artifact"] == {
        "folder": str(STARTER),
        "name": "proguard-edge-starter",
        "digest": digest,
    }
    assert report["seconds"] > 0
    assert list(report["counts"]) == list(STATES)
    assert {finding["check"] for finding in report["findings"]} == CHECKS
    for finding in report["findings"]:
        assert list(finding) == ["check", "state", "found", "remedy", "details"]
        assert (finding["state"] == "ok") == (finding["remedy"] is None)
        assert "\n" not in finding["found"] + (finding["remedy"] or "")
        assert isinstance(finding["details"], dict)
    states = [finding["state"] for finding in report["findings"]]
    assert report["counts"] == {state: states.count(state) for state in STATES}


def test_the_starter_judges_here_as_it_should_and_reaches_for_nothing(report):
    (verdict,) = found(report, "verdict")
    assert "as it should" in verdict["found"]
    assert verdict["details"]["first"]["unsafe"]["outcome"] == "unsafe"
    silent, *_ = found(report, "network")
    assert silent["found"] == "nothing used a socket while all of this ran"
    assert silent["details"]["uses"] == []


def test_what_it_takes_is_near_what_was_estimated(report):
    (memory, *_) = found(report, "memory")
    (verdict,) = found(report, "verdict")
    assert verdict["details"]["peak"] == pytest.approx(memory["details"]["need"], rel=0.3)


def test_the_first_run_keeps_the_prefix(report):
    (prefix,) = found(report, "prefix")
    assert prefix["details"] == {"cached": False, "kept": True}


@pytest.mark.usefixtures("report")
def test_a_machine_without_a_network_is_fit_and_lines_are_plain(cache):
    before = alone()
    done = run(cache, "--expect-offline", before=before)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert summary.startswith("fit to judge with proguard-edge-starter: 0 problems, ")
    assert any(line.startswith("ok       prefix") and "lay in" in line for line in lines)
    states = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert states == sorted(states, key=STATES.index)
    if not before:
        pytest.skip("unshare cannot take the network away here")
    assert "ok       network    no interface but loopback is in use" in lines


SCRIPT = """
import sys
from proguard_edge.cli.doctor import doctor
try:
    doctor(sys.argv[1:])
except SystemExit as end:
    print("ended with", end.code, *{"onnxruntime", "torch"} & set(sys.modules))
"""


def test_a_broken_artifact_is_judged_by_nobody_and_ends_with_3(tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(STARTER, folder, copy_function=os.symlink)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_bytes(b"{}")
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    *lines, end = done.stdout.splitlines()
    # onnxruntime was loaded by the process that may crash, not by this one.
    assert end == "ended with 3"
    assert lines[0].startswith("problem  artifact")
    assert "tokenizer.json: 2 bytes" in lines[0]
    assert lines[2] == "problem  verdict    nothing was judged: the artifact cannot be used"
    assert lines[-1].startswith(f"not fit to judge with {folder}: 2 problems")


def test_a_key_that_did_not_sign_ends_with_3_and_one_that_is_none_says_so(tmp_path):
    pytest.importorskip("model_signing")
    from proguard_edge.signing import keygen

    keygen(tmp_path / "maker.pem", tmp_path / "maker.pub")
    done = run(tmp_path / "cache", "--public-key", tmp_path / "maker.pub")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("problem  artifact")
    assert "artifact.sig: there is none" in done.stdout.splitlines()[0]
    none = run(tmp_path / "cache", "--public-key", tmp_path / "maker.pem")
    assert (none.returncode, none.stdout) == (3, "")
    assert "no PEM file" in none.stderr


def diagnosed(monkeypatch, *findings: Finding) -> None:
    import proguard_edge.doctor

    diagnosis = Diagnosis(Path("/models/a"), None, None, findings, 1.0)
    monkeypatch.setattr(proguard_edge.doctor, "diagnose", lambda *_, **__: diagnosis)


def test_warnings_end_with_0_and_problems_with_3(monkeypatch):
    diagnosed(monkeypatch, Finding("memory", "warning", "little", "end programs"))
    assert invoked().exit_code == 0
    diagnosed(monkeypatch, Finding("memory", "problem", "none", "buy some"))
    result = invoked()
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "problem  memory     none",
        "                    → buy some",
        "not fit to judge with /models/a: 1 problem, 0 warnings, 1.0 s",
    ]
    assert invoked("--json").exit_code == 3


def test_a_name_with_escape_codes_does_not_steer_the_terminal(monkeypatch):
    diagnosed(monkeypatch, Finding("artifact", "problem", "\x1b[31mred", "\x1b[2J"))
    assert "\x1b" not in invoked().stdout


def test_an_error_that_nobody_foresaw_ends_with_3(monkeypatch):
    import proguard_edge.doctor

    def fail(*_, **__):
        raise RuntimeError("of all things")

    monkeypatch.setattr(proguard_edge.doctor, "diagnose", fail)
    result = invoked("--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "unexpected RuntimeError" in result.stderr


def test_wrong_use_ends_with_2():
    assert invoked("a", "b").exit_code == 2
    assert invoked("--expect-online").exit_code == 2
