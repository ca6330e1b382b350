"""Environments are made whole from pinned wheels, and found by the commands that need them."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from wheels import lock, wheel

from proguard_edge.cli import elsewhere, main
from proguard_edge.environments import Environment, Plan, create, find, found, interpreter, root
from proguard_edge.environments import lookup as finding
from proguard_edge.environments.lookup import FOLDER, INSIDE, RECORD
from proguard_edge.environments.wheel import write_wheel
from proguard_edge.errors import InputError
from proguard_edge.stages import PYTHON, STAGES, Stage

LOCKED_FOR_THIS = ("{}.{}".format(*sys.version_info), platform.machine()) == (PYTHON, "x86_64")
here = pytest.mark.skipif(not LOCKED_FOR_THIS, reason="the stage is locked for another machine")


@pytest.fixture(autouse=True)
def envs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "envs"))
    monkeypatch.delenv(INSIDE, raising=False)
    return tmp_path / "envs"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Of the stage edgellm, which needs no proguard-edge in it, with a stand-in for its package."""
    content = {"tensorrt_edgellm.py": "VERSION = 1\n"}
    made = wheel(tmp_path / "wheels", "tensorrt_edgellm", "1.0", content)
    lock(tmp_path / "locks", "edgellm", made)
    return Plan("edgellm", wheelhouse=tmp_path / "wheels", locks=tmp_path / "locks")


def record(folder: Path, stage: str, origin: str) -> Environment:
    folder.mkdir(parents=True)
    environment = Environment(folder, stage, "cpu", (), "0" * 64, origin)
    environment.write()
    return environment


@here
def test_an_environment_is_made_of_what_the_lock_pins_and_is_not_made_twice(plan, envs):
    said: list[str] = []
    made = create(plan, said.append)
    assert made.folder == envs / "edgellm"
    code = "import tensorrt_edgellm; print(tensorrt_edgellm.VERSION)"
    done = subprocess.run([made.python, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert find("edgellm") == made
    assert found() == [made]
    assert interpreter("edgellm", None) == made.python
    before = (made.folder / RECORD).stat().st_mtime_ns
    assert create(plan, said.append) == made
    assert said[-1] == "it is there already"
    assert (made.folder / RECORD).stat().st_mtime_ns == before


@here
def test_another_lock_makes_it_anew(plan, tmp_path):
    first = create(plan)
    (first.folder / "left").touch()
    newer = wheel(tmp_path / "wheels", "tensorrt_edgellm", "2.0", {"tensorrt_edgellm.py": "V = 2"})
    lock(tmp_path / "locks", "edgellm", newer)
    second = create(plan)
    assert second.lock != first.lock
    assert not (first.folder / "left").exists()


@here
def test_a_wheel_that_is_not_the_one_that_was_locked_is_refused_and_the_next_try_completes(
    plan, tmp_path
):
    path = tmp_path / "wheels" / "tensorrt_edgellm-1.0-py3-none-any.whl"
    right = path.read_bytes()
    wheel(tmp_path / "wheels", "tensorrt_edgellm", "1.0", {"tensorrt_edgellm.py": "EVIL = 1\n"})
    with pytest.raises(InputError, match="pip failed: "):
        create(plan)
    assert find("edgellm") is None
    path.write_bytes(right)
    assert create(plan) == find("edgellm")


@here
@pytest.mark.usefixtures("plan")
def test_a_wheel_that_is_missing_is_said_in_one_line(tmp_path):
    (tmp_path / "wheels" / "tensorrt_edgellm-1.0-py3-none-any.whl").unlink()
    folders = ["--wheelhouse", str(tmp_path / "wheels"), "--locks", str(tmp_path / "locks")]
    result = CliRunner().invoke(main, ["env", "create", "edgellm", *folders])
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("error: pip failed: ")


@here
def test_a_lock_without_what_the_stage_imports_makes_no_environment(tmp_path):
    lock(tmp_path / "locks", "edgellm", wheel(tmp_path / "wheels", "other", "1", {"other.py": ""}))
    with pytest.raises(InputError, match=r"lacks \['tensorrt_edgellm'\]"):
        create(Plan("edgellm", wheelhouse=tmp_path / "wheels", locks=tmp_path / "locks"))
    assert find("edgellm") is None


@here
def test_a_folder_with_something_else_is_left_alone(plan, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else lies here"):
        create(dataclasses.replace(plan, folder=tmp_path / "mine"))
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_stages_that_conflict_do_not_come_into_one_environment():
    with pytest.raises(InputError, match="gptq and serve cannot be in one environment"):
        create(Plan("serve", additions=("gptq",)))


def test_a_target_without_a_lock_is_refused():
    told = r"cuda12/export\.txt: no lock file; .* for export are for cpu and cuda13"
    with pytest.raises(InputError, match=told):
        create(Plan("export", target="cuda12"))


def test_an_environment_of_another_version_is_refused_with_the_command_that_makes_it(envs):
    record(envs / "train", "train", "another")
    with pytest.raises(InputError, match=r"another version.*proguard-edge env create train makes"):
        find("train")
    result = CliRunner().invoke(main, ["env", "list"])
    assert "of another version" in result.stdout
    record(envs / "gptq", "gptq", finding.origin())
    assert find("gptq") is not None


def test_an_environment_whose_record_cannot_be_read_is_an_error(envs):
    (envs / "train").mkdir(parents=True)
    (envs / "train" / RECORD).write_text("{")
    with pytest.raises(InputError, match=r"environment\.json: cannot be read"):
        find("train")


def test_an_option_comes_before_a_variable_before_an_environment_before_this_interpreter(
    envs, monkeypatch
):
    assert interpreter("gptq", None, "X_PYTHON") == sys.executable
    made = record(envs / "gptq", "gptq", finding.origin())
    assert interpreter("gptq", None, "X_PYTHON") == made.python
    monkeypatch.setenv("X_PYTHON", "/variable")
    assert interpreter("gptq", None, "X_PYTHON") == "/variable"
    assert interpreter("gptq", "/option", "X_PYTHON") == "/option"


def test_beside_an_installed_bundle_the_environments_lie_in_it(tmp_path, monkeypatch):
    version = tmp_path / "versions" / "0123"
    (version / "requirements").mkdir(parents=True)
    monkeypatch.setattr(finding.sys, "prefix", str(version / "venv"))
    home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert root(home) == tmp_path / "data" / "proguard-edge" / "envs"
    (version / "manifest.json").touch()
    assert root(home) == version / "envs"


# A command runs where its packages are.


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, str]]]:
    """What a command became, when its stage is not here."""
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(Stage, "is_here", lambda self: self.name == "runtime")
    monkeypatch.setattr(elsewhere.os, "execve", lambda *call: calls.append(call))
    return calls


