"""The environment of this stage: another Python with verl, and what its processes are told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from proguard_edge.errors import TrainingError

VERL = "0.9.1"
PLUGIN = "proguard_edge.train.verl.plugin"


def check_python(python: str, device: str) -> None:
    """Raises TrainingError, naming the fix, unless `python` has verl, this package and the pins.

    device: "cpu" or "cuda", which decides the requirements file that is named.
    """
    probe = (
        "from importlib.metadata import version; from importlib.util import find_spec; "
        f"find_spec('{PLUGIN}') or exit('proguard_edge'); print(version('verl'))"
    )
    try:
        found = subprocess.run(
            [python, "-c", probe], capture_output=True, text=True, check=False, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrainingError(f"{python} cannot be run: {error}") from None
    if found.returncode or not found.stdout.strip():
        raise TrainingError(f"verl is not installed in {python}: {install_command(device)}")
    if found.stdout.strip() != VERL:
        raise TrainingError(
            f"verl {found.stdout.strip()} is installed, {VERL} is needed: {install_command(device)}"
        )


def install_command(device: str) -> str:
    """The one command that makes the environment, and how to use it."""
    file = Path(__file__).parent / f"requirements-{'cpu' if device == 'cpu' else 'gpu'}.txt"
    here = Path(__file__).parents[2]
    package = f"-e {here}" if (here / "pyproject.toml").is_file() else "proguard-edge"
    return (
        f"python -m venv .venv-verl && .venv-verl/bin/pip install -r {file} {package}, "
        "then --python .venv-verl/bin/python"
    )


def environment(device: str, metrics: Path | str, base: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of verl's processes, on top of `base`."""
    found = {
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "disabled",
        "PYTHONUNBUFFERED": "1",
    }
    if device == "cpu":
        # Rollout and training take turns, so each may have all cores.
        found |= {
            "VERL_PLATFORM": "cpu",
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
            # Ray lowers the priority of its workers: beside other work they would starve.
            "RAY_worker_niceness": "0",
        }
        # Ray compares it with the one share of "GPU" that verl's placement is declared with.
        base = {name: value for name, value in base.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**base, **found}


def default_python() -> str:
    """The interpreter that runs this command."""
    return sys.executable
