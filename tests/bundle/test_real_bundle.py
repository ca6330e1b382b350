"""A bundle as one is made to be carried: the starter, all wheels of runtime and serve. Slow.

Making it asks pip's index for the wheels (about 250 MB):
`pytest -m slow -s tests/bundle/test_real_bundle.py`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("model_signing")

from small import keys, spans

import proguard_edge
from proguard_edge.artifact import Artifact, check_digests, check_signature, sign_artifact
from proguard_edge.bundle.create import SCRIPT, Plan, create
from proguard_edge.bundle.install import current, rollback, versions
from proguard_edge.bundle.prefix import COMPLETE
from proguard_edge.bundle.verify import verify
from proguard_edge.errors import ArtifactError
from proguard_edge.requirements import LOCKS
from proguard_edge.starter import STARTER

pytestmark = pytest.mark.slow
MUTATIONS = 1000
KILLS = 20
PROJECT = Path(proguard_edge.__file__).parents[1]


@dataclass(frozen=True)
class Made:
    folder: Path
    releases: tuple[Path, Path]
    key: str
    artifact: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two releases, signed, with the starter as an artifact that is signed too."""
    folder = tmp_path_factory.mktemp("real")
    private, public = keys(folder / "keys")
    artifact = folder / "artifact"
    shutil.copytree(STARTER, artifact)
    sign_artifact(artifact, private)
    releases = []
    for release in (1, 2):
        plan = Plan(
            "real", release, (artifact,), (), ("runtime", "serve"), PROJECT, LOCKS, wheelhouse=None
        )
        releases.append(create(plan, folder / f"{release}.pgb", private)[0])
    return Made(folder, (releases[0], releases[1]), public, artifact)


def change_a_byte(path: Path, place: int, draw: random.Random) -> int:
    """Give it another value; the one before."""
    with path.open("r+b") as file:
        file.seek(place)
        before = file.read(1)[0]
        file.seek(place)
        file.write(bytes([draw.choice([byte for byte in range(256) if byte != before])]))
    return before


def check_all(made: Made) -> None:
    """What `artifact verify --public-key` does."""
    artifact = Artifact.open(made.artifact)
    check_signature(artifact, made.key)
    check_digests(artifact)


def put_back(path: Path, place: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


def test_a_thousand_changed_bytes_of_a_bundle_are_found_and_their_files_named(made):
    bundle, draw = made.releases[0], random.Random(0)
    begins = spans(bundle)
    ends = [offset for offset, _ in begins[1:]] + [bundle.stat().st_size]
    hit: Counter[str] = Counter()
    for number in range(MUTATIONS):
        # Half anywhere, which is in the large files, half in a file drawn from all of them.
        place = draw.randrange(ends[-1])
        if number % 2:
            index = draw.randrange(len(begins))
            place = draw.randrange(begins[index][0], ends[index])
        named = [name for offset, name in begins if offset <= place][-1]
        before = change_a_byte(bundle, place, draw)
        with pytest.raises(ArtifactError) as caught:
            verify(bundle, made.key)
        put_back(bundle, place, before)
        # A changed list of files may show as a signature or as a file that no longer fits it.
        assert named in str(caught.value) or named == "manifest.json"
        hit[named.split("/")[0]] += 1
    assert verify(bundle, made.key).release == 1
    print(json.dumps({"bundle_bytes": ends[-1], "found": sum(hit.values()), "in": dict(hit)}))


def test_a_thousand_changed_bytes_of_an_artifact_are_found_and_their_files_named(made):
    draw, whole = random.Random(1), Artifact.open(made.artifact)
    names = ["artifact.json", "artifact.sig", *whole.files]
    hit: Counter[str] = Counter()
    for number in range(MUTATIONS):
        name = names[number % len(names)]
        path = made.artifact / name
        place = draw.randrange(path.stat().st_size)
        before = change_a_byte(path, place, draw)
        with pytest.raises(ArtifactError) as caught:
            check_all(made)
        put_back(path, place, before)
        assert name in str(caught.value)
        hit[name] += 1
    check_digests(Artifact.open(made.artifact), whole.digest)
    print(json.dumps({"found": sum(hit.values()), "in": dict(hit)}))


def test_twenty_installs_that_are_killed_leave_the_version_before_judging(made, tmp_path):
    prefix = tmp_path / "opt"
    options = ["--public-key", str(made.folder / "keys" / "public.pem"), "--prefix"]
    script = [sys.executable, "-I", str(made.folder / SCRIPT), "install"]
    first, second = ([*script, str(bundle), *options] for bundle in made.releases)
    subprocess.run([*first, str(prefix)], check=True, capture_output=True)
    begin = time.perf_counter()
    subprocess.run([*second, str(tmp_path / "timed")], check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    judge = [str(prefix / "bin" / "proguard-edge"), "moderate", "--json", "--text", "Good morning"]
    draw, killed = random.Random(2), []
    while len(killed) < KILLS:
        moment = draw.uniform(0, seconds)
        if stopped_at(moment, [*second, str(prefix)]):
            killed.append(round(moment, 1))
        else:
            # It was faster this time: the same again, from the beginning.
            done = rollback(prefix) and versions(prefix)[-1]
            shutil.rmtree(done.folder)
            (prefix / "previous").unlink()
        assert current(prefix).manifest.release == 1
        said = subprocess.run(judge, capture_output=True, text=True, check=True).stdout
        assert json.loads(said)["request"]["label"] == "safe"
    subprocess.run([*second, str(prefix)], check=True, capture_output=True)
    assert current(prefix).manifest.release == 2
    subprocess.run(judge, capture_output=True, check=True)
    assert all((folder / COMPLETE).exists() for folder in (prefix / "versions").iterdir())
    assert rollback(prefix).manifest.release == 1
    print(json.dumps({"install_s": round(seconds, 1), "killed_at_s": sorted(killed)}))


def stopped_at(moment: float, command: list[str]) -> bool:
    """Start it and kill it and its children after so many seconds; False when it ended before."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        assert process.wait(moment) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False
