"""Products of 8-bit integers in the decoder: weights rounded by column, activations by token.

Integers multiply two to four times as fast as float32 where the processor has VNNI. One scale for
a whole token is only fine enough once its channels have like ranges, so ranges are first moved
from activations into weights, which changes nothing in exact arithmetic (SmoothQuant, Xiao et al.
2022, arXiv 2211.10438): into the weights of norms, of `v_proj` and of `up_proj`.

    x int8-ed by row: scale = max|row| / 127, value = round(x / scale) + 128, uint8
    y = (value − 128) · W int8, exact in int32, × scale of the row × scale of the column
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.errors import ArtifactError
from proguard_edge.export.last_token import INDEX, attentions
from proguard_edge.export.nbits import matrices

Floats = NDArray[np.float32]
LEVELS = 127
ZERO = 128
# How much of a channel's range moves into the weights, and how far at most. Of .5 to .9 on the
# starter, .8 changed the fewest scores; without a limit dead channels get out of hand.
STRENGTH = 0.8
LARGEST_SHIFT = 8.0
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
# Inputs of matrices, as `ranges` names them, and the matrices that read them.
READERS = {
    "attn": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "o": ("attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


def quantize_products(model: Any, ranges: Mapping[str, Floats]) -> int:
    """Make every matrix of an onnx-ir decoder an integer one, in place; how many there were.

    ranges: "LAYER.attn", ".o", ".mlp", ".down" → float32 [K], the largest |activation| of each
    channel that the matrices of READERS read. Raises ArtifactError: ranges of another model, or
    weights that are not finite.
    """
    graph = model.graph
    heads = int(attentions(graph)[0].attributes["num_heads"].as_int())
    by_layer: dict[int, list[Any]] = {}
    for node in matrices(model):
        by_layer.setdefault(_layer_of(node), []).append(node)
    if {str(layer) for layer in by_layer} != {name.split(".")[0] for name in ranges}:
        raise ArtifactError(f"ranges of another model: this one has {len(by_layer)} layers")
    writer = _Writer(graph)
    # Layer by layer, so that no more than one is in memory in float32.
    for layer, nodes in by_layer.items():
        _smooth(_Weights(graph, layer), ranges, str(layer), heads)
        for node in nodes:
            writer.replace(node)
    return sum(map(len, by_layer.values()))


def _layer_of(node: Any) -> int:
    found = _LAYER.match(node.inputs[1].name)
    if found is None:
        raise ArtifactError(f"{node.inputs[1].name}: a matrix of no layer")
    return int(found[1])


class _Weights:
    """Initializers of one layer, read and written by the builder's names."""

    def __init__(self, graph: Any, layer: int) -> None:
        self._graph, self._prefix = graph, f"model.layers.{layer}."

    def get(self, name: str) -> Floats:
        value = self._graph.initializers.get(self._prefix + name)
        if value is None:
            raise ArtifactError(f"the decoder's graph holds no {self._prefix}{name}")
        return np.asarray(value.const_value.numpy(), np.float32)

    def put(self, name: str, array: Floats) -> None:
        import onnx_ir as ir

        full = self._prefix + name
        self._graph.initializers[full].const_value = ir.tensor(array, name=full)

    def has(self, name: str) -> bool:
        return self._prefix + name in self._graph.initializers


def _smooth(weights: _Weights, ranges: Mapping[str, Floats], layer: str, heads: int) -> None:
    for place, norm in (("attn", "input_layernorm"), ("mlp", "post_attention_layernorm")):
        shift = _shift(weights, ranges[f"{layer}.{place}"], READERS[place])
        weights.put(f"{norm}.weight", weights.get(f"{norm}.weight") / shift)
    for place, source in (("o", "attn.v_proj"), ("down", "mlp.up_proj")):
        largest, matrix = ranges[f"{layer}.{place}"], weights.get(f"{source}.MatMul.weight")
        # Query heads that share a head of `v_proj` stand side by side.
        repeat, head = len(largest) // matrix.shape[1], len(largest) // heads
        shift = _shift(weights, largest, READERS[place], repeat, head if repeat > 1 else 1)
        weights.put(f"{source}.MatMul.weight", matrix / shift)
        if weights.has(f"{source}.Add.bias"):
            weights.put(f"{source}.Add.bias", weights.get(f"{source}.Add.bias") / shift)


