"""An install is in use as a whole or not at all; the version before stays and comes back.

The package inside these bundles is a stand-in of a few lines under our name, so that an install
takes seconds; what is real is everything around it: venv, pip without an index, hashes, links.
"""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("model_signing")

from small import keys, small_bundle, stand_in

from proguard_edge.bundle.create import SCRIPT
from proguard_edge.bundle.install import current, install, rollback, versions
from proguard_edge.bundle.prefix import COMPLETE, MARKER
from proguard_edge.bundle.script import next_commands
from proguard_edge.errors import ArtifactError, InputError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
WHEEL = "proguard_edge-{version}-py3-none-any.whl"


def bundle(
    folder: Path,
    release: int,
    key: Path | None = None,
    *,
    code: int = 0,
    python: str = HERE,
    lie: bool = False,
    stages: tuple[str, ...] = ("runtime",),
) -> Path:
    """A bundle of that release. lie: the lock file has another hash than the wheel."""
    version = f"{release}.0"
    made = stand_in(version, code)
    digest = hashlib.sha256(made + b"!" * lie).hexdigest()
    lock = f"proguard-edge=={version} --hash=sha256:{digest}\n".encode()
    files: dict[str, Path | bytes] = {
        f"wheels/{WHEEL.format(version=version)}": made,
        "requirements/runtime.txt": lock,
        "artifacts/a/artifact.json": b"{}",
    }
    out = folder / f"{release}.pgb"
    return small_bundle(out, key, release=release, files=files, python=python, stages=stages)


def said(prefix: Path) -> str:
    """What the command in use prints."""
    command = [str(prefix / "bin" / "proguard-edge")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_install_upgrade_and_rollback(tmp_path: Path) -> None:
    key, public = keys(tmp_path / "keys")
    prefix = tmp_path / "opt"
    steps: list[str] = []
    install(bundle(tmp_path, 1, key), public, prefix, say=steps.append)
    assert said(prefix) == "verdict of 1.0"
    assert len(steps) == 4
    install(bundle(tmp_path, 2, key), public, prefix)
    assert said(prefix) == "verdict of 2.0"
    assert [each.manifest.release for each in versions(prefix)] == [1, 2]
    assert rollback(prefix).manifest.release == 1
    assert said(prefix) == "verdict of 1.0"
    rollback(prefix)
    assert said(prefix) == "verdict of 2.0"


def test_a_stage_that_lives_apart_gets_an_environment_from_what_the_bundle_holds(
    tmp_path: Path,
) -> None:
    made = bundle(tmp_path, 1, stages=("runtime", "export", "train"))
    folder = install(made, None, tmp_path / "opt").folder
    told = (folder / "requirements" / "told").read_text().splitlines()
    assert told == [
        f"{folder}/envs {stage} --target cpu --wheelhouse {folder}/wheels "
        f"--locks {folder}/requirements"
        for stage in ("export", "train")
    ]


def test_a_stage_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the stage divination is not known here"):
        install(bundle(tmp_path, 1, stages=("runtime", "divination")), None, tmp_path / "opt")
    assert current(tmp_path / "opt") is None


def test_an_older_release_does_not_replace_a_newer_unless_it_must(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 2), None, prefix)
    with pytest.raises(ArtifactError, match="release 1 is older than 2"):
        install(bundle(tmp_path, 1), None, prefix)
    assert said(prefix) == "verdict of 2.0"
    install(bundle(tmp_path, 1), None, prefix, downgrade=True)
    assert said(prefix) == "verdict of 1.0"


def test_a_broken_bundle_leaves_everything_as_it_was(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    good = bundle(tmp_path, 2)
    raw = bytearray(good.read_bytes())
    raw[len(raw) // 2] ^= 1
    good.write_bytes(raw)
    with pytest.raises(ArtifactError):
        install(good, None, prefix)
    assert said(prefix) == "verdict of 1.0"
    assert len(list((prefix / "versions").iterdir())) <= 2


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        ({"code": 3}, "the first verdict failed"),
        ({"code": 1}, "what came is no verdict"),
        ({"lie": True}, "pip install of the stage runtime failed"),
        ({"python": "2.7"}, r"for Python 2\.7"),
    ],
)
def test_what_cannot_be_used_is_not_put_in_use(
    tmp_path: Path, broken: dict[str, object], match: str
) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    with pytest.raises(InputError, match=match):
        install(bundle(tmp_path, 2, **broken), None, prefix)  # type: ignore[arg-type]
    assert said(prefix) == "verdict of 1.0"
    install(bundle(tmp_path, 3), None, prefix)
    assert said(prefix) == "verdict of 3.0"


