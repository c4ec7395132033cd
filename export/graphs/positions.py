"""What an embedding is told of its place: sinusoids of two kinds, or a learned table.

Sinusoids are no weights: they are computed once, when a session opens.
Letters: R rows, T length, d_model.
"""

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from export.graphs.builder import GraphBuilder, Value
from export.graphs.layers import Blocks
from export.seq2seq import Seq2SeqConfig, tensor2tensor_frequencies


@dataclass(frozen=True, slots=True)
class Positions:
    """Adds the positions of one side, "encoder" or "decoder", to its graph."""

    config: Seq2SeqConfig
    side: str

    def places(self, graph: GraphBuilder, ids: Value, counted: Value) -> Value:
        """Places of source tokens, (B, S) or (S): `counted` ones (S), or those of real tokens."""
        if not self._skips_padding:
            return counted
        real = graph.node("Cast", self._real(graph, ids), to=TensorProto.INT64)  # (B, S)
        tokens = graph.node("CumSum", real, graph.constant(1, "int64"))
        places = graph.node("Sub", tokens, graph.constant(1, "int64"))
        return graph.node("Max", places, graph.constant(0, "int64"))

    def of(self, blocks: Blocks, ids: Value, places: Value) -> Value:
        """Tokens (R, T) at places (R, T) or (T) -> what is added to them."""
        graph = blocks.graph
        positions = graph.node("Gather", self._table(blocks), places, axis=0)
        if not self._skips_padding:
            return positions
        real = _cast(blocks, self._real(graph, ids))  # (R, T)
        column = graph.node("Unsqueeze", real, graph.constant([2], "int64"))
        return graph.node("Mul", positions, column)

    def _table(self, blocks: Blocks) -> Value:
        """A row (d_model,) for every place."""
        match self.config.positions:
            case "learned":
                table = blocks.weight(f"{self.side}_positions.weight")
                first = blocks.integers(self.config.position_offset)
                last = blocks.integers(self.config.position_offset + self.config.max_positions)
                return blocks.graph.node("Slice", table, first, last, blocks.integers(0))
            case "tensor2tensor":
                return _cast(blocks, self._tensor2tensor(blocks.graph))
        return _cast(blocks, self._sinusoids(blocks.graph))

    def _sinusoids(self, graph: GraphBuilder) -> Value:
        """In float64, as the PyTorch model does, and with cosines as shifted sines."""
        size = self.config.d_model
        frequencies = 10_000.0 ** -(np.arange(0, size, 2) / size)
        bounds = (graph.constant(float(bound)) for bound in (0, self.config.max_positions, 1))
        places = graph.node("Unsqueeze", graph.node("Range", *bounds), graph.constant([1], "int64"))
        angles = graph.node("Mul", places, graph.constant(frequencies))
        shifted = graph.node("Add", angles, graph.constant(math.pi / 2))
        return graph.node("Sin", graph.node("Concat", angles, shifted, axis=1))

    def _tensor2tensor(self, graph: GraphBuilder) -> Value:
        """In float32: M2M100 was trained with what that rounds large angles to."""
        frequencies = tensor2tensor_frequencies(self.config.d_model).numpy()
        first = self.config.position_offset
        ends = (first, first + self.config.max_positions, 1)
        bounds = (graph.constant(float(bound), "float32") for bound in ends)
        places = graph.node("Unsqueeze", graph.node("Range", *bounds), graph.constant([1], "int64"))
        angles = graph.node("Mul", places, graph.constant(frequencies))
        return graph.node("Concat", graph.node("Sin", angles), graph.node("Cos", angles), axis=1)

    @property
    def _skips_padding(self) -> bool:
        """Whether a padding token, which a decoder may generate, has no position (M2M100)."""
        return self.config.positions == "tensor2tensor"

    def _real(self, graph: GraphBuilder, ids: Value) -> Value:
        padding = graph.node("Equal", ids, graph.constant(self.config.pad_token_id, "int64"))
        return graph.node("Not", padding)


def _cast(blocks: Blocks, values: Value) -> Value:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(blocks.products.float_type))
    return blocks.graph.node("Cast", values, to=kind)
