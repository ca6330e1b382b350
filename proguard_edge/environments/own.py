"""The proguard-edge that runs here: what tells it from another, and as a wheel again.

An environment gets the same one. On a machine without a source its wheel (PEP 427) is made of what
lies in `site-packages`, less what the installer added there.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path

from proguard_edge.errors import InputError

PACKAGE = "proguard-edge"
ADDED = ("INSTALLER", "REQUESTED", "direct_url.json")


def checkout() -> Path | None:
    """The checkout that runs here, None where a wheel was installed."""
    folder = Path(__file__).parents[2]
    return folder if (folder / "pyproject.toml").is_file() else None


def origin() -> str:
    """What tells the proguard-edge that runs here from others: `checkout FOLDER`, or a digest of
    the files that were installed."""
    folder = checkout()
    if folder is not None:
        return f"checkout {folder}"
    lines = sorted(
        f"{path} {path.hash.value}"
        for path in importlib.metadata.files(PACKAGE) or ()
        if path.hash and path.parts[0] == "proguard_edge"
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_wheel(folder: Path) -> Path:
    """Write it into the folder; its path.

    Raises InputError when a file of the package is not as it was installed.
    """
    installed = importlib.metadata.distribution(PACKAGE)
    inside = [
        path
        for path in installed.files or ()
        if ".." not in path.parts and path.name not in ADDED and path.suffix != ".pyc"
    ]
    if not inside:
        raise InputError("the installed proguard-edge does not list its files: install it again")
    wheel = folder / f"proguard_edge-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for path in inside:
            if path.name == "RECORD":
                continue
            source = Path(str(path.locate()))
            _check(path, source)
            archive.write(source, str(path))
        record = next(path for path in inside if path.name == "RECORD")
        names = {str(path) for path in inside}
        lines = (installed.read_text("RECORD") or "").splitlines(keepends=True)
        archive.writestr(str(record), "".join(row for row in lines if _of(row) in names))
    return wheel


def _of(line: str) -> str:
    """The path in a line of RECORD; those of this package have no commas."""
    return line.split(",", 1)[0]


def _check(path: importlib.metadata.PackagePath, source: Path) -> None:
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}: install it again") from None
    told = path.hash.value if path.hash else None
    is_ = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    if told != is_:
        raise InputError(f"{source}: is not as it was installed: install proguard-edge again")
