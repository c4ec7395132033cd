"""Products in float16, for GPUs: weights, states and caches; logits are handed out as float32.

Norms take and return float16 and compute in float32 inside the operator. A CPU runs these graphs
too, with casts around what it has no float16 kernel for.
Letters: R rows (any leading shape), I inputs, O outputs, V vocabulary.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from export.graphs.builder import GraphBuilder, Value
from export.graphs.products import Linear, Table
from export.quantization import Floats


class HalfProducts:
    """Everything in float16."""

    cache_scales: Mapping[str, Floats] = MappingProxyType({})
    float_type = "float16"

    def linear(self, graph: GraphBuilder, states: Value, layer: Linear) -> Value:
        """(R, I) -> (R, O)."""
        weight = _half(graph, f"{layer.name}.weight", layer.weight)
        bias = _half(graph, f"{layer.name}.bias", layer.bias)
        return graph.node("Add", graph.node("MatMul", states, weight), bias)

    def embed(self, graph: GraphBuilder, ids: Value, table: Table, scale: float) -> Value:
        """Token ids (R) -> rows of the table times `scale`, (R, I)."""
        weight = _half(graph, f"{table.name}.weight", table.weight)
        rows = graph.node("Gather", weight, ids, axis=0)
        return graph.node("Mul", rows, graph.constant(scale, "float16"))

    def logits(
        self, graph: GraphBuilder, states: Value, table: Table, bias: Floats, output: Value
    ) -> Value:
        """states (R, I) @ table^T + bias -> (R, V), float32."""
        weight = _half(graph, f"{table.name}.weight", table.weight)
        stored_bias = _half(graph, "final_logits_bias", bias)
        product = graph.node("Gemm", states, weight, stored_bias, transB=1)
        return graph.node("Cast", product, output=output, to=TensorProto.FLOAT)


def _half(graph: GraphBuilder, name: str, values: Floats) -> Value:
    """A float16 weight; a number beyond its range becomes its largest, never infinity."""
    largest = float(np.finfo(np.float16).max)
    return graph.weight(name, np.clip(values, -largest, largest).astype(np.float16))
