"""A GPTQ folder to ONNX for TensorRT Edge-LLM: NVIDIA's exporter run, and its weights verified.

The exporter pins versions of its own, so it runs in an environment of its own, on any machine;
engines are built on the GPU that will run them. tensorrt-edgellm 0.11 wants float16 beside the
4-bit weights: other tensors are rounded to it in a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.environments import interpreter, make_it
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint, read_json
from proguard_edge.export.edgellm_layout import unpack
from proguard_edge.export.extras import need, version_in
from proguard_edge.export.folder import Contents, finish, staged, write_common
from proguard_edge.export.gptq_layout import GptqCheckpoint
from proguard_edge.export.rounding import to_half
from proguard_edge.export.tensor_file import Spec, TensorFolder, write_index, write_tensors

EDGELLM = "0.11.0"
PYTHON = "PROGUARD_EDGE_EDGELLM_PYTHON"
FOLDER = "edgellm"
LLM, VISUAL = "llm/model.onnx", "visual/model.onnx"
PLUGIN = "Int4GroupwiseGemmPluginV2"
ALIGNMENT = 64
NOT_BUILT = "no engine was built: that takes the target GPU; run edgellm/build.sh there"
BUILD = """\
#!/bin/sh
# Builds the engines on the machine and GPU that will run them, with tensorrt-edgellm {version}.
set -e
cd "$(dirname "$0")"
tensorrt-edgellm-build --model-dir gptq --engine-dir "${{1:-engines}}" \\
    --max-input-len {longest} --max-kv-cache-capacity {capacity} --max-batch-size 1
"""

Report = Callable[[str], None]


def export_edgellm(
    gptq: Path,
    out: Path,
    checkpoint: Path,
    contents: Contents,
    *,
    python: str | None = None,
    force: bool = False,
    report: Report = lambda _: None,
) -> Artifact:
    """Write the artifact folder `out`, whole or not at all; ONNX lies under `edgellm/`.

    gptq: a GPTQ folder of `checkpoint`. python: the interpreter that has tensorrt-edgellm, else
    that of PROGUARD_EDGE_EDGELLM_PYTHON, else that of `env create edgellm`, else this one. Every
    matrix of the graph is unpacked and compared with GPTQ's. Raises ArtifactError or PolicyError.
    """
    need("onnx_ir")
    source, integers = Checkpoint(checkpoint), GptqCheckpoint(gptq)
    check_shapes(integers)
    python = interpreter("edgellm", python, PYTHON)
    check_python(python)
    with staged(out, force) as folder:
        report("tokenizer, policy, template")
        write_common(folder, source, contents)
        target = folder / FOLDER
        target.mkdir()
        half_copy(gptq, target / "gptq")
        report("NVIDIA's exporter")
        _run(python, target / "gptq", target, contents.vision)
        count = check_graph(target / LLM, integers)
        report(f"{count} matrices of the graph hold the integers of {gptq.name}")
        longest = contents.limits.get("window_tokens", 512) + 4096
        build = BUILD.format(version=EDGELLM, longest=longest, capacity=longest + 1024)
        (target / "build.sh").write_text(build, encoding="utf-8")
        _build(python, target, report)
        finish(folder, source, contents, engine="edgellm", precision="int4")
    return Artifact.open(out)


def check_shapes(gptq: GptqCheckpoint) -> None:
    """Raises ArtifactError for a matrix that the kernel's tiles cannot take."""
    for name in gptq.decoder.values():
        words, outputs = gptq.tensors.spec(f"{name}.qweight").shape
        inputs = 8 * words
        if inputs % ALIGNMENT or outputs % ALIGNMENT:
            raise ArtifactError(
                f"{name} is {inputs} × {outputs}; TensorRT Edge-LLM takes multiples of {ALIGNMENT}"
            )


def half_copy(source: Path, out: Path) -> None:
    """A copy of a model folder with its float32 tensors as float16. Raises ArtifactError where
    a tensor does not fit."""
    out.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)
    config = read_json(out / "config.json")
    (out / "config.json").write_text(json.dumps(_float16(config), indent=1) + "\n")
    tensors = TensorFolder(source)
    written = {}
    for name, file in tensors.files.items():
        specs = {
            tensor: Spec("F16", spec.shape) if spec.dtype == "F32" else spec
            for tensor, spec in file.specs.items()
        }
        write_tensors(out / name, specs, lambda tensor: _half(tensors, tensor))
        written[name] = specs
    write_index(out, written)


def check_graph(path: Path, gptq: GptqCheckpoint) -> int:
    """How many matrices of the graph were compared with those of the GPTQ folder: all of it.

    Raises ArtifactError unless every one of its matrices stands in the graph once, with the same
    levels and scales.
    """
    import onnx_ir as ir

    graph = ir.load(path).graph
    wanted = {}
    for name in gptq.decoder.values():
        linear = gptq.linear(name)
        wanted[_key(linear.levels, linear.scales)] = name
    count = 0
    for node in graph:
        if node.op_type != PLUGIN:
            continue
        outputs, inputs = (int(node.attributes[of].value) for of in ("gemm_n", "gemm_k"))
        weights, scales = (value.const_value.numpy() for value in node.inputs[1:3])
        levels = unpack(np.asarray(weights), outputs, inputs)
        if wanted.pop(_key(levels, np.asarray(scales)), None) is None:
            raise ArtifactError(f"{path}: {node.name} holds integers that GPTQ does not")
        count += 1
    if wanted:
        raise ArtifactError(f"{path}: {min(wanted.values())} is not in the graph")
    return count


def check_python(python: str) -> None:
    """Raises ArtifactError, naming the fix, unless `python` has tensorrt-edgellm and it loads."""
    try:
        version = version_in(python, "tensorrt-edgellm", "import tensorrt_edgellm", timeout=300)
    except OSError as error:
        raise ArtifactError(f"{python} cannot be run: {error}") from None
    if version != EDGELLM:
        found = version or "no tensorrt-edgellm that loads"
        raise ArtifactError(f"{python} has {found}, {EDGELLM} is needed: {install_command()}")


def install_command() -> str:
    """The one line that makes the environment, where the recipe then finds it."""
    return f"{make_it('edgellm')}, or set {PYTHON} to an interpreter that has it"


def _run(python: str, model: Path, out: Path, vision: bool) -> None:
    command = [python, "-P", "-m", "tensorrt_edgellm.scripts.export", str(model), str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*command, *([] if vision else ["--skip-visual"])],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        check=False,
    )
    missing = [name for name in (LLM, *([VISUAL] if vision else [])) if not (out / name).is_file()]
    if done.returncode or missing:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ArtifactError(f"the exporter failed (exit code {done.returncode}): {words[:300]}")


def _build(python: str, folder: Path, report: Report) -> None:
    """Build engines where there is a GPU; say what to do where there is none."""
    if shutil.which("nvidia-smi") is None:
        report(NOT_BUILT)
        return
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["sh", str(folder / "build.sh")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ArtifactError(f"the engines could not be built: {words[:300]}")


def _float16(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: "float16" if key in ("dtype", "torch_dtype") else _float16(value)
            for key, value in config.items()
        }
    return config


def _half(tensors: TensorFolder, name: str) -> Any:
    if tensors.spec(name).dtype != "F32":
        return tensors.raw(name)
    return to_half(name, tensors.array(name))


def _key(levels: Any, scales: Any) -> bytes:
    state = hashlib.sha256(np.ascontiguousarray(levels).tobytes())
    state.update(np.ascontiguousarray(scales).astype("<f2").tobytes())
    return state.digest()
