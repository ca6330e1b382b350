"""Two bugs of verl 0.9.1 that any device meets, mended from outside.

1. A micro-batch of Qwen2.5-VL without a picture: `_get_input_embeds` sends a blank picture through
   the vision tower, so that all ranks run the same layers, and calls `.mean()` on what transformers
   5 returns there: an object, no tensor.
2. Three-dimensional `position_ids` travel as a nested tensor [rows][4, tokens]. When all rows have
   the same length, the axis of 4 comes back as the ragged one, and `maybe_fix_3d_position_ids`
   then declares the tokens ragged without moving the values: positions are mixed up.

Both are pinned: another version may have mended them, or moved what is replaced here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from proguard_edge.errors import TrainingError
from proguard_edge.train.verl.stage import VERL

AXES = 4
_done = False


def apply() -> None:
    """Mend verl in this process, once. Raises TrainingError for another version of verl."""
    global _done
    verl = import_module("verl")
    found = getattr(verl, "__version__", "unknown")
    if found != VERL:
        raise TrainingError(
            f"the fixes are for verl {VERL}, this is {found}: pip install verl=={VERL}"
        )
    if _done:
        return
    _mend_text_only_batches(import_module("verl.models.transformers.qwen2_vl"))
    _mend_position_ids(import_module("verl.utils.tensordict_utils"))
    _done = True


def replace(module: Any, name: str, value: Any) -> None:
    """Put `value` in the place of a module's function, also where it was imported from there."""
    original = getattr(module, name)
    for other in [module, *sys.modules.values()]:
        if getattr(other, "__dict__", {}).get(name) is original:
            setattr(other, name, value)


def _mend_text_only_batches(module: Any) -> None:
    original = module._get_input_embeds

    def embeds(model: Any, input_ids: Any, attention_mask: Any = None, **pictures: Any) -> Any:
        if any(pictures.get(name) is not None for name in ("pixel_values", "pixel_values_videos")):
            return original(model, input_ids, attention_mask, **pictures)
        hidden = model.get_input_embeddings()(input_ids)
        # The gradient of the vision tower is zero but not missing, or ranks would wait for it.
        hidden = hidden + 0.0 * _blank_picture(module, model, hidden).mean()
        mask = attention_mask.to(hidden.device) if attention_mask is not None else None
        return hidden, mask

    def by_position(model: Any, input_ids: Any, attention_mask: Any = None, *rest: Any) -> Any:
        names = ("pixel_values", "pixel_values_videos", "image_grid_thw", "video_grid_thw")
        return embeds(model, input_ids, attention_mask, **dict(zip(names, rest, strict=False)))

    replace(module, "_get_input_embeds", by_position)


def _blank_picture(module: Any, model: Any, like: Any) -> Any:
    """Features of the smallest picture of four merged blocks, [4, hidden]."""
    import torch

    config = model.config.vision_config
    width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.zeros((16, width), dtype=like.dtype, device=like.device)
    grid = torch.tensor([[1, 4, 4]], device=like.device)
    features, _ = module.unpack_visual_output(model.visual(pixels, grid_thw=grid))
    return features


def _mend_position_ids(module: Any) -> None:
    original = module.maybe_fix_3d_position_ids

    def fixed(data: Any) -> None:
        positions = data["position_ids"] if "position_ids" in data.keys() else None  # noqa: SIM118
        if positions is not None and _is_turned(positions):
            rows = list(positions._values.split(AXES))
            data["position_ids"] = module.nested_tensor_from_tensor_list(rows, ragged_idx=2)
        else:
            original(data)

    replace(module, "maybe_fix_3d_position_ids", fixed)


def _is_turned(positions: Any) -> bool:
    """Whether values lie as [4 x rows, tokens] with the axis of 4 as the ragged one."""
    if not (positions.is_nested and positions.dim() == 3):
        return False
    values, offsets = positions._values, positions.offsets()
    ends_at_rows = int(offsets[-1]) == values.shape[0] != values.shape[-1]
    return ends_at_rows and set(offsets.diff().tolist()) == {AXES}
