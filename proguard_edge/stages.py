"""The stages of the product, and what each needs besides the runtime.

A stage is a part of the work with packages of its own: some join the runtime in its environment,
others pin versions that conflict with the rest and live apart. `requirements/` holds their locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

TARGETS = ("cpu", "cuda12", "cuda13")
PYTHON = "3.11"


@dataclass(frozen=True)
class Stage:
    """extras: of pyproject.toml, that its lock is made from. modules: present where the stage can
    run. apart: not in one environment with the others. targets: that there is a lock for.
    any_python: the lock is for 3.11 to 3.13 on every machine, else for Python 3.11 on x86_64.
    own: proguard-edge is installed beside it. built: packages that come as sources alone."""

    name: str
    about: str
    extras: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    apart: bool = False
    targets: tuple[str, ...] = ("cpu",)
    any_python: bool = True
    own: bool = True
    built: tuple[str, ...] = ()

    def lock(self, target: str) -> str:
        """Path of its lock file in a folder of lock files."""
        common = target == "cpu" or self.any_python
        return f"{self.name}.txt" if common else f"{target}/{self.name}.txt"

    def no_lock(self) -> str:
        """What to say where a lock file is missing."""
        there = " and ".join(self.targets)
        return (
            f"no lock file; those that came along for {self.name} are for {there}: make one for "
            "this target and give its folder with --locks"
        )

    def is_here(self) -> bool:
        """Whether this interpreter has its packages; nothing is imported."""
        return all(find_spec(module) is not None for module in self.modules)


BOTH = ("cpu", "cuda13")
ALL = (
    Stage("runtime", "verdicts"),
    Stage("serve", "the server", ("serve",), ("fastapi", "uvicorn", "prometheus_client")),
    Stage("ocr", "text in images", ("ocr",), ("rapidocr",)),
    Stage("scan", "data sets, with Ray", ("ray",), ("ray", "pyarrow", "matplotlib")),
    Stage("bench", "times and accuracy", ("bench",), ("matplotlib", "onnx")),
    Stage(
        "hf",
        "the transformers engine, also with bitsandbytes",
        ("bnb",),
        ("torch", "transformers", "bitsandbytes"),
        targets=BOTH,
        any_python=False,
    ),
    Stage(
        "export",
        "checkpoint to artifact",
        ("export", "bnb"),
        ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime_genai"),
        apart=True,
        targets=BOTH,
        any_python=False,
    ),
    Stage(
        "train",
        "rows, sft, distil",
        ("train", "export"),
        ("torch", "transformers", "accelerate", "sklearn", "pyarrow", "gguf"),
        apart=True,
        targets=BOTH,
        any_python=False,
    ),
    Stage(
        "gptq",
        "GPTQ, for the recipes with gptq in their names",
        modules=("gptqmodel",),
        apart=True,
        targets=BOTH,
        any_python=False,
        built=("defuser", "device-smi", "gptqmodel", "logbar", "pypcre", "tokenicer"),
    ),
    Stage(
        "edgellm",
        "TensorRT Edge-LLM's exporter",
        modules=("tensorrt_edgellm",),
        apart=True,
        any_python=False,
        own=False,
    ),
    Stage(
        "grpo",
        "GRPO on verl",
        modules=("verl",),
        apart=True,
        targets=BOTH,
        any_python=False,
        built=("antlr4-python3-runtime", "flash-attn"),
    ),
)
STAGES = {stage.name: stage for stage in ALL}
