"""Write an ONNX graph node by node, on onnx-ir."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.export.rounding import to_half

OPSET = 20
IR_VERSION = 10
INLINE_BYTES = 64


class GraphWriter:
    """A graph that grows. Values are onnx-ir values; names are numbers, so equal bytes come out.

    half_matrices: store matrices as float16 and cast them back to float32, which onnxruntime does
    once, when it loads the graph.
    """

    def __init__(self, name: str, *, half_matrices: bool = False) -> None:
        import onnx_ir as ir

        self._ir = ir
        self._half = half_matrices
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._count = 0
        self._name = name

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Any:
        """A new input of the graph."""
        value = self._typed(self._ir.Value(name=name), dtype, shape)
        self._inputs.append(value)
        return value

    def output(self, value: Any, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Make a value an output of the graph."""
        value.name = name
        self._outputs.append(self._typed(value, dtype, shape))

    def op(self, op_type: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        """A node with one output, which is returned. `to`: a type's name, for Cast."""
        return self.ops(op_type, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Sequence[Any]:
        """A node with several outputs."""
        if "to" in attributes:
            attributes["to"] = self._dtype(attributes["to"])
        node = self._ir.node(
            op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=self._new(op_type)
        )
        for i, value in enumerate(node.outputs):
            value.name = f"{node.name}.{i}"
        self._nodes.append(node)
        found: Sequence[Any] = node.outputs
        return found

    def split(self, value: Any, parts: int, *, axis: int) -> Sequence[Any]:
        """Equal parts along an axis."""
        return self.ops("Split", value, outputs=parts, axis=axis, num_outputs=parts)

    def choose(self, condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        """One of two values; only the nodes of the branch taken run."""
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        return self.op("If", condition, **branches)

    def ints(self, values: int | Sequence[int]) -> Any:
        """An int64 constant, stored once however often it is asked for."""
        array = np.array(values, np.int64)
        return self._constant(f"int64.{values}", array)

    def vector(self, name: str, array: Any) -> Any:
        """A weight in the type that it has."""
        return self._constant(name, array)

    def matrix(self, name: str, array: NDArray[np.float32]) -> Any:
        """A weight in the type of matrices. Raises ArtifactError when float16 cannot hold it."""
        if not self._half:
            return self._constant(name, array)
        return self.op("Cast", self._constant(name, to_half(name, array)), to="float32")

    def model(self) -> Any:
        """The graph as an onnx-ir model. Nothing can be added afterwards."""
        ir = self._ir
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET, "com.microsoft": 1},
            name=self._name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="proguard-edge")

    def _branch(self, write: Callable[[], Any]) -> Any:
        outer, self._nodes = self._nodes, []
        try:
            result = write()
            name = self._new("branch")
            return self._ir.Graph([], [result], nodes=self._nodes, name=name)
        finally:
            self._nodes = outer

    def _constant(self, name: str, array: NDArray[Any]) -> Any:
        if name not in self._initializers:
            tensor = self._ir.tensor(np.ascontiguousarray(array), name=name)
            self._initializers[name] = self._ir.Value(name=name, const_value=tensor)
        return self._initializers[name]

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"

    def _dtype(self, name: str) -> Any:
        return self._ir.DataType.from_numpy(np.dtype(name))

    def _typed(self, value: Any, dtype: str, shape: Sequence[int | str]) -> Any:
        value.type = self._ir.TensorType(self._dtype(dtype))
        value.shape = self._ir.Shape(shape)
        return value


def save(model: Any, path: Path) -> tuple[Path, Path]:
    """Write an onnx-ir model and, beside it, its weights; the two files. Equal models, equal bytes.

    Weights that no node uses are left out.
    """
    import onnx_ir as ir

    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    data = path.with_name(f"{path.name}.data")
    # Shapes and axes stay in the graph: onnxruntime reads them before it reads the other file.
    ir.save(model, path, external_data=data.name, size_threshold_bytes=INLINE_BYTES)
    return path, data
