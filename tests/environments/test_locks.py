"""The lock files: one for every stage and target, with hashes, and agreeing where they meet."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from proguard_edge.requirements import LOCKS
from proguard_edge.stages import ALL

FILES = [(stage, target, LOCKS / stage.lock(target)) for stage in ALL for target in stage.targets]


def pins(path: Path) -> dict[str, str]:
    """Package → version."""
    found = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*])?==(\S+)", path.read_text())
    return dict(found)


@pytest.mark.parametrize(
    "path", [path for *_, path in FILES], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_package_of_a_lock_is_pinned_and_has_a_hash(path: Path):
    blocks = re.split(r"(?m)^(?=\S)", path.read_text())[1:]
    assert len(blocks) == len(pins(path)) > 25
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    # Nothing of where or how it was made: the same pins are the same bytes.
    assert not re.search(r"://|^\s*#", path.read_text(), re.MULTILINE)


def test_nothing_of_cuda_comes_to_a_cpu():
    for stage, target, path in FILES:
        cuda = [name for name in pins(path) if name.startswith(("nvidia-c", "cuda-"))]
        torch = pins(path).get("torch", "")
        if target == "cpu":
            # NVIDIA's exporter asks for its bindings, which are small, on every machine.
            assert stage.name == "edgellm" or cuda == [], path
            assert torch in ("", "2.13.0+cpu"), path
            assert stage.name == "grpo" or "torchvision" not in pins(path), path
        elif target != "cpu":
            assert cuda, path
            assert not torch.endswith("+cpu"), path


def test_stages_of_one_environment_agree_on_every_version():
    agreed: dict[str, str] = {}
    for stage, target, path in FILES:
        if target == "cpu" and not stage.apart:
            for name, version in pins(path).items():
                assert agreed.setdefault(name, version) == version, f"{name} in {path}"
    assert len(agreed) > 60


def test_a_lock_holds_all_that_the_runtime_needs():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[<>=]", need)[0] for need in project["dependencies"]}
    assert {"numpy", "onnxruntime", "click"} <= direct
    for stage, _target, path in FILES:
        if stage.own:
            assert direct <= set(pins(path)), path
