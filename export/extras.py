"""What to install when a stage of the export lacks its libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from proguard_edge.errors import ArtifactError


def need(*modules: str, extra: str = "export") -> None:
    """Raises ArtifactError, naming the one command to run, when a module is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        install = f"pip install 'proguard-edge[{extra}]'"
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
