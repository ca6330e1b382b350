"""Forward pass of a Qwen2.5-VL text decoder in which a whole batch shares one prefix.

The policy prefix is the same for every row, so its keys and values are computed once (without
gradient) and every row attends to them; only the rows' own tokens are recomputed and trained.
A prefix of 600 tokens then costs a step its attention, not another 600 tokens a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PrefixKV:
    """Keys and values of the prefix, one `[kv_heads, P, head_dim]` pair a layer."""

    layers: list[tuple[Tensor, Tensor]]

    @property
    def length(self) -> int:
        return int(self.layers[0][0].shape[1])


class PrefixLM:
    """Runs the language model of a `Qwen2_5_VLForConditionalGeneration` on text rows.

    Text tokens have equal temporal, height and width positions, so M-RoPE reduces to plain
    rotary embedding here; a test compares the logits with the model's own forward.
    """

    def __init__(self, model: Any, frozen_layers: int = 0) -> None:
        self.decoder = model.model.language_model
        self.embedding: nn.Embedding = self.decoder.embed_tokens
        config = self.decoder.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.frozen_layers = frozen_layers
        theta = config.rope_parameters["rope_theta"]
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        self.inverse_frequency = 1.0 / theta**exponent

    def trainable(self) -> list[nn.Parameter]:
        """Weights of the layers above the frozen ones and the final norm; embeddings stay."""
        modules = [*self.decoder.layers[self.frozen_layers :], self.decoder.norm]
        return [p for module in modules for p in module.parameters()]

    @torch.no_grad()
    def prefix(self, ids: Tensor) -> PrefixKV:
        """`ids`: int64 [P]. The prefix's keys and values under the weights as they are now."""
        empty = torch.zeros(self.kv_heads, 0, self.head_dim)
        none = PrefixKV([(empty, empty)] * len(self.decoder.layers))
        layers: list[tuple[Tensor, Tensor]] = []
        self._run(ids[None], none, layers)
        return PrefixKV(layers)

    def hidden(self, ids: Tensor, prefix: PrefixKV) -> Tensor:
        """`ids`: int64 [B, S], right-padded. Returns the normed hidden states, fp32 [B, S, H]."""
        return self._run(ids, prefix, None)

    def _run(
        self, ids: Tensor, prefix: PrefixKV, keep: list[tuple[Tensor, Tensor]] | None
    ) -> Tensor:
        length = ids.shape[1]
        angles = torch.outer(
            torch.arange(prefix.length, prefix.length + length).float(), self.inverse_frequency
        )
        cos, sin = (torch.cat((f, f), -1) for f in (angles.cos(), angles.sin()))
        causal = torch.full((length, length), float("-inf")).triu(1)
        grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(False):
            x = self.embedding(ids)
        for i, layer in enumerate(self.decoder.layers):
            with torch.set_grad_enabled(grad and i >= self.frozen_layers):
                x = x + self._attention(layer, x, cos, sin, causal, prefix.layers[i], keep)
                y = _rms_norm(layer.post_attention_layernorm, x)
                mlp = layer.mlp
                x = x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        return _rms_norm(self.decoder.norm, x)

    def _attention(
        self,
        layer: Any,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        causal: Tensor,
        prefix: tuple[Tensor, Tensor],
        keep: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        batch, length, _ = x.shape
        attention = layer.self_attn
        y = _rms_norm(layer.input_layernorm, x)
        group = self.heads // self.kv_heads
        q = attention.q_proj(y).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = attention.k_proj(y).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = attention.v_proj(y).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if keep is not None:
            keep.append((k[0], v[0]))
        q = q.reshape(batch, self.kv_heads, group * length, self.head_dim).transpose(0, 1)
        q, k, v = q.contiguous() * self.head_dim**-0.5, k.transpose(0, 1), v.transpose(0, 1)
        own = (q @ k.transpose(-1, -2)).view(self.kv_heads, batch, group, length, length) + causal
        # One product for the whole batch: broadcasting would copy the prefix for every row.
        before = q.flatten(1, 2) @ prefix[0].transpose(-1, -2)
        rows = (self.kv_heads, batch, group * length)
        weights = torch.cat((before.view(*rows, -1), own.view(*rows, length)), -1).softmax(-1)
        past = prefix[0].shape[1]
        out = (weights[..., :past].flatten(1, 2) @ prefix[1]).view(*rows, -1)
        out = out + weights[..., past:] @ v
        out = out.view(self.kv_heads, batch, group, length, self.head_dim)
        out = out.permute(1, 3, 0, 2, 4)
        result: Tensor = attention.o_proj(out.reshape(batch, length, -1))
        return result


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
