"""Make the lock files of all stages anew, or of some.

    python requirements/lock.py [STAGE …] [--target TARGET --torch VERSION] [--find-links FOLDER]

Needs `uv` (`pip install uv`) and an index; for the locks of a CPU also PyTorch's CPU build, from a
folder or from an index that uv is told of (UV_EXTRA_INDEX_URL). What is locked already stays as it
is unless it no longer fits, or with --upgrade. For CUDA 12: --target cuda12 --torch 2.13.0+cu126,
with the index that has this build (never tried here). Prints each file with the number of its
packages.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from proguard_edge.requirements import BUILD
from proguard_edge.stages import ALL, STAGES, TARGETS, Stage

HERE = Path(__file__).parent
PROJECT = HERE.parent / "pyproject.toml"
# The oldest Linux that has wheels of everything; tensorrt-edgellm asks for a newer one.
PLATFORMS = {"edgellm": "x86_64-manylinux_2_35"}
PLATFORM = "x86_64-manylinux_2_28"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make lock files of stages.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="By default all of them.")
    parser.add_argument("--target", choices=TARGETS, help="By default those that are there.")
    parser.add_argument("--torch", default="2.13.0+cpu", help="Its version, but for CUDA 13.")
    parser.add_argument("--find-links", type=Path)
    parser.add_argument("--upgrade", action="store_true")
    options = parser.parse_args()
    chosen = [STAGES[name] for name in options.stages] or [*ALL]
    more = ["--upgrade"] if options.upgrade else []
    links = ["--find-links", str(options.find_links)] if options.find_links else []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "torch.txt").write_text(f"torch=={options.torch}\n")
        _compile([*more, "--universal", "--generate-hashes"], (), [HERE / "build.in"], BUILD)
        together = [stage for stage in ALL if not stage.apart]
        extras = sorted({extra for stage in together for extra in stage.extras})
        # Stages of one environment must agree on every version.
        shared = work / "shared.txt"
        kept = [] if options.upgrade else _kept(together)
        override = ["--override", str(work / "torch.txt")]
        _compile([*override, *more, *links, *kept], extras, [PROJECT], shared)
        for stage in chosen:
            for target in (options.target,) if options.target else stage.targets:
                # A CPU build in the folder would do for CUDA too, as versions go.
                _lock(stage, target, work, shared, more + (links if target == "cpu" else []))


def _lock(stage: Stage, target: str, work: Path, shared: Path, more: list[str]) -> None:
    command = list(more)
    if target != "cuda13" and not stage.any_python:
        command += ["--override", str(work / "torch.txt")]
    if not stage.apart:
        # CUDA brings packages of its own and another torch: the rest is as on a CPU.
        lines = shared.read_text().splitlines(keepends=True)
        constraints = work / "constraints.txt"
        constraints.write_text("".join(line for line in lines if not line.startswith("torch==")))
        command += ["--constraint", str(constraints)]
    if stage.any_python:
        command += ["--universal"]
    else:
        command += ["--python-platform", PLATFORMS.get(stage.name, PLATFORM)]
    # PyPI's torchvision cannot be imported beside the CPU build of torch; only verl has a way out.
    command += ["--no-emit-package", "torchvision"] if stage.name == "edgellm" else []
    sources = [PROJECT] if stage.own else []
    sources += [path for path in (_direct(stage, target),) if path is not None]
    out = HERE / stage.lock(target)
    out.parent.mkdir(exist_ok=True)
    _compile([*command, "--generate-hashes"], stage.extras, sources, out)
    packages = sum(bool(re.match(r"[a-z0-9].*==", line)) for line in out.read_text().splitlines())
    print(f"{packages:>4}  {out.relative_to(HERE.parent)}")


def _direct(stage: Stage, target: str) -> Path | None:
    """The file of its direct needs, that of the target before the common one."""
    paths = (HERE / target / f"{stage.name}.in", HERE / f"{stage.name}.in")
    return next((path for path in paths if path.is_file()), None)


def _kept(stages: list[Stage]) -> list[str]:
    """Constraints that keep the versions of the locks that are there."""
    paths = [HERE / f"{stage.name}.txt" for stage in stages]
    return [part for path in paths if path.is_file() for part in ("--constraint", str(path))]


def _compile(
    options: list[str], extras: tuple[str, ...] | list[str], sources: list[Path], out: Path
) -> None:
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11"]
    command += [part for extra in extras for part in ("--extra", extra)]
    command += [*options, *map(str, sources), "-o", str(out)]
    if subprocess.run(command, cwd=HERE.parent).returncode:
        sys.exit(f"no lock for {out.name}")


if __name__ == "__main__":
    main()
