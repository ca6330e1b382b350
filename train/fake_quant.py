"""Quantization-aware steps: rounded weights compute, and the real ones behind them learn.

The rounding is the exporter's (`round_blocks` with `search=False`, scales in float16), so what was
trained is what ships; a test compares the two. Gradients pass straight through the rounding
(Y. Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

BLOCK = 32
TOP = 15


def fake_quantize(weight: Tensor) -> Tensor:
    """`weight` [out, in] rounded to 4-bit levels, one scale and zero level a block of `in`."""
    blocks = weight.reshape(-1, BLOCK)
    low = blocks.amin(1, keepdim=True).clamp_(max=0)
    high = blocks.amax(1, keepdim=True).clamp_(min=0)
    scale = (high - low).clamp_(min=1e-30) / TOP
    zero = (TOP / 2 - (high + low) / (2 * scale)).round_().clamp_(0, TOP)
    scale = scale.half().float()
    inverse = torch.where(scale == 0, 0, 1 / scale)
    levels = (blocks * inverse).round_()
    levels = torch.minimum(torch.maximum(levels, -zero), TOP - zero)
    return (levels * scale).view_as(weight)


@contextmanager
def rounded(weights: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Within the block the matrices among `weights` hold their rounded values."""
    matrices = [w for w in weights if w.dim() == 2]
    kept = [w.data for w in matrices]
    for matrix in matrices:
        matrix.data = fake_quantize(matrix.data)
    try:
        yield
    finally:
        for matrix, data in zip(matrices, kept, strict=True):
            matrix.data = data
