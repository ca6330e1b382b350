"""The wheels of a bundle are those that its lock files pin, for the machine on the other side."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from proguard_edge.bundle.wheels import Wheelhouse, pin, short, split
from proguard_edge.errors import InputError
from proguard_edge.requirements import LOCKS
from proguard_edge.stages import ALL, STAGES

LOCK = "one==1 \\\n    --hash=sha256:aa\n    # via two\ntwo[more]==2 ; x \\\n    --hash=sha256:bb\n"


def test_entries_of_a_lock_are_parted_by_package_and_nothing_is_lost():
    assert split(LOCK, ["two"]) == (LOCK[LOCK.index("two[") :], LOCK[: LOCK.index("two[")])
    assert split(LOCK, []) == ("", LOCK)


@pytest.mark.parametrize("stage", [stage for stage in ALL if stage.built], ids=lambda s: s.name)
def test_what_is_built_from_source_stands_in_a_lock_of_the_stage(stage):
    texts = [(LOCKS / stage.lock(target)).read_text() for target in stage.targets]
    found = {name for name in stage.built for text in texts if split(text, [name])[0]}
    assert found == set(stage.built)


def test_a_wheel_is_pinned_by_its_digest(tmp_path):
    (wheel := tmp_path / "one_two-1.0-py3-none-any.whl").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert pin(wheel) == f"one-two==1.0 --hash=sha256:{digest}\n".encode()


def test_a_name_that_a_bundle_cannot_hold_keeps_one_of_its_platforms():
    long = f"one-1-cp311-cp311-{'.'.join(f'manylinux_2_{n}_x86_64' for n in range(12, 17))}.whl"
    assert len(long) > 100
    assert short(long) == "one-1-cp311-cp311-manylinux_2_12_x86_64.whl"
    assert short("one-1-py3-none-any.whl") == "one-1-py3-none-any.whl"


def test_a_wheel_of_another_project_is_not_taken_for_ours(tmp_path):
    (wheel := tmp_path / "other-1.0-py3-none-any.whl").write_bytes(b"")
    house = Wheelhouse(tmp_path / "wheels", "3.11", "x86_64", None)
    with pytest.raises(InputError, match="neither a wheel nor a checkout of proguard-edge"):
        house.own(wheel)


def test_a_stage_for_another_machine_than_it_is_locked_for_is_refused(tmp_path):
    house = Wheelhouse(tmp_path / "wheels", "3.12", "x86_64", None)
    stage = STAGES["export"]
    with pytest.raises(InputError, match=r"locked for Python 3\.11 on x86_64.*3\.12 on x86_64"):
        house.add(stage, LOCKS / stage.lock("cpu"))


def test_a_target_without_a_lock_is_refused(tmp_path):
    house = Wheelhouse(tmp_path / "wheels", "3.11", "x86_64", None)
    stage = STAGES["export"]
    with pytest.raises(InputError, match=r"cuda12/export\.txt: no lock file; .* cpu and cuda13"):
        house.add(stage, LOCKS / stage.lock("cuda12"))


def test_a_wheelhouse_without_what_is_pinned_is_refused_in_one_line(tmp_path):
    (lock := tmp_path / "runtime.txt").write_text(f"one==1 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "empty").mkdir()
    house = Wheelhouse(tmp_path / "wheels", "3.11", "x86_64", tmp_path / "empty")
    with pytest.raises(InputError, match=r"pip download of the stage runtime failed: ERROR.*one"):
        house.add(STAGES["runtime"], lock)


def test_what_is_built_is_built_on_a_machine_like_the_other_one(tmp_path, monkeypatch):
    monkeypatch.setattr("proguard_edge.bundle.wheels.platform.machine", lambda: "aarch64")
    house = Wheelhouse(tmp_path / "wheels", "3.11", "x86_64", Path(tmp_path))
    with pytest.raises(InputError, match=r"built from source: .* this is 3\.\d+ on aarch64"):
        house.add(STAGES["gptq"], LOCKS / "gptq.txt")
