"""The environment of this stage: another Python with verl, and what its processes are told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from proguard_edge.environments import make_it
from proguard_edge.errors import TrainingError
from proguard_edge.export.extras import has_module, version_in

VERL = "0.9.1"
PLUGIN = "proguard_edge.train.verl.plugin"


def check_python(python: str, device: str) -> None:
    """Raises TrainingError, naming the fix, unless `python` has verl, this package and the pins.

    device: "cpu" or "cuda", which decides the environment that is named.
    """
    try:
        version = version_in(python, "verl", has_module(PLUGIN))
    except OSError as error:
        raise TrainingError(f"{python} cannot be run: {error}") from None
    if not version:
        raise TrainingError(f"verl is not installed in {python}: {install_command(device)}")
    if version != VERL:
        raise TrainingError(
            f"verl {version} is installed, {VERL} is needed: {install_command(device)}"
        )


def install_command(device: str) -> str:
    """The one line that makes the environment, where `train grpo` then finds it."""
    return f"{make_it('grpo', 'cpu' if device == 'cpu' else 'cuda13')}, or give --python"


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
