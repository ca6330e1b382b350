"""Store the matrices of a graph as float16; the session casts them back once, when it loads."""

from __future__ import annotations

from typing import Any

import numpy as np

from proguard_edge.export.nbits import matrices
from proguard_edge.export.rounding import to_half


def halve_graph(model: Any) -> int:
    """Every constant matrix of a MatMul of an onnx-ir model, in place; how many there were.

    Raises ArtifactError: a graph without such nodes, or weights that float16 cannot hold.
    """
    import onnx_ir as ir

    graph = model.graph
    nodes = matrices(model)
    for node in nodes:
        source, weight = node.inputs
        array = np.asarray(weight.const_value.numpy(), np.float32)
        name = f"{weight.name}.float16"
        half = ir.Value(name=name, const_value=ir.tensor(to_half(weight.name, array), name=name))
        graph.register_initializer(half)
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{name}.Cast")
        cast.outputs[0].name = f"{name}.float32"
        matmul = ir.node("MatMul", [source, cast.outputs[0]], name=node.name)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [cast, matmul], node.outputs, matmul.outputs
        )
        if not weight.uses():
            del graph.initializers[weight.name]
    return len(nodes)
