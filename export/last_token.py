"""The last layer for the last token alone: a verdict reads no hidden state but that one.

Keys and values of the layer still come from all tokens; what follows its attention does not, which
spares most of one layer of so many.
"""

from __future__ import annotations

from typing import Any

from proguard_edge.errors import ArtifactError

INDEX = "last_token.index"


def keep_last_token(model: Any) -> None:
    """Make hidden_states of an onnx-ir decoder [B, 1, H], of the last token, in place, if they
    are not that already.

    Raises ArtifactError: another graph than the builder's.
    """
    import numpy as np
    import onnx_ir as ir

    graph = model.graph
    if INDEX in graph.initializers:
        return
    last = attentions(graph)[-1].outputs[0]
    norm = _norm_behind(last)
    index = ir.Value(name=INDEX, const_value=ir.tensor(np.array([-1], np.int64), name=INDEX))
    graph.register_initializer(index)
    behind = set(map(id, _behind(last)))
    residual = [x for x in norm.inputs[:2] if id(x.producer()) not in behind]
    if len(residual) != 1:
        raise ArtifactError("the decoder's last layer has no residual")
    for value in (last, residual[0]):
        readers = [(n, i) for n, i in value.uses() if value is last or n is norm]
        gather = ir.node("Gather", [value, index], {"axis": 1}, name=f"{value.name}.last")
        gather.outputs[0].name = f"{value.name}.last.output"
        graph.insert_after(value.producer(), gather)
        for node, place in readers:
            node.replace_input_with(place, gather.outputs[0])
    hidden = next(x for x in graph.outputs if x.name == "hidden_states")
    hidden.shape = ir.Shape([hidden.shape[0], 1, hidden.shape[2]])


def attentions(graph: Any) -> list[Any]:
    """The attention nodes of a decoder, one a layer. Raises ArtifactError when there are none."""
    found = [node for node in graph if node.op_type == "GroupQueryAttention"]
    if not found:
        raise ArtifactError("the decoder's graph holds no attention")
    return found


def _behind(value: Any) -> list[Any]:
    """All nodes that depend on a value, in no order."""
    found: dict[int, Any] = {}
    pending = [node for node, _ in value.uses()]
    while pending:
        node = pending.pop()
        if id(node) not in found:
            found[id(node)] = node
            pending += [n for out in node.outputs for n, _ in out.uses()]
    return list(found.values())


def _norm_behind(attention: Any) -> Any:
    """The first norm with a residual behind the attention."""
    node = attention.producer()
    while node.op_type != "SkipSimplifiedLayerNormalization":
        readers = [n for n, _ in node.outputs[0].uses()]
        if len(readers) != 1:
            raise ArtifactError("the decoder's last layer is none of the builder's")
        node = readers[0]
    return node
