"""A small ONNX builder: every call adds a node and returns the name of its output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs.weights_file import WEIGHTS_FILE, Array, WeightsFile

OPSET = 21
MICROSOFT = "com.microsoft"
PRODUCER = "attendant-export"

Value = str  # the name of a tensor in a graph
Shape = Sequence[int | str]
ABSENT: Value = ""  # an optional input that is not given


class GraphBuilder:
    """Nodes in the order they are added, weights kept in a file shared with other graphs."""

    def __init__(self, name: str, weights: WeightsFile) -> None:
        self.name = name
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._loaded: dict[str, Value] = {}

    def input(self, name: str, dtype: str, shape: Shape) -> Value:
        """Declare an input of a NumPy type."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: str, shape: Shape) -> Value:
        """Declare an output; a node must be given this name."""
        self._outputs.append(_value_info(name, dtype, shape))
        return name

    def node(
        self,
        op: str,
        *inputs: Value,
        output: Value | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Add a node with one output."""
        return self.nodes(op, inputs, [output or self._fresh(op)], domain=domain, **attributes)[0]

    def nodes(
        self,
        op: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Sequence[Value]:
        """Add a node with named outputs."""
        name = f"{op}_{len(self._nodes)}"
        made = helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        self._nodes.append(made)
        return outputs

    def split(self, value: Value, parts: int, *, axis: int) -> Sequence[Value]:
        """Cut a tensor into equal parts."""
        outputs = [self._fresh("Split") + f".{part}" for part in range(parts)]
        return self.nodes("Split", [value], outputs, axis=axis, num_outputs=parts)

    def constant(self, value: Array | int | float | Sequence[int], dtype: str = "") -> Value:
        """A small constant, kept in the graph; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype or None)
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{array.tobytes().hex()}"
        self._initializers.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, array: Array) -> Value:
        """A tensor of the weights file, as stored, or cast back where it is stored as float16."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name, array)
        return self._loaded[name]

    def save(self, path: Path) -> None:
        """Write the graph; its weights are in their file already."""
        initializers = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=10, producer_name=PRODUCER
        )
        path.write_bytes(model.SerializeToString())

    def _load(self, name: str, array: Array) -> Value:
        # Vectors (norms, biases, scales) are small: rounding them would save nothing.
        halved = self.weights.half and array.dtype == np.float32 and array.ndim > 1
        stored = array.astype(np.float16) if halved else array
        self._initializers[name] = self._external(name, stored)
        if not halved:
            return name
        # Constant folding does this once, when the session opens.
        return self.node("Cast", name, output=f"{name}.float32", to=TensorProto.FLOAT)

    def _external(self, name: str, array: Array) -> onnx.TensorProto:
        location = self.weights.add(name, array)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=dtype, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        fields = {"location": WEIGHTS_FILE, "offset": location.offset, "length": location.length}
        for key, value in fields.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def _fresh(self, op: str) -> Value:
        return f"{op}_{len(self._nodes)}.output"


def _value_info(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )
