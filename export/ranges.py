"""How large the activations become that the decoder's matrices read, channel by channel.

`w8a8` needs them. They are measured on a calibration set with the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.sizes import Weights, free_memory, reference_memory

if TYPE_CHECKING:
    from proguard_edge.train.sft_data import Sample

Report = Callable[[str], None]
FILE = "ranges.npz"
# A matrix that reads the place, as transformers names it; the others there read the same.
PLACES = {
    "attn": "self_attn.q_proj",
    "o": "self_attn.o_proj",
    "mlp": "mlp.gate_proj",
    "down": "mlp.down_proj",
}


def measure_ranges(
    checkpoint: Path, out: Path, samples: Sequence[Sample], report: Report = lambda _: None
) -> Path:
    """Run the samples through the model and write `out` (.npz): "LAYER.PLACE" → float32 [K].

    The largest |activation| over all tokens but the first of each sample, on which models of this
    kind rest their attention with values like no other token's. In float32 where that fits into
    memory, else in bfloat16. Raises ArtifactError: no samples, or a model that gives no numbers.
    """
    import torch

    from proguard_edge.train.sft import load_model
    from proguard_edge.train.sft_data import collate

    if not samples:
        raise ArtifactError("activations are measured on calibration samples; none were given")
    source = Checkpoint(checkpoint)
    free = free_memory()
    fits = free is None or reference_memory(Weights.of(source.config.to_dict())) < free
    model = load_model(checkpoint, "float32" if fits else "bfloat16").eval()
    found: dict[str, Any] = {}
    hooks = [
        layer.get_submodule(module).register_forward_pre_hook(_keep(found, f"{index}.{place}"))
        for index, layer in enumerate(model.model.language_model.layers)
        for place, module in PLACES.items()
    ]
    merge = int(source.config.vision_config.spatial_merge_size)
    image = int(source.config.image_token_id)
    with torch.inference_mode():
        for number, sample in enumerate(samples, 1):
            batch = collate([sample], image, merge)
            del batch["labels"]
            if "pixel_values" in batch:
                batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
            model.model(**batch, use_cache=False)
            if number % 16 == 0 or number == len(samples):
                report(f"activations: {number} of {len(samples)} samples")
    for hook in hooks:
        hook.remove()
    arrays = {name: value.float().numpy() for name, value in found.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ArtifactError(f"{checkpoint}: its activations are not finite numbers")
    np.savez(out, **arrays)
    return out


def read_ranges(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """What `measure_ranges` wrote. Raises ArtifactError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: no ranges of activations: {error}") from None


def _keep(found: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Any, ...]) -> None:
        import torch

        largest = inputs[0][0, 1:].abs().amax(0)
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    return hook
