"""Environments are made whole from pinned wheels, and found by the commands that need them."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from wheels import lock, wheel

from proguard_edge.cli import elsewhere, main
from proguard_edge.environments import (
    Environment,
    Plan,
    create,
    find,
    found,
    interpreter,
    lookup,
    own,
    root,
)
from proguard_edge.environments.lookup import FOLDER, INSIDE
from proguard_edge.environments.own import origin, write_wheel
from proguard_edge.environments.record import RECORD, Made, make_it, write
from proguard_edge.errors import InputError
from proguard_edge.requirements import LOCKS
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


def stand_in(envs: Path, stage: str, *additions: str, **other: str) -> Environment:
    """An environment as `create` leaves it, with this interpreter in it."""
    folder = envs / f"{stage}.0"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    made = dataclasses.replace(Made.of(stage, "cpu", additions, LOCKS), **other)
    write(folder, made)
    (envs / stage).symlink_to(folder.name)
    return Environment(folder, made)


@here
def test_an_environment_is_made_of_what_the_lock_pins_and_is_not_made_twice(plan, envs):
    said: list[str] = []
    assert create(plan, said.append) == envs / "edgellm"
    made = find("edgellm")
    code = "import tensorrt_edgellm; print(tensorrt_edgellm.VERSION)"
    done = subprocess.run([made.python, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert found() == {"edgellm": made}
    assert interpreter("edgellm", None) == made.python
    create(plan, said.append)
    assert said[-1] == "it is there already"
    assert find("edgellm") == made


@here
def test_another_lock_makes_it_anew_and_the_one_before_stays_for_who_uses_it(plan, tmp_path):
    create(plan)
    first = find("edgellm")
    newer = wheel(tmp_path / "wheels", "tensorrt_edgellm", "2.0", {"tensorrt_edgellm.py": "V = 2"})
    lock(tmp_path / "locks", "edgellm", newer)
    with pytest.raises(InputError, match="made by other lock files"):
        find("edgellm")
    create(plan)
    assert find("edgellm").folder != first.folder
    assert first.folder.exists()


@here
def test_a_try_that_fails_leaves_the_one_before_in_use(plan, tmp_path):
    create(plan)
    before = find("edgellm")
    path = tmp_path / "wheels" / "tensorrt_edgellm-2.0-py3-none-any.whl"
    wheel(tmp_path / "wheels", "tensorrt_edgellm", "2.0", {"tensorrt_edgellm.py": "V = 2\n"})
    lock(tmp_path / "next", "edgellm", path)
    path.unlink()
    with pytest.raises(InputError, match="pip failed: ERROR: No matching distribution"):
        create(dataclasses.replace(plan, locks=tmp_path / "next"))
    assert find("edgellm") == before
    assert [each.name for each in before.folder.parent.glob("edgellm.*")] == [before.folder.name]


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
    create(plan)
    assert find("edgellm") is not None


@here
@pytest.mark.usefixtures("plan")
def test_a_wheel_that_is_missing_is_said_in_one_line(tmp_path):
    (tmp_path / "wheels" / "tensorrt_edgellm-1.0-py3-none-any.whl").unlink()
    folders = ["--wheelhouse", str(tmp_path / "wheels"), "--locks", str(tmp_path / "locks")]
    result = CliRunner().invoke(main, ["env", "create", "edgellm", *folders])
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("error: pip failed: ERROR: No matching")


@here
def test_a_lock_without_what_the_stage_imports_makes_no_environment(tmp_path):
    lock(tmp_path / "locks", "edgellm", wheel(tmp_path / "wheels", "other", "1", {"other.py": ""}))
    with pytest.raises(InputError, match=r"edgellm\.txt: brings no tensorrt_edgellm"):
        create(Plan("edgellm", wheelhouse=tmp_path / "wheels", locks=tmp_path / "locks"))
    assert find("edgellm") is None


@here
def test_what_a_killed_try_left_is_cleared_away(plan, envs):
    (envs / "edgellm.dead").mkdir(parents=True)
    create(plan)
    assert not (envs / "edgellm.dead").exists()


@here
def test_two_at_once_are_refused(plan, envs):
    import fcntl

    envs.mkdir()
    with (envs / ".edgellm.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another `env create edgellm` is running"):
            create(plan)


@here
def test_an_environment_that_lost_its_packages_is_made_anew(plan):
    create(plan)
    broken = find("edgellm")
    for path in (broken.folder / "lib").rglob("tensorrt_edgellm.py"):
        path.unlink()
    create(plan)
    assert find("edgellm").folder != broken.folder


@here
def test_something_else_in_its_place_is_left_alone(plan, envs):
    (envs / "edgellm").mkdir(parents=True)
    (envs / "edgellm" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="something else lies here"):
        create(plan)
    assert (envs / "edgellm" / "letter.txt").read_text() == "dear"


def test_stages_that_conflict_do_not_come_into_one_environment():
    with pytest.raises(InputError, match="gptq and serve cannot be in one environment"):
        create(Plan("serve", additions=("gptq",)))


def test_a_target_without_a_lock_is_refused():
    told = r"cuda12/export\.txt: no lock file; .* for export are for cpu and cuda13"
    with pytest.raises(InputError, match=told):
        create(Plan("export", target="cuda12"))


def test_who_has_no_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr(lookup, "root", lambda: None)
    monkeypatch.setattr("proguard_edge.environments.creation.root", lambda: None)
    assert find("serve") is None
    with pytest.raises(InputError, match=f"set {FOLDER}"):
        create(Plan("runtime"))


# Which may be used.


@pytest.mark.parametrize(
    ("other", "told"),
    [({"origin": "x"}, "another version of proguard-edge"), ({"lock": "x"}, "other lock files")],
)
def test_an_environment_of_another_time_is_refused_with_the_command_that_makes_it(
    envs, other, told
):
    stand_in(envs, "serve", "ocr", **other)
    with pytest.raises(
        InputError, match=rf"by {told}: proguard-edge env create serve --with ocr makes it anew"
    ):
        find("serve")
    assert "not to be used" in CliRunner().invoke(main, ["env", "list"]).stdout


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"stage": "nope"}']
    + [
        json.dumps({**dict.fromkeys(("locks", "lock", "origin"), ""), **each})
        for each in (
            {"stage": "edgellm", "target": "cpu", "additions": []},
            {"stage": "train", "target": "cpu --python /tmp/x", "additions": []},
            {"stage": "train", "target": "cpu", "additions": ["nope"]},
        )
    ],
)
def test_a_damaged_or_forged_record_is_an_error_that_names_the_command(envs, text):
    environment = stand_in(envs, "train")
    (environment.folder / RECORD).write_text(text)
    with pytest.raises(InputError, match="proguard-edge env create train makes it anew"):
        find("train")
    listed = CliRunner().invoke(main, ["env", "list"])
    assert (listed.exit_code, "not to be used" in listed.stdout) == (0, True)


def test_what_others_may_change_is_not_run(envs):
    environment = stand_in(envs, "train")
    for folder in (envs, environment.folder):
        folder.chmod(0o777)
        with pytest.raises(InputError, match="others may write to it"):
            find("train")
        folder.chmod(0o755)
    assert find("train") == environment


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_run(envs):
    environment = stand_in(envs, "train")
    os.chown(environment.folder, 12345, 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        find("train")


def test_an_interpreter_that_is_gone_is_said(envs):
    environment = stand_in(envs, "train")
    Path(environment.python).unlink()
    with pytest.raises(InputError, match="cannot be run: proguard-edge env create train"):
        find("train")


def test_an_option_comes_before_a_variable_before_an_environment_before_this_interpreter(
    envs, monkeypatch
):
    assert interpreter("gptq", None, "X_PYTHON") == sys.executable
    made = stand_in(envs, "gptq")
    assert interpreter("gptq", None, "X_PYTHON") == made.python
    monkeypatch.setenv("X_PYTHON", "/variable")
    assert interpreter("gptq", None, "X_PYTHON") == "/variable"
    assert interpreter("gptq", "/option", "X_PYTHON") == "/option"


def test_beside_an_installed_bundle_the_environments_lie_in_it(tmp_path, monkeypatch):
    version = tmp_path / "versions" / "0123"
    version.mkdir(parents=True)
    monkeypatch.setattr(lookup.sys, "prefix", str(version / "venv"))
    home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert root(home) == tmp_path / "data" / "proguard-edge" / "envs"
    (version / "manifest.json").touch()
    assert root(home) == version / "envs"


def test_the_command_that_makes_it_tells_all_of_it():
    told = make_it("serve", "cuda13", ["ocr", "hf"])
    assert told == "proguard-edge env create serve --with ocr --with hf --target cuda13"


# A command runs where its packages are.


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, str]]]:
    """What a command became, when no stage is here."""
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(Stage, "is_here", lambda self: self.name == "runtime")
    monkeypatch.setattr(elsewhere.os, "execve", lambda *call: calls.append(call))
    return calls


def test_a_command_becomes_the_same_command_in_the_environment_of_its_stage(envs, became):
    made = stand_in(envs, "export")
    result = CliRunner().invoke(main, ["export", "recipes"])
    ((python, command, variables),) = became
    assert python == command[0] == made.python
    assert command[-2:] == ["export", "recipes"]
    assert (variables[INSIDE], variables[FOLDER]) == ("export", str(envs))
    assert f"running in {made.folder}" in result.stderr


def test_a_command_stays_where_there_is_no_environment_or_it_is_in_one(envs, became, monkeypatch):
    CliRunner().invoke(main, ["export", "recipes"])
    CliRunner().invoke(main, ["policy", "show"])
    stand_in(envs, "export")
    CliRunner().invoke(main, ["export", "--help"])
    monkeypatch.setenv(INSIDE, "export")
    CliRunner().invoke(main, ["export", "recipes"])
    assert became == []


def test_an_environment_of_another_version_stops_the_command(envs, became):
    stand_in(envs, "serve", origin="another")
    result = CliRunner().invoke(main, ["serve"])
    assert (result.exit_code, became) == (3, [])
    assert "env create serve makes it anew" in result.stderr


def test_a_command_that_judges_does_not_go_where_text_in_images_is_not_read(
    envs, became, monkeypatch
):
    monkeypatch.setattr(Stage, "is_here", lambda self: self.name == "ocr")
    stand_in(envs, "serve", "hf")
    result = CliRunner().invoke(main, ["serve"])
    assert (result.exit_code, became) == (3, [])
    assert "proguard-edge env create serve --with hf --with ocr" in result.stderr
    stand_in(envs, "scan", "ocr")
    CliRunner().invoke(main, ["scan", "rows.jsonl", "-o", "out"])
    assert len(became) == 1


def jump(envs: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Really become a command of the stage bench, in a process of its own in that folder."""
    script = (
        "import sys\nfrom proguard_edge.stages import Stage\n"
        "Stage.is_here = lambda self: False\n"
        "from proguard_edge.cli import main\nmain()"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        cwd=folder,
        env={**os.environ, FOLDER: str(envs)},
        capture_output=True,
        text=True,
    )