def test_a_command_becomes_the_same_command_in_the_environment_of_its_stage(envs, became):
    made = record(envs / "export", "export", finding.origin())
    result = CliRunner().invoke(main, ["export", "recipes", "--help"])
    ((python, command, variables),) = became
    assert python == command[0] == made.python
    assert command[1:] == ["-m", "proguard_edge", "export", "recipes", "--help"]
    assert (variables[INSIDE], variables[FOLDER]) == ("export", str(envs))
    assert f"running in {made.folder}" in result.stderr


def test_a_command_stays_where_there_is_no_environment_or_it_is_in_one(envs, became, monkeypatch):
    CliRunner().invoke(main, ["export", "--help"])
    CliRunner().invoke(main, ["policy", "--help"])
    record(envs / "export", "export", finding.origin())
    monkeypatch.setenv(INSIDE, "export")
    CliRunner().invoke(main, ["export", "--help"])
    assert became == []


def test_an_environment_of_another_version_stops_the_command(envs, became):
    record(envs / "serve", "serve", "another")
    result = CliRunner().invoke(main, ["serve"])
    assert (result.exit_code, became) == (3, [])
    assert "env create serve makes it anew" in result.stderr


# The package itself, in an environment on a machine without a source.


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages with a proguard-edge of one file, as pip leaves it."""
    made = wheel(
        tmp_path / "built", "proguard_edge", "9.0", {"proguard_edge/__init__.py": "VERSION = 9\n"}
    )
    place = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(place), str(made)], check=True, capture_output=True)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(finding, "checkout", lambda: None)
    return place


@pytest.mark.usefixtures("installed")
def test_what_is_installed_becomes_a_wheel_that_can_be_installed(tmp_path):
    (tmp_path / "again").mkdir()
    again = write_wheel(tmp_path / "again")
    assert again.name == "proguard_edge-9.0-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    place = tmp_path / "second"
    subprocess.run([*pip, "--target", str(place), str(again)], check=True, capture_output=True)
    assert (place / "proguard_edge" / "__init__.py").read_text() == "VERSION = 9\n"
    assert len(finding.origin()) == 64


def test_a_changed_file_of_the_installed_package_is_not_carried_on(installed, tmp_path):
    origin = finding.origin()
    (installed / "proguard_edge" / "__init__.py").write_text("VERSION = 10\n")
    with pytest.raises(InputError, match="is not as it was installed"):
        write_wheel(tmp_path)
    assert finding.origin() == origin


def test_every_stage_tells_what_it_is_there_for():
    assert all(stage.about for stage in STAGES.values())
    assert STAGES["runtime"].is_here()
    assert not Stage("none", "", modules=("no_such_module",)).is_here()
