"""An install is in use as a whole or not at all; the version before stays and comes back.

The package inside these bundles is a stand-in of a few lines under our name, so that an install
takes seconds; what is real is everything around it: venv, pip without an index, hashes, links.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("model_signing")

from small import keys, small_bundle, stand_in

from proguard_edge.bundle.create import SCRIPT
from proguard_edge.bundle.install import COMPLETE, current, install, rollback, versions
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


def test_two_installs_at_once_are_refused(tmp_path: Path) -> None:
    import fcntl

    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    with (prefix / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another install"):
            install(bundle(tmp_path, 2), None, prefix)


def kill_at_random_points(tmp_path: Path, times: int, seconds: float) -> None:
    prefix = tmp_path / "opt"
    install(bundle(tmp_path, 1), None, prefix)
    second = bundle(tmp_path, 2)
    command = [sys.executable, "-I", str(tmp_path / SCRIPT), "install", str(second)]
    command += ["--unsigned", "--prefix", str(prefix)]
    draw = random.Random(0)
    for _ in range(times):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(draw.uniform(0.0, seconds))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # In use is one whole version, whichever: the kill may have come after the end.
        assert said(prefix) in ("verdict of 1.0", "verdict of 2.0")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert said(prefix) == "verdict of 2.0"
    left = list((prefix / "versions").iterdir())
    assert all((folder / COMPLETE).exists() for folder in left)
    assert rollback(prefix).manifest.release == 1


def test_an_install_that_is_killed_leaves_the_version_before_in_use(tmp_path: Path) -> None:
    kill_at_random_points(tmp_path, 3, 5.0)


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    kill_at_random_points(tmp_path, 20, 6.0)
