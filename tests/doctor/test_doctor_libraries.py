"""Installed packages against requirements."""

from __future__ import annotations

import builtins
import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_jobs import Answers, dead, subject

from proguard_edge import system
from proguard_edge.artifact import Artifact
from proguard_edge.doctor.finding import Finding
from proguard_edge.doctor.helper import Helper
from proguard_edge.doctor.libraries import check
from proguard_edge.errors import EngineError
from proguard_edge.starter import STARTER

pytest.importorskip("packaging")

REQUIRED = [
    "numpy>=2.0",
    "onnxruntime>=1.23",
    'tomli>=2; python_version < "3.11"',
    'torch==2.13.0; extra == "hf"',
    'rapidocr<4,>=3.10; extra == "ocr"',
    'proguard-edge[hf]; extra == "bnb"',
    'bitsandbytes==0.50.2; extra == "bnb"',
]
GOOD = {"numpy": "2.4.6", "onnxruntime": "1.32.0"}


@pytest.fixture
def found(monkeypatch):
    """Findings where such versions are installed."""

    def look(installed: dict[str, str], engine: str = "onnx", **broken: Exception) -> list[Finding]:
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIRED)
        monkeypatch.setattr(system, "version", installed.get)
        artifact = replace(Artifact.open(STARTER), engine=engine)
        loads = {("load", name): broken.get(name) for name in ("numpy", "onnxruntime")}
        return list(check(subject(Path(), Answers(loads), artifact=artifact)))

    return look


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.state, finding.found) for finding in findings if finding.state != "ok"]


def test_this_installation_meets_its_own_requirements():
    helper = Helper()
    try:
        findings = list(check(subject(Path(), helper)))
    finally:
        helper.close()
    # Not of this project: two builds of opencv, say.
    assert {finding.state for finding in findings} <= {"ok", "warning"}
    assert [finding.state for finding in findings].count("ok") == 2


def test_versions_as_required_are_ok(found):
    first, last = found(GOOD)
    assert "all 2 of the runtime" in first.found
    assert last.found == "extras complete: none; not: bnb, hf, ocr"


@pytest.mark.parametrize("version", ["1.26.4", None])
def test_an_old_or_missing_numpy_is_a_problem_with_the_command_that_mends_it(found, version):
    findings = found({"onnxruntime": "1.32.0"} | ({"numpy": version} if version else {}))
    ((state, text),) = bad(findings)
    assert state == "problem"
    assert text.startswith(f"numpy: {version or 'none'}")
    assert findings[0].remedy.startswith("pip install 'numpy>=2.0'")


def test_a_library_that_cannot_be_loaded_is_a_problem(found):
    findings = found(GOOD, onnxruntime=dead("SIGILL"), numpy=EngineError("no such file"))
    assert [text for _, text in bad(findings)] == [
        "numpy 2.4.6 cannot be loaded: no such file",
        f"onnxruntime 1.32.0 cannot be loaded: {dead('SIGILL')}",
    ]
    assert "--force-reinstall 'numpy>=2.0'" in findings[1].remedy


def test_two_onnxruntimes_or_two_opencvs_overwrite_each_other(found):
    both = {"onnxruntime-gpu": "1.32.0", "opencv-python": "5.0", "opencv-python-headless": "5.0"}
    assert [state for state, _ in bad(found(GOOD | both))] == ["warning", "warning"]


def test_a_gpu_build_alone_is_the_onnxruntime_that_is_required(found):
    assert bad(found({"numpy": "2.4.6", "onnxruntime-gpu": "1.32.0"})) == []


def test_an_extra_made_of_another_needs_that_one_too(found):
    *_, last = found(GOOD | {"torch": "2.13.0+cpu", "bitsandbytes": "0.50.2"})
    assert last.details["complete"] == ["bnb", "hf"]
    *_, last = found(GOOD | {"bitsandbytes": "0.50.2"})
    assert last.details["lacking"]["bnb"] == ["torch==2.13.0"]


def test_an_artifact_whose_engine_is_not_installed_is_a_problem(found):
    ((state, text),) = bad(found(GOOD, "transformers"))
    assert (state, text) == ("problem", "the engine transformers lacks torch==2.13.0")


def test_without_a_reader_of_requirements_nothing_is_called_ok(found, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("packaging"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert [finding.state for finding in found(GOOD)] == ["note"]
    assert [finding.state for finding in found({"numpy": "2.4.6"})] == ["problem", "note"]


def test_sources_that_were_never_installed_are_a_warning(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    (only,) = check(subject(Path()))
    assert only.state == "warning"
