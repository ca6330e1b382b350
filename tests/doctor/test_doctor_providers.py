"""Execution providers: listed is not run, and a run elsewhere is no run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest
from doctor_jobs import Answers, dead, subject

from proguard_edge.doctor import providers
from proguard_edge.doctor.providers import Run, check, judged, probe
from proguard_edge.errors import EngineError

CPU, CUDA, AZURE = "CPUExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider"
RAN = Run(CPU, (CPU, CPU), True, "1.32.0")


def asked(answers: dict[str, object]) -> dict[str, str]:
    """Provider → state, where a probe answers so."""
    replies = {("probe", name): reply for name, reply in answers.items()}
    looked_at = subject(Path(), Answers({("listed", None): list(answers), **replies}))
    return {finding.details["provider"]: finding.state for finding in check(looked_at)}


def test_the_packaged_graph_is_what_the_export_writes(tmp_path):
    ir = pytest.importorskip("onnx_ir")
    from proguard_edge.export.probes import sums_model

    ir.save(sums_model(), tmp_path / "sums.onnx")
    assert (tmp_path / "sums.onnx").read_bytes() == providers.GRAPH.read_bytes()


def test_the_processor_runs_the_graph_and_says_so():
    run = probe(CPU)
    assert run == replace(RAN, version=ort.__version__)
    assert judged(run).state == "ok"


def test_a_provider_that_passes_the_graph_on_is_found_out():
    if AZURE not in ort.get_available_providers():
        pytest.skip("this onnxruntime was built without a provider that runs nothing")
    run = probe(AZURE)
    # The sums are right, and another one made them.
    assert (set(run.nodes), run.right) == ({CPU}, True)
    assert judged(run).state == "note"


def test_a_silent_fall_back_is_a_warning_and_for_the_one_that_is_asked_for_a_problem():
    found = judged(Run(CUDA, (CPU, CPU), True, "1.32.0"))
    assert (found.state, "was passed over" in found.found) == ("warning", True)
    assert judged(Run(CUDA, (CUDA, CPU), True, "1.32.0")).state == "warning"
    assert judged(Run(CUDA, (CUDA, CUDA), True, "1.32.0")).state == "ok"
    assert judged(replace(RAN, nodes=())).state == "problem"


def test_wrong_sums_are_a_problem():
    assert judged(replace(RAN, right=False)).state == "problem"
    assert judged(Run(CUDA, (CUDA, CUDA), False, "1.32.0")).state == "warning"


def test_one_that_dies_or_fails_leaves_the_others():
    states = asked({CUDA: dead("SIGSEGV"), CPU: RAN, AZURE: EngineError("no such library")})
    assert states == {CPU: "ok", CUDA: "warning", AZURE: "warning"}
    assert asked({CPU: dead("SIGILL")}) == {CPU: "problem"}


def test_an_onnxruntime_without_the_processor_is_a_problem():
    helper = Answers({("listed", None): []})
    (found,) = check(subject(Path(), helper))
    assert found.state == "problem"