def _shift(
    weights: _Weights,
    largest: Floats,
    readers: tuple[str, ...],
    repeat: int = 1,
    head: int = 1,
) -> Floats:
    """Multiply the rows of the readers by what their channels are divided by, which is returned.

    float32 [K / repeat]: channels that come from one column share their shift.
    """
    names = [f"{reader}.MatMul.weight" for reader in readers]
    arrays = [weights.get(name) for name in names]
    if arrays[0].shape[0] != len(largest):
        raise ArtifactError(f"{len(largest)} ranges for {arrays[0].shape[0]} rows of {names[0]}")
    of_weights = np.max([np.abs(array).max(1) for array in arrays], axis=0)
    groups = (-1, repeat, head)
    a, w = (
        np.maximum(np.asarray(x, np.float64).reshape(groups).max(1).reshape(-1), 1e-6)
        for x in (largest, of_weights)
    )
    shift = a**STRENGTH / w ** (1 - STRENGTH)
    shift = np.clip(shift / np.exp(np.log(shift).mean()), 1 / LARGEST_SHIFT, LARGEST_SHIFT)
    rows = np.repeat(shift.reshape(-1, 1, head), repeat, axis=1).reshape(-1, 1).astype(np.float32)
    for name, array in zip(names, arrays, strict=True):
        weights.put(name, array * rows)
    return shift.astype(np.float32)


