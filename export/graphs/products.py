"""How a weight matrix is multiplied: in float32, or in int8 with one of three activation scales.

An answer must not depend on its neighbours in a batch. So an int8 scale is either a constant from
calibration (`CalibratedProducts`) or the row's own (`RowProducts`); `DynamicProducts`, with one
scale for the whole tensor, lets rows disturb each other and exists to show that tests notice.
Letters: R rows (any leading shape), I inputs, O outputs, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from onnx import TensorProto

from export.graphs.builder import ABSENT, MICROSOFT, GraphBuilder, Value
from export.quantization import (
    INT8_MAX,
    UNSIGNED_ZERO,
    Calibration,
    Floats,
    cache_scale,
    quantize_columns,
    scale_of,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W + b, with W (I, O), b (O,). `source` names the tensor it reads, for calibration."""

    name: str
    source: str
    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding (V, I), used for looking tokens up and, transposed, for the logits."""

    name: str
    source: str
    weight: Floats


class Products(Protocol):
    """Adds products with weights to a graph."""

    @property
    def cache_scales(self) -> Mapping[str, Floats]:
        """The steps (d_model,) of int8 caches, by key or value projection; none: float caches."""

    @property
    def float_type(self) -> str:
        """What states between products are, as NumPy names it; caches too, unless they are int8."""

    def linear(self, graph: GraphBuilder, states: Value, layer: Linear) -> Value:
        """(R, I) -> (R, O)."""

    def embed(self, graph: GraphBuilder, ids: Value, table: Table, scale: float) -> Value:
        """Token ids (R) -> rows of the table times `scale`, (R, I)."""

    def logits(
        self, graph: GraphBuilder, states: Value, table: Table, bias: Floats, output: Value
    ) -> Value:
        """states (R, I) @ table^T + bias -> (R, V)."""


class FloatProducts:
    """Everything in float32."""

    cache_scales: Mapping[str, Floats] = MappingProxyType({})
    float_type = "float32"

    def linear(self, graph: GraphBuilder, states: Value, layer: Linear) -> Value:
        """(R, I) -> (R, O)."""
        weight = graph.weight(f"{layer.name}.weight", layer.weight)
        bias = graph.weight(f"{layer.name}.bias", layer.bias)
        return graph.node("Add", graph.node("MatMul", states, weight), bias)

    def embed(self, graph: GraphBuilder, ids: Value, table: Table, scale: float) -> Value:
        """Token ids (R) -> rows of the table times `scale`, (R, I)."""
        rows = graph.node("Gather", graph.weight(f"{table.name}.weight", table.weight), ids, axis=0)
        return graph.node("Mul", rows, graph.constant(scale, "float32"))

    def logits(
        self, graph: GraphBuilder, states: Value, table: Table, bias: Floats, output: Value
    ) -> Value:
        """states (R, I) @ table^T + bias -> (R, V)."""
        weight = graph.weight(f"{table.name}.weight", table.weight)
        stored_bias = graph.weight("final_logits_bias", bias)
        return graph.node("Gemm", states, weight, stored_bias, output=output, transB=1)


class _Int8Products(ABC):
    """Weights int8, symmetric, with a scale of its own for every output; subclasses differ in how
    they quantise what is multiplied."""

    cache_scales: Mapping[str, Floats] = MappingProxyType({})
    float_type = "float32"

    def linear(self, graph: GraphBuilder, states: Value, layer: Linear) -> Value:
        """(R, I) -> (R, O)."""
        weight, scale = quantize_columns(layer.weight)
        return self._product(
            graph,
            states,
            layer.source,
            graph.weight(f"{layer.name}.weight", weight),
            graph.weight(f"{layer.name}.weight_scale", scale),
            graph.weight(f"{layer.name}.bias", layer.bias),
        )

    def embed(self, graph: GraphBuilder, ids: Value, table: Table, scale: float) -> Value:
        """Token ids (R) -> rows of the table times `scale`, (R, I)."""
        weight, scales = self._table(graph, table)
        rows = graph.node("Cast", graph.node("Gather", weight, ids, axis=0), to=TensorProto.FLOAT)
        # The factor is folded into the constant scales when the session opens.
        scaled = graph.node("Mul", scales, graph.constant(scale, "float32"))
        column = graph.node("Unsqueeze", scaled, graph.constant([1], "int64"))  # (V, 1)
        return graph.node("Mul", rows, graph.node("Gather", column, ids, axis=0))

    def logits(
        self, graph: GraphBuilder, states: Value, table: Table, bias: Floats, output: Value
    ) -> Value:
        """states (R, I) @ table^T + bias -> (R, V)."""
        weight, scale = self._table(graph, table)
        columns = graph.node("Transpose", weight, perm=[1, 0])  # (V, I) -> (I, V), folded
        stored_bias = graph.weight("final_logits_bias", bias)
        return self._product(graph, states, table.source, columns, scale, stored_bias, output)

    def _table(self, graph: GraphBuilder, table: Table) -> tuple[Value, Value]:
        weight, scale = quantize_columns(table.weight.T)  # a scale a token
        return (
            graph.weight(f"{table.name}.weight", weight.T),
            graph.weight(f"{table.name}.weight_scale", scale),
        )

    @abstractmethod
    def _product(
        self,
        graph: GraphBuilder,
        states: Value,
        source: str,
        weight: Value,
        weight_scale: Value,
        bias: Value,
        output: Value | None = None,
    ) -> Value:
        """states (R, I) times an int8 weight (I, O) and its scales (O,), plus the bias (O,)."""


class CalibratedProducts(_Int8Products):
    """A constant scale for every tensor, from calibration; values out of range are clipped."""

    def __init__(self, calibration: Calibration) -> None:
        self._ranges = calibration.activations
        self.cache_scales = {
            name: cache_scale(largest) for name, largest in calibration.caches.items()
        }
        self._quantized: dict[tuple[GraphBuilder, Value], tuple[Value, Value, Value]] = {}

    def _product(
        self,
        graph: GraphBuilder,
        states: Value,
        source: str,
        weight: Value,
        weight_scale: Value,
        bias: Value,
        output: Value | None = None,
    ) -> Value:
        quantized, scale, zero = self._quantize(graph, states, source)
        inputs = (quantized, weight, scale, weight_scale, zero, ABSENT, bias)
        return graph.node("MatMulIntegerToFloat", *inputs, output=output, domain=MICROSOFT)

    def _quantize(
        self, graph: GraphBuilder, states: Value, source: str
    ) -> tuple[Value, Value, Value]:
        # What several products read is quantised once.
        if (graph, states) not in self._quantized:
            scale, zero = scale_of(self._ranges[source])
            stored_scale = graph.constant(scale, "float32")
            stored_zero = graph.constant(zero, "uint8")
            quantized = graph.node("QuantizeLinear", states, stored_scale, stored_zero)
            self._quantized[graph, states] = (quantized, stored_scale, stored_zero)
        return self._quantized[graph, states]


class RowProducts(_Int8Products):
    """Every row is divided by its largest absolute value: exact isolation without calibration."""

    def _product(
        self,
        graph: GraphBuilder,
        states: Value,
        source: str,
        weight: Value,
        weight_scale: Value,
        bias: Value,
        output: Value | None = None,
    ) -> Value:
        scale = graph.constant(1 / INT8_MAX, "float32")
        zero = graph.constant(UNSIGNED_ZERO, "uint8")
        largest = graph.node(
            "ReduceMax", graph.node("Abs", states), graph.constant([-1], "int64"), keepdims=1
        )
        largest = graph.node("Max", largest, graph.constant(1e-12, "float32"))  # (R, 1)
        normalised = graph.node("Div", states, largest)
        quantized = graph.node("QuantizeLinear", normalised, scale, zero)
        inputs = (quantized, weight, scale, weight_scale, zero)
        product = graph.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
        return graph.node("Add", graph.node("Mul", product, largest), bias, output=output)


class DynamicProducts(_Int8Products):
    """One scale for the whole tensor, found anew at every run. LEAKS between rows: for tests."""

    def _product(
        self,
        graph: GraphBuilder,
        states: Value,
        source: str,
        weight: Value,
        weight_scale: Value,
        bias: Value,
        output: Value | None = None,
    ) -> Value:
        names = [f"{states}.{source}.{part}" for part in ("quantized", "scale", "zero")]
        quantized, scale, zero = graph.nodes("DynamicQuantizeLinear", [states], names)
        inputs = (quantized, weight, scale, weight_scale, zero, ABSENT, bias)
        return graph.node("MatMulIntegerToFloat", *inputs, output=output, domain=MICROSOFT)
