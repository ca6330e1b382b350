"""The runbook of docs/air-gap.md, command by command: outside with the network, inside without.

    pytest -m slow tests/docs/test_air_gap_runbook.py -s        # prints the time of each step
    … --basetemp FOLDER                                         # FOLDER/…/air_gap.json: the figures

Inside is a network namespace that has nothing but loopback, and a PATH without this environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docpages import ROOT, Block, blocks
from docsandbox import Sandbox, Step, compare
from served import free_port

pytest.importorskip("model_signing")

from proguard_edge.bench.machine import machine
from proguard_edge.signing import keygen

PAGE = "docs/air-gap.md"
COMMAND = "pytest -m slow tests/docs/test_air_gap_runbook.py -s"
LEFT_OUT = (".*", "tests", "*.egg-info", "__pycache__", "build", "dist", "runs")
HOUSE = "name: house\nversion: '1'\ncategories: [{id: C1, name: Weapons}]\n"
# What a reader wants to know the time of, by words of the command; the first that fits.
STEPS = {
    "create the bundle": "bundle create -o guard-1",
    "verify": "verify guard-1.pgb --public-key maker",
    "install": "install guard-1.pgb",
    "doctor": "doctor",
    "first verdict": "moderate --text",
    "serve answers": "/readyz",
    "verdict over HTTP": "/v1/verdicts",
    "install of the update": "install guard-2.pgb",
    "roll back": "rollback",
}


def alone() -> list[str]:
    """What runs a command without a network but for loopback. Skips where it cannot be had."""
    inner = 'ip link set lo up && exec "$@"'
    for before in (["unshare", "-n"], ["unshare", "-rn"]):
        command = [*before, "sh", "-c", inner, "sh"]
        if shutil.which("unshare") and shutil.which("ip"):
            done = subprocess.run([*command, "true"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    pytest.skip("no network namespace with loopback can be made here")


def side(name: str) -> list[Block]:
    return [block for block in blocks(PAGE) if block.directives.get("side") == name]


def checkout(folder: Path) -> Path:
    """A copy of this repository, where the outside commands run, and what its reader has."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (folder / "house.yaml").write_text(HOUSE, encoding="utf-8")
    return folder


def figures(steps: list[Step], bundle: Path, found: dict[str, Any]) -> dict[str, object]:
    """Seconds by step, the size of the bundle, and the machine they were measured on, found
    before."""

    def seconds(words: str) -> float:
        return next(round(step.seconds, 1) for step in steps if words in step.command.text)

    return {
        "command": COMMAND,
        "page": PAGE,
        "machine": {
            name: found[name]
            for name in ("cpu", "cores", "memory_gb", "system", "python", "load_before")
        },
        "bundle_bytes": bundle.stat().st_size,
        "stages": ["runtime", "serve"],
        "artifact": "the starter",
        "seconds": {name: seconds(words) for name, words in STEPS.items()},
    }


@pytest.mark.slow
def test_the_runbook_crosses_the_gap_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, found_before = alone(), machine()
    links = subprocess.run(
        [*before, "ip", "-o", "link"], capture_output=True, text=True, check=True
    )
    assert [line.split(":")[1].strip() for line in links.stdout.splitlines()] == ["lo"]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    replaced = {
        "python3.11": f"{sys.base_prefix}/bin/python{here}",
        "bundle create": f"bundle create --python {here}",
    }
    folder = checkout(tmp_path / "reader")
    port = free_port()
    outside = Sandbox(folder, port, replaced).run(side("outside"), "outside")
    compare(blocks(PAGE), outside)

    other = folder / "other"
    other.mkdir()
    keygen(other / "other.pem", folder / "other.pub")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PROGUARD_EDGE_CACHE", str(tmp_path / "cache"))
    inside = Sandbox(folder, port, replaced, before, own_tools=False)
    steps = inside.run(side("inside"), "inside")
    compare(blocks(PAGE), steps)

    found = figures([*outside, *steps], folder / "guard-1.pgb", found_before)
    text = json.dumps(found, indent=1) + "\n"
    (tmp_path / "air_gap.json").write_text(text, encoding="utf-8")
    print(text, os.linesep, tmp_path / "air_gap.json")


def test_every_block_of_the_runbook_has_a_side_or_is_not_run() -> None:
    for block in blocks(PAGE):
        if block.language == "sh":
            known = block.directives.get("side") in ("outside", "inside")
            assert known or "not run" in block.directives, block.where