class _Writer:
    """Puts integer products in the place of matrices. Tokens are rounded once for all readers."""

    def __init__(self, graph: Any) -> None:
        import onnx_ir as ir

        self._ir, self._graph = ir, graph
        self._rounded: dict[int, tuple[Any, Any]] = {}
        # Products of `up_proj` go on without the scale of their token: the product with the gate
        # is rounded by token again, and its scale then takes both.
        self._owed: dict[int, Any] = {}
        self._constant("w8a8.level", np.float32(1 / LEVELS))
        self._constant("w8a8.zero", np.uint8(ZERO))
        self._constant("w8a8.one", np.float32(1))
        self._constant("w8a8.flat", np.array([-1], np.int64))
        self._one_zero = self._constant("w8a8.zero_of_one", np.array([ZERO], np.uint8))
        self._zeros = self._zero_of_each_token()

    def replace(self, node: Any) -> None:
        ir = self._ir
        source, weight = node.inputs
        rounded, scale = self._round(source, node)
        array = np.asarray(weight.const_value.numpy(), np.float32)
        if not np.isfinite(array).all():
            raise ArtifactError(f"{weight.name}: not finite")
        columns = np.abs(array).max(0) / LEVELS
        columns[columns == 0] = 1.0
        integers = np.rint(array / columns).astype(np.int8)
        names = [f"{weight.name}.{part}" for part in ("Q", "scales", "zero")]
        held = [
            self._constant(name, value)
            for name, value in zip(names, (integers, columns, np.int8(0)), strict=True)
        ]
        product = ir.node(
            "MatMulIntegerToFloat",
            [rounded, held[0], self._get("w8a8.one"), held[1], self._get("w8a8.zero"), held[2]],
            domain="com.microsoft",
            name=node.name,
        )
        new, out = [product], product.outputs[0]
        out.name = f"{node.outputs[0].name}.product"
        if "up_proj" in weight.name:
            self._owed[id(out)] = scale
        else:
            new.append(self._op("Mul", f"{node.name}.scale", [out, scale]))
            out = new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(self._graph, node, [node], new, node.outputs, [out])
        if not weight.uses():
            del self._graph.initializers[weight.name]

    def _round(self, source: Any, before: Any) -> tuple[Any, Any]:
        """uint8 [1, S, K] and float32 [1, S, 1]: the tokens of `source`, rounded, and scales."""
        if id(source) in self._rounded:
            return self._rounded[id(source)]
        name = f"{source.name}.w8a8"
        size = self._op("Abs", f"{name}.abs", [source])
        axes = self._constant("w8a8.last", np.array([-1], np.int64))
        largest = self._op("ReduceMax", f"{name}.max", [size.outputs[0], axes], keepdims=1)
        level = self._op("Mul", f"{name}.level", [largest.outputs[0], self._get("w8a8.level")])
        flat = self._op("Reshape", f"{name}.flat", [level.outputs[0], self._get("w8a8.flat")])
        # A token of zeros has scale 0; whatever 0 / 0 is rounded to, it is multiplied by 0 again.
        zeros = self._one_zero if _of_last_token(source) else self._zeros
        rounded = self._op("QuantizeLinear", f"{name}.q", [source, flat.outputs[0], zeros], axis=1)
        nodes, out = [size, largest, level, flat, rounded], level.outputs[0]
        made = source.producer()
        for value in made.inputs if made is not None and made.op_type == "Mul" else ():
            if (owed := self._owed.get(id(value))) is not None:
                nodes.append(self._op("Mul", f"{name}.both", [out, owed]))
                out = nodes[-1].outputs[0]
        self._graph.insert_before(before, nodes)
        self._rounded[id(source)] = (rounded.outputs[0], out)
        return self._rounded[id(source)]

    def _zero_of_each_token(self) -> Any:
        """uint8 [S], as QuantizeLinear wants it beside one scale a token."""
        embeds = next(x for x in self._graph.inputs if x.name == "inputs_embeds")
        shape = self._op("Shape", "w8a8.tokens", [embeds], start=1, end=2)
        zeros = self._op("Expand", "w8a8.zeros", [self._get("w8a8.zero"), shape.outputs[0]])
        self._graph.insert_before(self._graph[0], [shape, zeros])
        return zeros.outputs[0]

    def _op(self, kind: str, name: str, inputs: list[Any], **attributes: int) -> Any:
        node = self._ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.output"
        return node

    def _constant(self, name: str, array: Any) -> Any:
        if name not in self._graph.initializers:
            tensor = self._ir.tensor(np.asarray(array), name=name)
            self._graph.register_initializer(self._ir.Value(name=name, const_value=tensor))
        return self._get(name)

    def _get(self, name: str) -> Any:
        return self._graph.initializers[name]


def _of_last_token(value: Any) -> bool:
    """Whether `keep_last_token` left one token of it, or of what it was made from."""
    pending, seen = [value], set[int]()
    while pending:
        node = pending.pop().producer()
        if node is None or id(node) in seen:
            continue
        if node.op_type == "Gather" and node.inputs[1].name == INDEX:
            return True
        seen.add(id(node))
        # What comes before an attention is of all tokens.
        if node.op_type != "GroupQueryAttention":
            pending += [x for x in node.inputs if x is not None]
    return False


def probe_model() -> Any:
    """The onnx-ir model of the runtime's `products.onnx`: uint8 tokens [M, 64] times int8 127
    [64, 32], as the decoder multiplies them. What it should give: `engine.integers.EXPECTED`."""
    from proguard_edge.export.graph import GraphWriter

    writer = GraphWriter("products")
    tokens = writer.input("tokens", "uint8", ["M", 64])
    one = writer.vector("one", np.float32(1))
    weights = writer.vector("weights", np.full((64, 32), LEVELS, np.int8))
    scales = writer.vector("scales", np.ones(32, np.float32))
    zero, none = writer.vector("zero", np.uint8(ZERO)), writer.vector("none", np.int8(0))
    product = writer.op(
        "MatMulIntegerToFloat",
        *(tokens, weights, one, scales, zero, none),
        domain="com.microsoft",
    )
    writer.output(product, "products", "float32", ["M", 32])
    return writer.model()