def test_nothing_to_go_back_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no version to go back to"):
        rollback(tmp_path)
    assert current(tmp_path) is None
    with pytest.raises(InputError, match="no such folder"):
        rollback(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_disk_of_its_own_may_be_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    install(bundle(tmp_path, 1), None, tmp_path / "disk")
    assert said(tmp_path / "disk") == "verdict of 1.0"


def test_two_installs_at_once_are_refused(tmp_path: Path) -> None:
    import fcntl

    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    with (prefix / MARKER).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another install"):
            install(bundle(tmp_path, 2), None, prefix)


@pytest.mark.parametrize("broken", [True, False])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(
    tmp_path: Path, broken: bool
) -> None:
    python = tmp_path / "pyenv" / "versions" / "3.12.1" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    made = bundle(tmp_path, 1)
    if broken:
        made.write_bytes(b"junk")
    before = sorted((tmp_path / "pyenv").rglob("*"))
    for call in (lambda at: install(made, None, at), rollback):
        with pytest.raises(InputError, match=r"pyenv: is not empty.* name a new folder"):
            call(tmp_path / "pyenv")
    assert sorted((tmp_path / "pyenv").rglob("*")) == before


def test_what_stopped_installs_left_goes_when_a_bundle_was_verified_and_nothing_else(
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    stopped, again, other = (
        prefix / "versions" / name for name in ("0" * 16, f"{'0' * 16}-2", "mine")
    )
    for folder in (stopped, again, other):
        (folder / "bin").mkdir(parents=True)
    good = bundle(tmp_path, 2)
    (junk := tmp_path / "junk.pgb").write_bytes(good.read_bytes()[:-10240])
    with pytest.raises(ArtifactError):
        install(junk, None, prefix)
    assert all(folder.exists() for folder in (stopped, again, other))
    install(good, None, prefix)
    assert [folder.exists() for folder in (stopped, again, other)] == [False, False, True]


def tampered(folder: Path, elsewhere: Path) -> None:
    """Change what one who may write to a version can: packages, commands, a folder for a link."""
    (package,) = (folder / "venv").glob("lib/*/site-packages/proguard_edge/__main__.py")
    package.write_text("print('verdict of somebody else')")
    (folder / "venv" / "bin" / "proguard-edge").write_text("#!/bin/sh\necho verdict of a shell\n")
    (folder / "artifacts").replace(elsewhere)
    (folder / "artifacts").symlink_to(elsewhere)


def test_the_same_bundle_again_makes_the_whole_version_anew(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    second = bundle(tmp_path, 2)
    first_folder = install(second, None, prefix).folder
    tampered(first_folder, tmp_path / "elsewhere")
    assert said(prefix) == "verdict of a shell"
    folder = install(second, None, prefix).folder
    assert said(prefix) == "verdict of 2.0"
    assert folder == first_folder.with_name(f"{first_folder.name}-2")
    assert not (folder / "artifacts").is_symlink()
    assert (tmp_path / "elsewhere" / "a" / "artifact.json").exists()
    assert [each.manifest.release for each in versions(prefix)] == [1, 2]
    assert install(second, None, prefix).folder == first_folder
    assert rollback(prefix).manifest.release == 1
    assert said(prefix) == "verdict of 1.0"


def test_while_a_version_is_made_anew_the_one_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "opt"
    made = bundle(tmp_path, 1)
    folder = install(made, None, prefix).folder
    answers: list[str] = []

    def failing(*_: object) -> None:
        answers.append(said(prefix))
        raise InputError("no verdict")

    monkeypatch.setattr("proguard_edge.bundle.install.first_verdict", failing)
    with pytest.raises(InputError, match="no verdict"):
        install(made, None, prefix)
    assert [*answers, said(prefix)] == ["verdict of 1.0"] * 2
    assert list((prefix / "versions").iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["gone", "malformed", "of another release"])
def test_over_a_damaged_version_the_same_or_a_newer_bundle_is_installed_and_no_older(
    tmp_path: Path, damage: str
) -> None:
    prefix = tmp_path / "opt"
    manifest = install(bundle(tmp_path, 2), None, prefix).folder / "manifest.json"
    raw = manifest.read_bytes()
    manifest.unlink()
    if damage != "gone":
        other = raw.replace(b'"release": 2', b'"release": 0')
        manifest.write_bytes(raw[:-9] if damage == "malformed" else other)
    with pytest.raises((InputError, ArtifactError), match=r"manifest\.json.*install"):
        current(prefix)
    with pytest.raises(ArtifactError, match="release 1 is older than 2"):
        install(bundle(tmp_path, 1), None, prefix)
    release = 3 if damage == "gone" else 2
    install(bundle(tmp_path, release), None, prefix)
    assert said(prefix) == f"verdict of {release}.0"
    assert current(prefix).manifest.release == release


def test_where_nothing_tells_the_release_in_use_another_bundle_needs_the_option(
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "opt"
    own, other = bundle(tmp_path, 2), bundle(tmp_path, 3)
    for made, option in ((own, False), (other, True)):
        folder = install(own, None, prefix).folder
        for name in ("manifest.json", COMPLETE):
            (folder / name).write_bytes(b"")
        with pytest.raises(ArtifactError, match=r"nothing in it tells which .* --allow-downgrade"):
            install(other, None, prefix)
        # What is damaged stays in use until there is something better.
        assert said(prefix) == "verdict of 2.0"
        done = install(made, None, prefix, downgrade=option)
        assert current(prefix).manifest == done.manifest


def test_a_damaged_version_is_not_gone_back_to(tmp_path: Path) -> None:
    prefix = tmp_path / "opt"
    before = install(bundle(tmp_path, 1), None, prefix).folder
    install(bundle(tmp_path, 2), None, prefix)
    (before / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ArtifactError, match=r"manifest\.json: malformed.*install the bundle again"):
        rollback(prefix)
    assert said(prefix) == "verdict of 2.0"


def test_the_commands_to_go_on_with_can_be_pasted_into_a_shell(
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "my opt"
    done = install(bundle(tmp_path, 1), None, prefix)
    doctor, moderate = next_commands(prefix, done).splitlines()[2:]
    at = str(prefix)
    assert shlex.split(doctor) == [f"{at}/bin/proguard-edge", "doctor", f"{at}/current/artifacts/a"]
    assert shlex.split(moderate)[2:] == [
        *("--artifact", f"{at}/current/artifacts/a", "--text", "How do I bake bread?")
    ]
    printed = subprocess.run(moderate, shell=True, capture_output=True, text=True, check=True)
    assert printed.stdout == "verdict of 1.0\n"


def kill_at_random_points(tmp_path: Path, times: int, seconds: float, release: int = 2) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    second = bundle(tmp_path, release)
    command = [sys.executable, "-I", str(tmp_path / SCRIPT), "install", str(second)]
    command += ["--unsigned", "--prefix", str(prefix)]
    draw = random.Random(0)
    for _ in range(times):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(0.0, seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # In use is one whole version, whichever: the kill may have come after the end.
        assert said(prefix) in ("verdict of 1.0", f"verdict of {release}.0")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert said(prefix) == f"verdict of {release}.0"
    left = list((prefix / "versions").iterdir())
    assert all((folder / COMPLETE).exists() for folder in left)
    assert [each.manifest.release for each in versions(prefix)] == list(range(1, release + 1))


def test_an_install_that_is_killed_leaves_the_version_before_in_use(tmp_path: Path) -> None:
    kill_at_random_points(tmp_path, 3, 5.0)
    assert rollback(tmp_path / "opt").manifest.release == 1


def test_a_killed_install_of_the_bundle_in_use_leaves_it_in_use(tmp_path: Path) -> None:
    kill_at_random_points(tmp_path, 2, 5.0, release=1)


@pytest.mark.slow
@pytest.mark.parametrize("release", [1, 2])
def test_twenty_kills(tmp_path: Path, release: int) -> None:
    kill_at_random_points(tmp_path, 20, 6.0, release)
