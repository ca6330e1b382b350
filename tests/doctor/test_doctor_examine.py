"""A check that fails is a problem: never a crash, never "ok", never silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from doctor_jobs import subject

from proguard_edge.doctor import Diagnosis, Finding
from proguard_edge.doctor.examine import CHECKS, examine


@pytest.fixture
def made(monkeypatch):
    """Makes a check out of a function."""

    def make(check):
        module = ModuleType("proguard_edge.doctor.made")
        module.check = check
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return list(examine("made", subject(Path())))

    return make


def test_a_check_that_fails_is_a_problem_and_what_it_found_before_stays(made):
    def check(_):
        yield Finding("made", "ok", "so far")
        raise RuntimeError("two\nlines")

    before, failed = made(check)
    assert before.found == "so far"
    assert (failed.check, failed.state) == ("made", "problem")
    assert failed.found == "could not be checked: RuntimeError: two lines"
    assert "Traceback" in failed.details["traceback"]
    assert json.dumps(failed.details)


def test_a_check_that_finds_nothing_is_a_problem(made):
    (found,) = made(lambda _: [])
    assert (found.state, "found nothing" in found.found) == ("problem", True)


def test_a_check_that_does_not_exist_or_cannot_be_imported_is_a_problem():
    (found,) = examine("absent", subject(Path()))
    assert (found.state, found.check) == ("problem", "absent")


def test_a_person_may_stop_it(made):
    def check(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(check)


@pytest.mark.parametrize(("state", "remedy"), [("ok", "do"), ("problem", None), ("note", "")])
def test_what_is_not_ok_names_a_remedy_and_what_is_ok_none(state, remedy):
    with pytest.raises(ValueError, match="remedy"):
        Finding("made", state, "something", remedy)


def test_only_problems_make_a_machine_unfit():
    def fit(*states):
        findings = [Finding("x", s, "found", None if s == "ok" else "do") for s in states]
        return Diagnosis(Path(), None, None, tuple(findings), 1.0).fit

    assert fit("ok", "note", "warning")
    assert not fit("ok", "problem")


def test_every_check_has_a_module():
    for name in CHECKS:
        assert callable(__import__(f"proguard_edge.doctor.{name}", fromlist=["check"]).check)