def with_packages(environment: Environment) -> None:
    """Give it this interpreter's packages: its python becomes a script that runs this one."""
    python = Path(environment.python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def test_no_module_of_the_current_folder_takes_part(envs, tmp_path):
    with_packages(stand_in(envs, "bench"))
    planted = tmp_path / "planted"
    (planted / "proguard_edge").mkdir(parents=True)
    for path in ("proguard_edge/__init__.py", "json.py"):
        (planted / path).write_text("print('EVIL'); raise SystemExit(0)\n")
    done = jump(envs, planted, "bench", "compare", "none.json", "none.json")
    assert "EVIL" not in done.stdout + done.stderr
    assert (done.returncode, "none.json" in done.stderr) == (3, True), done.stderr


def test_an_environment_without_our_package_is_an_error_and_not_an_unsafe(envs, tmp_path):
    environment = stand_in(envs, "bench")
    shutil.rmtree(environment.folder / "bin")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(environment.folder)], check=True
    )
    done = jump(envs, tmp_path, "bench", "compare", "a.json", "b.json")
    assert done.returncode == 3
    assert "No module named 'proguard_edge'" in done.stderr
    assert "proguard-edge env create bench makes it anew" in done.stderr


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
    monkeypatch.setattr(own, "checkout", lambda: None)
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
    assert len(origin()) == 64


def test_a_changed_file_of_the_installed_package_is_not_carried_on(installed, tmp_path):
    before = origin()
    (installed / "proguard_edge" / "__init__.py").write_text("VERSION = 10\n")
    with pytest.raises(InputError, match="is not as it was installed"):
        write_wheel(tmp_path)
    assert origin() == before


def test_every_stage_tells_what_it_is_there_for():
    assert all(stage.about for stage in STAGES.values())
    assert STAGES["runtime"].is_here()
    assert not Stage("none", "", modules=("no_such_module",)).is_here()
