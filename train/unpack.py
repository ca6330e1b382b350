"""The starter's checkpoint out of its artifact: the weights as they ship, in float32.

    python -m proguard_edge.train.unpack proguard_edge/starter/artifact CHECKPOINT

So the recipes can be tried, and the starter trained on (`train.starter --continue-from`), without
the hours of its training. Weights that `int4` rounded stay on the grid of its levels. The vision
tower is what `train.smollm2` builds: the artifact holds none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.artifact import Artifact
from proguard_edge.engine.table import TokenTable
from proguard_edge.errors import ArtifactError
from proguard_edge.export.decoder_weights import DecoderWeights
from proguard_edge.export.nbits import unpack
from proguard_edge.train.smollm2 import build_base

Floats = NDArray[np.float32]


def decoder_weights(graph: Path) -> dict[str, Floats]:
    """Matrices, biases and norms of a `decoder.onnx` of 4 bits, under a checkpoint's names.

    Raises ArtifactError where a matrix is not of 4 bits.
    """
    decoder = DecoderWeights(graph)
    found = {
        name: np.ascontiguousarray(unpack(parts, parts["Q"][0].size * 2, 4).T)
        for name, parts in decoder.matrices()
    }
    return {**found, **dict(decoder.vectors())}


def unpack_starter(artifact: Artifact, out: Path) -> None:
    """Write the checkpoint folder OUT. Raises ArtifactError: not the starter, or not of 4 bits."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    weights = decoder_weights(artifact.folder / "decoder.onnx")
    shape = artifact.manifest["model"]
    table = TokenTable(artifact, "embeddings", shape["vocab"], shape["hidden"])
    weights["embed_tokens.weight"] = table.rows(np.arange(shape["vocab"]))
    build_base(out)
    loader: Any = Qwen2_5_VLForConditionalGeneration
    model = loader.from_pretrained(out, dtype=torch.float32, local_files_only=True)
    target = model.model.language_model
    missing, unexpected = target.load_state_dict(
        {name: torch.tensor(w) for name, w in weights.items()},
        strict=False,
    )
    # The builder leaves biases out that are zero, as those of a fresh base are.
    lost = [name for name in missing if not name.endswith("_proj.bias")]
    if lost or unexpected:
        raise ArtifactError(
            f"{artifact.folder}: not the starter's shape; without a place: {[*lost, *unexpected]}"
        )
    model.tie_weights()
    model.save_pretrained(out)
    if training := artifact.manifest.get("training"):
        (out / "training.json").write_text(json.dumps(training, indent=1) + "\n")


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    unpack_starter(Artifact.open(args.artifact), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
