"""NVIDIA GPUs, their driver, and the CUDA libraries that programs beside it find."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from proguard_edge import system
from proguard_edge.doctor.finding import Finding, Subject

NAME = "gpu"
DRIVER = Path("/proc/driver/nvidia/version")
TORCH_S = 120.0
LIBRARIES = ("libcudart", "libcublasLt", "libcudnn")
PLACES = (
    "/usr/local/cuda*/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
)


def check(subject: Subject) -> Iterator[Finding]:
    """One finding: what is there, and whether the artifact wants it."""
    engine = subject.artifact.engine if subject.artifact else None
    driver, gpus = system.read(DRIVER), system.gpus()
    seen = None
    if gpus and engine == "transformers":
        seen = subject.helper.run(torch_sees, None, TORCH_S)
    named = driver.splitlines()[0] if driver else None
    yield judged(gpus, named, libraries(), engine, seen)


def torch_sees(_: None) -> bool:
    """Whether torch, which takes seconds to import, can use a GPU; False without torch."""
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def judged(
    gpus: list[str],
    driver: str | None,
    found: list[str],
    engine: str | None,
    seen: bool | None = None,
) -> Finding:
    """gpus: as nvidia-smi lists them. driver: what the kernel says. engine: the artifact's. seen:
    whether torch sees one, None where nobody looked."""
    details = {"gpus": gpus, "driver": driver, "libraries": found}
    has = f"CUDA libraries: {', '.join(found) or 'none'}"
    if not gpus and engine == "tensorrt_llm":
        remedy = "use another artifact (recipe onnx-int4), or a machine with a GPU and its driver"
        return Finding(NAME, "problem", "no NVIDIA GPU answers, TensorRT-LLM needs one", remedy)
    if gpus:
        state = f"{'; '.join(gpus)}; {has}"
        if engine == "tensorrt_llm":
            return Finding(NAME, "ok", state, details=details)
        if engine == "transformers" and seen:
            found_ = f"{state}; this artifact is judged on it, unless told --device cpu"
            return Finding(NAME, "ok", found_, details=details)
        if engine == "transformers":
            remedy = "install a build of torch for CUDA; until then the processor judges, slowly"
            return Finding(NAME, "warning", f"{state}; torch does not see it", remedy, details)
        remedy = "nothing to do: this artifact is judged on the processor"
        return Finding(NAME, "note", f"{state}; the runtime leaves it alone", remedy, details)
    if driver is not None:
        remedy = "see what nvidia-smi says, if programs beside this one need the GPU"
        found_ = f"a driver is loaded and nvidia-smi lists no GPU ({driver})"
        return Finding(NAME, "warning", found_, remedy, details)
    remedy = "none is needed: this artifact is judged on the processor"
    return Finding(NAME, "note", f"no NVIDIA GPU and no driver; {has}", remedy, details)


def libraries() -> list[str]:
    """File names of the CUDA libraries, shortest of each; from pip's packages too."""
    folders = [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    folders += [path for pattern in PLACES for path in Path("/").glob(pattern.lstrip("/"))]
    folders += [path for entry in sys.path for path in Path(entry).glob("nvidia/*/lib")]
    found = []
    for name in LIBRARIES:
        files = {path.name for folder in folders for path in folder.glob(f"{name}.so.*")}
        found += sorted(files, key=len)[:1]
    return found
