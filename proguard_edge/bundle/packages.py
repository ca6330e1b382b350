"""The environments of an installed version, and whether they give a verdict.

Runs in the script beside a bundle, so it needs Python's standard library alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from proguard_edge.bundle.verify import Manifest
from proguard_edge.errors import InputError
from proguard_edge.running import run, without_indexes
from proguard_edge.stages import STAGES

VENV = "venv"
# Seconds for one step: pip, or a first verdict of a large model.
STEP_S = 3600


def make_environments(folder: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
    """One environment for the runtime and what joins it, one for each stage that lives apart.

    Raises InputError.
    """
    unknown = [name for name in manifest.stages if name not in STAGES]
    if unknown:
        raise InputError(f"the stage {unknown[0]} is not known here: use the bundle's own script")
    stages = [STAGES[name] for name in manifest.stages]
    target = str(manifest.fields["target"])
    _run([sys.executable, "-I", "-m", "venv", str(folder / VENV)], "python -m venv")
    python = str(folder / VENV / "bin" / "python")
    for stage in stages:
        if stage.apart:
            continue
        lock = folder / "requirements" / stage.lock(target)
        command = [
            *(python, "-I", "-m", "pip", "install", "--quiet", "--no-input"),
            *("--disable-pip-version-check", "--no-index", "--no-cache-dir"),
            *("--find-links", str(folder / "wheels"), "--require-hashes", "-r", str(lock)),
        ]
        _run(command, f"pip install of the stage {stage.name}")
    for stage in stages:
        if stage.apart:
            say(f"installing packages of the stage {stage.name}")
            command = [python, "-I", "-m", "proguard_edge", "env", "create", stage.name]
            command += ["--target", target, "--wheelhouse", str(folder / "wheels")]
            command += ["--locks", str(folder / "requirements")]
            where = {"PROGUARD_EDGE_ENVS": str(folder / "envs")}
            _run(command, f"the environment of the stage {stage.name}", more=where)


def first_verdict(folder: Path, manifest: Manifest, artifact: Path | None) -> None:
    """A verdict on a harmless text. Raises InputError when none comes."""
    python = folder / VENV / "bin" / "python"
    command = [str(python), "-I", "-m", "proguard_edge", "moderate", "--json", "--verify"]
    command += ["--text", "How do I bake bread?"]
    if artifact is not None:
        command += ["--artifact", str(artifact)]
    # The exit code says little: 1 is "unsafe", and a traceback.
    said = _run(command, "the first verdict", allowed=(0, 1))
    try:
        label = json.loads(said.strip().splitlines()[-1])["request"]["label"]
    except (ValueError, LookupError, TypeError):
        label = None
    if label not in ("safe", "unsafe"):
        raise InputError("the first verdict failed: what came is no verdict")
    if "serve" in manifest.stages:
        _run([str(python), "-I", "-c", "import proguard_edge.serve.run"], "the server")


def _run(
    command: list[str],
    what: str,
    allowed: tuple[int, ...] = (0,),
    more: Mapping[str, str] | None = None,
) -> str:
    environment = {**without_indexes(), **(more or {})}
    return run(command, what, environment=environment, allowed=allowed, seconds=STEP_S)
