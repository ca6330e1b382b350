"""GPTQ itself, in the environment that has gptqmodel; `export.gptq` starts it.

    python -m proguard_edge.export.gptq_stage JOB.json

JOB names the checkpoint, the folder to write, the group size, a file of calibration samples and a
folder for layers that wait on the disk.
They are token ids and patches as the runtime makes them, with positions computed by its own code:
no processor, no chat template and no second tokenizer stand between them and the model.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from proguard_edge.engine.positions import rope_positions


def calibration(samples: Path, image_token_id: int, merge_size: int) -> list[dict[str, Any]]:
    """Batches of one sample each: int64 [1, S] ids and mask, [3, 1, S] positions, and for images
    float32 patches and int64 [images, 3] grids. The inverse of `gptq.write_samples`."""
    import torch

    batches = []
    with np.load(samples) as arrays:
        for index in range(int(arrays["count"])):
            ids = arrays[f"{index}.ids"]
            grids = arrays[f"{index}.grids"]
            positions, _ = rope_positions(ids, image_token_id, grids.tolist(), merge_size)
            batch = {
                "input_ids": torch.from_numpy(ids)[None],
                "attention_mask": torch.ones((1, len(ids)), dtype=torch.long),
                "position_ids": torch.from_numpy(positions)[:, None],
            }
            if len(grids):
                batch["pixel_values"] = torch.from_numpy(arrays[f"{index}.pixels"])
                batch["image_grid_thw"] = torch.from_numpy(grids)
            batches.append(batch)
    return batches


def quantize(job: dict[str, Any]) -> dict[str, str]:
    """Run GPTQ and write its folder; versions of what did it."""
    import gptqmodel
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.models.definitions.qwen2_5_vl import Qwen2_5_VLQModel

    # The processor would only turn pictures into the patches that are here already, and importing
    # the one for videos needs torchvision.
    Qwen2_5_VLQModel.require_load_processor = False
    cuda = torch.cuda.is_available()
    settings = QuantizeConfig(
        bits=4,
        group_size=job["group_size"],
        desc_act=False,
        sym=True,
        lm_head=False,
        device="cuda" if cuda else "cpu",
        offload_to_disk_path=job["scratch"],
    )
    # Its own choice on a CPU is bfloat16, whatever the weights are.
    dtype = getattr(torch, job["dtype"])
    model: Any = GPTQModel.load(
        job["checkpoint"], settings, dtype=dtype, attn_implementation="sdpa"
    )
    config = model.model.config
    merge = config.vision_config.spatial_merge_size
    batches = calibration(Path(job["samples"]), config.image_token_id, merge)
    for batch in batches:
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(dtype)
    model.prepare_dataset = lambda **_: batches
    model.quantize(batches, batch_size=1)
    model.save(job["out"])
    return {"gptqmodel": gptqmodel.__version__, "torch": torch.__version__}


def main() -> None:
    """Read the job, run it, write `versions` beside it."""
    path = Path(sys.argv[1])
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    versions = quantize(json.loads(path.read_text(encoding="utf-8")))
    path.with_name("versions.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    main()
