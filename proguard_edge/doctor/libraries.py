"""Installed packages against what this package requires, and pairs that overwrite each other."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from proguard_edge import system
from proguard_edge.doctor.finding import Finding, Subject
from proguard_edge.doctor.helper import Helper
from proguard_edge.errors import ProGuardEdgeError

NAME = "libraries"
OURS = "proguard-edge"
# All of a row install the same modules: the last one installed wins, file by file.
RIVALS = (
    (
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-directml",
        "onnxruntime-openvino",
        "onnxruntime-training",
    ),
    (
        "opencv-python",
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
)
# Of packages whose module has another name; of pillow the part that is not Python.
MODULES = {"pillow": "PIL._imaging", "pyyaml": "yaml"}
LOAD_S = 60.0
ENGINE_EXTRAS = {"transformers": "hf"}
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


@dataclass(frozen=True)
class Need:
    """One requirement, and the version that is installed (None: none is). met: None = unknown.

    extra: what it belongs to, None for the runtime.
    """

    package: str
    wanted: str
    version: str | None
    met: bool | None
    extra: str | None = None


def check(subject: Subject) -> Iterator[Finding]:
    """The runtime's requirements, conflicts, extras."""
    try:
        stated = importlib.metadata.requires(OURS) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            NAME,
            "warning",
            "proguard-edge runs from a folder of sources: nobody looked after its requirements",
            "install it: pip install FOLDER",
        )
        return
    needs = [need for text in stated if (need := read(text))]
    ours = [need for need in needs if need.extra is None]
    yield from runtime(ours)
    yield from broken(ours, subject.helper)
    yield from conflicts({name for row in RIVALS for name in row if system.version(name)})
    if all(need.met is not None or need.package.startswith(f"{OURS}[") for need in needs):
        yield extras(needs, subject)


def read(text: str) -> Need | None:
    """A line of the package's metadata; None where it is not for this Python or system."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return _roughly(text)
    requirement = Requirement(text)
    extra = found[1] if (found := _EXTRA.search(text)) else None
    if requirement.marker and not requirement.marker.evaluate({"extra": extra or ""}):
        return None
    name, wanted = requirement.name, str(requirement.specifier)
    if name == OURS:
        # An extra made of others of ours.
        return Need(f"{OURS}[{','.join(sorted(requirement.extras))}]", "", None, None, extra)
    version = _version(name)
    met = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Need(name, wanted, version, met, extra)


def _roughly(text: str) -> Need | None:
    """Without a reader of requirements: whether the package is there, where it always must be."""
    extra = found[1] if (found := _EXTRA.search(text)) else None
    match = re.match(r"[A-Za-z0-9._-]+", text)
    if match is None or (";" in text and extra is None):
        return None
    version = _version(match[0])
    return Need(match[0], "", version, None if version else False, extra)


def _version(name: str) -> str | None:
    if name == RIVALS[0][0]:
        # Any of them brings the module.
        return next((found for rival in RIVALS[0] if (found := system.version(rival))), None)
    return system.version(name)


def runtime(needs: list[Need]) -> Iterator[Finding]:
    """What is missing or of another version; or that all is there."""
    details = {"python": platform.python_version(), **{n.package: n.version for n in needs}}
    bad = [need for need in needs if need.met is False]
    for need in bad:
        has = f"{need.version} is installed" if need.version else "none is installed"
        yield Finding(
            NAME,
            "problem",
            f"{need.package}: {has}, {need.wanted or 'some version'} is required",
            _install(f"'{need.package}{need.wanted}'"),
            {"package": need.package, "version": need.version, "wanted": need.wanted},
        )
    if any(need.met is None for need in needs):
        remedy = "pip install packaging, to have them compared"
        found = "versions of the runtime's libraries were not compared: `packaging` is missing"
        yield Finding(NAME, "note", found, remedy, details)
    elif not bad:
        named = ", ".join(f"{need.package} {need.version}" for need in needs[:3])
        found = f"all {len(needs)} of the runtime as required: {named}, …"
        yield Finding(NAME, "ok", found, details=details)


def broken(needs: list[Need], helper: Helper) -> Iterator[Finding]:
    """Those that are installed and cannot be loaded: built for another system, or damaged."""
    for need in needs:
        if need.version is None:
            continue
        try:
            helper.run(load, MODULES.get(need.package, need.package), LOAD_S)
        except ProGuardEdgeError as error:
            yield Finding(
                NAME,
                "problem",
                f"{need.package} {need.version} cannot be loaded: {error}",
                _install(f"--force-reinstall '{need.package}{need.wanted}'"),
                {"package": need.package, "version": need.version},
            )


def conflicts(installed: set[str]) -> Iterator[Finding]:
    """Of packages that install the same modules, more than one."""
    for row in RIVALS:
        there = [name for name in row if name in installed]
        if len(there) > 1:
            named = " ".join(there)
            yield Finding(
                NAME,
                "warning",
                f"{' and '.join(there)} overwrite each other's files",
                f"pip uninstall {named}, then install the one that you want",
                {"installed": {name: system.version(name) for name in there}},
            )


def extras(needs: list[Need], subject: Subject) -> Finding:
    """Which are complete; a problem where the artifact's engine needs one that is not."""
    lacking = {
        extra: _lacking(extra, needs) for extra in sorted({n.extra for n in needs if n.extra})
    }
    complete = [extra for extra, missing in lacking.items() if not missing]
    details = {"complete": complete, "lacking": lacking}
    engine = subject.artifact.engine if subject.artifact else ""
    wanted = ENGINE_EXTRAS.get(engine)
    if wanted in lacking and wanted not in complete:
        found = f"the engine {engine} lacks {', '.join(lacking[wanted])}"
        return Finding(NAME, "problem", found, _install(f"'{OURS}[{wanted}]'"), details)
    others = [extra for extra in lacking if extra not in complete]
    found = f"extras complete: {', '.join(complete) or 'none'}; not: {', '.join(others) or 'none'}"
    return Finding(NAME, "ok", found, details=details)


def _lacking(extra: str, needs: list[Need], seen: tuple[str, ...] = ()) -> list[str]:
    found: list[str] = []
    for need in needs:
        if need.extra != extra or extra in seen:
            continue
        if need.package.startswith(f"{OURS}["):
            for part in need.package.removeprefix(f"{OURS}[").removesuffix("]").split(","):
                found += _lacking(part, needs, (*seen, extra))
        elif need.met is False:
            found.append(f"{need.package}{need.wanted}")
    return sorted(set(found))


def _install(what: str) -> str:
    return f"pip install {what} (without a network: --no-index --find-links FOLDER_OF_WHEELS)"


def load(module: str) -> None:
    """Runs in the helper."""
    import_module(module)
