"""verl's shards as a checkpoint folder. Runs under verl's Python:

    python -m proguard_edge.train.verl.merge SHARDS MODEL OUT

SHARDS: `global_step_N/actor` of a run; MODEL: the checkpoint that it started from, which gives
tokenizer and processor, for those beside the shards carry the chat template of the training.
A LoRA adapter is folded into the weights. Weights come out as bfloat16.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from proguard_edge.export.checkpoint import REWRITTEN, WEIGHTS, copy_companions
from proguard_edge.train.verl import tvshim


def merge(shards: Path, model: Path, out: Path) -> None:
    """Write the folder `out`. Raises CalledProcessError when verl's merger fails."""
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(shards), "--target_dir", str(work)]
    subprocess.run(command, check=True)
    if (work / "lora_adapter").is_dir():
        _fold(work)
    for path in work.iterdir():
        if path.suffix not in WEIGHTS and path.name not in REWRITTEN:
            path.unlink()
    copy_companions(model, work)
    shutil.rmtree(out, ignore_errors=True)
    work.rename(out)


def _fold(folder: Path) -> None:
    """Add the adapter beside the weights to them, and remove it."""
    from peft import PeftModel  # type: ignore[import-not-found]
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto")
    adapter = folder / "lora_adapter"
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    merged.save_pretrained(folder)
    shutil.rmtree(adapter)


if __name__ == "__main__":
    tvshim.declare()
    merge(*(Path(argument) for argument in sys.argv[1:4]))
