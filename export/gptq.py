"""GPTQ as a stage of the export: a checkpoint and calibration samples to a folder of 4-bit weights.

gptqmodel pins versions that conflict with those of the rest, so it runs in an environment of its
own; this module writes what it needs into files, starts it there and verifies what comes back.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from proguard_edge.environments import interpreter, make_it
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint, copy_companions, read_json
from proguard_edge.export.extras import has_module, version_in
from proguard_edge.export.folder import staged
from proguard_edge.export.gptq_layout import RECORD, GptqCheckpoint
from proguard_edge.export.gptq_onnx import LARGEST_ERROR, relative_error
from proguard_edge.export.gptq_round import check_groups, projections
from proguard_edge.export.tensor_file import TensorFolder
from proguard_edge.image import Patches

GPTQMODEL = "7.6.0"
STAGE = "proguard_edge.export.gptq_stage"
PYTHON = "PROGUARD_EDGE_GPTQ_PYTHON"
DTYPES = ("float32", "bfloat16", "float16")
LAYER = re.compile(rb"layer +\[(\d+) of (\d+)\]")
TAIL_BYTES = 4096
POLL_SECONDS = 2.0


class Sample(Protocol):
    """A whole prompt with its answer, such as `train.sft_data.Sample`: token ids, image tokens
    among them, and the images in the order of their places."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def images(self) -> Sequence[Patches]: ...


