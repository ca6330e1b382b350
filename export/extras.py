"""Libraries that stages need: in this environment, or in one of their own."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from proguard_edge.environments import make_it
from proguard_edge.errors import ArtifactError
from proguard_edge.stages import ALL


def need(*modules: str, extra: str = "export") -> None:
    """Raises ArtifactError, naming the one command to run, when a module is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        stage = next((stage.name for stage in ALL if extra in stage.extras), None)
        made = f"{make_it(stage)}, or " if stage else ""
        install = f"{made}pip install 'proguard-edge[{extra}]'"
        raise ArtifactError(f"{', '.join(missing)} not installed: {install}")


def versions(*packages: str) -> dict[str, str]:
    """Versions of the installed ones among `packages`, for the manifest."""
    found = {}
    for name in ("proguard-edge", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def version_in(python: str, package: str, probe: str, timeout: float = 120) -> str:
    """The version of `package` in another interpreter, "" where it or anything else is missing.

    probe: statements that fail there when more than the package is needed and missing. Raises
    OSError when the interpreter cannot be run, or does not answer in `timeout` seconds.
    """
    code = f"from importlib.metadata import version; {probe}; print(version({package!r}))"
    try:
        done = subprocess.run(
            [python, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(str(error)) from None
    return "" if done.returncode else done.stdout.strip()


def has_module(name: str) -> str:
    """A probe for `version_in`: that a module can be found, without importing it."""
    return f"from importlib.util import find_spec; find_spec({name!r}) or exit({name!r})"
