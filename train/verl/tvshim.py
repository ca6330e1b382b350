"""Two operators of torchvision, declared where its compiled part cannot be loaded.

The torchvision of the package index is built for CUDA. Beside a CPU build of torch its library is
skipped, and its Python part then fails on `torchvision::nms` that nobody declared, although nobody
calls it either. A declaration without a body is enough to import it.
"""

from __future__ import annotations

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare() -> bool:
    """Declare what is missing; whether anything was. Does nothing beside a CUDA build of torch."""
    import torch

    if torch.version.cuda is not None:
        return False
    declared = False
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", SIGNATURE)
            declared = True
    return declared