def quantize_gptq(
    checkpoint: Path,
    out: Path,
    samples: Sequence[Sample],
    *,
    group_size: int = 128,
    python: str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Run GPTQ (4 bits, symmetric, no activation order) and write the folder `out`, returned.

    samples: as in the runtime, so that what is calibrated is what will be read; neither the
    vision tower nor the output head is rounded. python: the interpreter that has gptqmodel, else
    that of the environment variable PROGUARD_EDGE_GPTQ_PYTHON, else that of `env create gptq`,
    else this one.
    Raises ArtifactError: no environment (the message names the command that makes it), no samples,
    groups that do not divide a matrix, a run that failed, or weights that lie too far away.
    """
    source = Checkpoint(checkpoint)
    check_groups(checkpoint, group_size)
    if not samples:
        raise ArtifactError("GPTQ needs calibration samples; none were given")
    python = interpreter("gptq", python, PYTHON)
    check_python(python)
    with staged(out, force=False) as folder:
        with TemporaryDirectory(dir=out.absolute().parent, prefix=".gptq.") as scratch:
            work = Path(scratch)
            digest = write_samples(samples, work / "samples.npz")
            report(f"GPTQ on {len(samples)} samples, groups of {group_size}")
            _run(python, source, work, folder, group_size, report)
            versions = read_json(work / "versions.json")
        copy_companions(checkpoint, folder)
        record = {
            "method": "gptq",
            "bits": 4,
            "group_size": group_size,
            "samples": len(samples),
            "samples_with_images": sum(bool(sample.images) for sample in samples),
            "samples_sha256": digest,
            **versions,
        }
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
        errors = verify(checkpoint, folder)
        mean, worst = sum(errors.values()) / len(errors), max(errors.values())
        report(f"{len(errors)} matrices, relative error {mean:.4f} on average, {worst:.4f} at most")
    return out


def verify(checkpoint: Path, gptq: Path) -> dict[str, float]:
    """The relative error of every rounded matrix, by `layers.N.mlp.up_proj` and so on.

    Raises ArtifactError unless all the decoder's projections, and nothing else, are rounded, every
    other tensor is as it was, and no error is larger than LARGEST_ERROR.
    """
    source, found = Checkpoint(checkpoint), GptqCheckpoint(gptq)
    names = projections(TensorFolder(checkpoint))
    if set(found.decoder) != set(names):
        odd = sorted(set(found.decoder) ^ set(names))
        raise ArtifactError(f"{gptq}: {odd[0]} is rounded in one folder and absent in the other")
    _check_others(checkpoint, found)
    errors = {}
    for short, name in found.decoder.items():
        weight = source.tensor(f"{names[short]}.weight")
        errors[short] = relative_error(weight.T, found.linear(name))
        if not errors[short] <= LARGEST_ERROR:
            raise ArtifactError(f"{gptq}: {short} lies {errors[short]:.2f} from its weights")
    return errors


def _check_others(checkpoint: Path, found: GptqCheckpoint) -> None:
    """Raises ArtifactError unless what is not rounded has the bytes of the checkpoint; a rounded
    layer's bias may have become float16."""
    before = TensorFolder(checkpoint)
    names = {_plain(name): name for name in before.names()}
    kept = set()
    for name in found.others():
        old = names.get(_plain(name))
        if old is None:
            raise ArtifactError(f"{found.folder}: {name} is not in {checkpoint}")
        kept.add(old)
        if before.spec(old) == found.tensors.spec(name):
            same = before.raw(old) == found.tensors.raw(name)
        else:
            bias = Checkpoint(checkpoint).tensor(old)
            same = bias.ndim == 1 and np.array_equal(
                bias.astype(np.float16), found.tensors.array(name)
            )
        if not same:
            raise ArtifactError(f"{found.folder}: {name} is not what it was")
    rounded = {names[f"{short}.weight"] for short in found.decoder}
    # A tied head may be written or left out.
    lost = set(names.values()) - kept - rounded - {"lm_head.weight"}
    if lost:
        raise ArtifactError(f"{found.folder}: {min(lost)} is missing")


def _plain(name: str) -> str:
    """A tensor's name without the prefix, which differs between releases of transformers."""
    return re.sub(r"^(model\.)?(language_model\.)?(model\.)?", "", name)


def write_samples(samples: Sequence[Sample], path: Path) -> str:
    """Write ids, patches and grids into an npz file; sha256 (hex) over their contents."""
    arrays: dict[str, Any] = {"count": np.int64(len(samples))}
    for index, sample in enumerate(samples):
        arrays[f"{index}.ids"] = np.array(sample.ids, np.int64)
        grids = [image.grid for image in sample.images]
        arrays[f"{index}.grids"] = np.array(grids, np.int64).reshape(-1, 3)
        if grids:
            arrays[f"{index}.pixels"] = np.concatenate([image.pixels for image in sample.images])
    state = hashlib.sha256()
    for name, array in arrays.items():
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    np.savez(path, **arrays)
    return state.hexdigest()


def check_python(python: str) -> None:
    """Raises ArtifactError, naming the fix, unless `python` has gptqmodel and this package."""
    try:
        version = version_in(python, "gptqmodel", has_module(STAGE))
    except OSError as error:
        raise ArtifactError(f"{python} cannot be run: {error}") from None
    if not version:
        raise ArtifactError(f"gptqmodel is not installed in {python}: {install_command()}")
    if version != GPTQMODEL:
        raise ArtifactError(
            f"gptqmodel {version} is installed, {GPTQMODEL} is needed: {install_command()}"
        )


def install_command() -> str:
    """The one line that makes the environment, where the recipes then find it."""
    return f"{make_it('gptq')}, or set {PYTHON} to an interpreter that has it"


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the process, on top of `base`: no network, few workers."""
    return {
        **base,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # It counts cores that a container may not use, and then holds a layer for each.
        "GPTQMODEL_CPU_WORKERS": base.get("GPTQMODEL_CPU_WORKERS", "2"),
    }


def _run(
    python: str,
    source: Checkpoint,
    work: Path,
    folder: Path,
    group_size: int,
    report: Callable[[str], None],
) -> None:
    dtype = str(source.config.dtype or "float32").removeprefix("torch.")
    if dtype not in DTYPES:
        raise ArtifactError(f"{source.folder}: weights in {dtype}; known are {', '.join(DTYPES)}")
    job = {
        "checkpoint": str(source.folder.resolve()),
        "out": str(folder.resolve()),
        "samples": str(work / "samples.npz"),
        "scratch": str(work / "offload"),
        "group_size": group_size,
        "dtype": dtype,
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    log = work / "log.txt"
    # Absolute, because the working folder changes: gptqmodel writes logs where it is started.
    executable = os.path.abspath(python) if os.sep in python else python  # noqa: PTH100
    with log.open("w", encoding="utf-8") as lines:
        process = subprocess.Popen(
            [executable, "-P", "-m", STAGE, str(work / "job.json")],
            env=environment(os.environ),
            cwd=work,
            stdout=lines,
            stderr=subprocess.STDOUT,
        )
        try:
            code = _follow(process, log, report)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code or not (work / "versions.json").is_file():
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        # Bars of progress may stand behind the reason.
        errors = [line for line in words if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = (errors or words or ["no output"])[-1][:300]
        raise ArtifactError(f"gptqmodel failed (exit code {code}): {last}")


def _follow(process: subprocess.Popen[bytes], log: Path, report: Callable[[str], None]) -> int:
    """Wait for the end, with a line for every layer; the exit code."""
    last = ""
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            with log.open("rb") as lines:
                lines.seek(max(0, log.stat().st_size - TAIL_BYTES))
                found = LAYER.findall(lines.read())
            # It counts from 0 to the last.
            numbers = [int(number) + 1 for number in found[-1]] if found else []
            if numbers and (line := "layer {} of {}".format(*numbers)) != last:
                report(line)
                last = line
