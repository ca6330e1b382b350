"""One folder of stand-ins, copied for each page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from docsandbox import STARTER, Sandbox
from docstandins import fill
from served import free_port

# Rounding moves a random model's labels more than a trained one's.
LOOSE = " --max-kl 1 --min-agreement 0.5 --max-f1-drop 1 --max-recall-drop 1"
REPLACED = {
    "proguard_edge/starter/artifact": str(STARTER),
    "--recipe onnx-int4": f"--recipe onnx-int4{LOOSE}",
    # Whether a training learns is for its own tests.
    "--steps 500": "--steps 5",
    "--steps 20": "--steps 5",
}


@pytest.fixture(scope="session")
def standins(tiny: Path, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standins") / "all"
    folder.mkdir()
    fill(folder, tiny, tiny_onnx)
    return folder


@pytest.fixture
def sandbox(standins: Path, tmp_path: Path) -> Callable[[], Sandbox]:
    """Makes the folder of a page's reader."""

    def make() -> Sandbox:
        shutil.copytree(standins, tmp_path / "reader")
        return Sandbox(tmp_path / "reader", free_port(), REPLACED)

    return make
