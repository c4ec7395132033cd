"""The graph of a Vision Transformer: pictures in, calibrated logits out.

Attention is MultiHeadAttention: without a mask its bits do not depend on the batch, and unlike
GroupQueryAttention it also runs in float32 on a GPU. The last layer computes the tokens that the
head reads and no others.
Letters: B batch, N patches, P tokens in front of them, T tokens that the head reads, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from export.graphs.builder import MICROSOFT, GraphBuilder, Value
from export.graphs.layers import Blocks, State, linear
from export.graphs.products import FloatProducts, Products
from export.graphs.weights_file import WeightsFile
from export.vit import ViTConfig


@dataclass(frozen=True, slots=True)
class VisionGraph:
    """Builds the classifier from a model's state."""

    config: ViTConfig
    state: State
    products: Products
    weights: WeightsFile

    def classifier(self) -> GraphBuilder:
        """pixel_values (B, 3, height, width) -> logits (B, labels), divided by the temperature."""
        graph = GraphBuilder("classifier", self.weights)
        blocks = Blocks(graph, self.products, self.state, self.config.layer)
        side = self.config.image_size
        pixels = graph.input("pixel_values", "float32", ["B", 3, side, side])
        patches = self._cast(graph, self._stem(graph, pixels), self.products.float_type)
        states = self._embed(blocks, patches)  # (B, P + N, d_model)
        for index in range(self.config.layers):
            is_last = index == self.config.layers - 1
            layer = self._last_layer if is_last and self.config.tokens_read else self._layer
            states = layer(blocks, states, f"layers.{index}")
        self._head(blocks, states)
        return graph

    def _stem(self, graph: GraphBuilder, pixels: Value) -> Value:
        """(B, 3, height, width) -> (B, d_model, rows of patches, columns of patches), float32."""
        if self.config.stem == "patches":
            weight = self._weight(graph, "stem.projection.weight")
            bias = self._weight(graph, "stem.projection.bias")
            return graph.node("Conv", pixels, weight, bias, strides=[self.config.patch_size] * 2)
        states = self._max_pool(graph, self._stem_convolution(graph, pixels, 1))
        states = self._stem_convolution(graph, states, 2)
        return self._max_pool(graph, self._stem_convolution(graph, states, 3))

    def _stem_convolution(self, graph: GraphBuilder, states: Value, index: int) -> Value:
        """Convolution, batch normalisation (one with it once a session is open), ReLU."""
        weight = self._weight(graph, f"stem.conv{index}.weight")
        convolved = graph.node("Conv", states, weight, pads=[1, 1, 1, 1])
        parts = ("weight", "bias", "running_mean", "running_var")
        statistics = [self._weight(graph, f"stem.norm{index}.{part}") for part in parts]
        normalised = graph.node("BatchNormalization", convolved, *statistics, epsilon=1e-5)
        return graph.node("Relu", normalised)

    def _max_pool(self, graph: GraphBuilder, states: Value) -> Value:
        return graph.node("MaxPool", states, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def _embed(self, blocks: Blocks, patches: Value) -> Value:
        graph = blocks.graph
        sizes = blocks.integers(0, self.config.d_model, -1)
        patches = graph.node("Transpose", graph.node("Reshape", patches, sizes), perm=[0, 2, 1])
        batch = graph.node("Shape", patches, start=0, end=1)
        shape = graph.node("Concat", batch, blocks.integers(1, 1), axis=0)
        prefix = [
            graph.node("Expand", blocks.weight(name), shape) for name in self.config.prefix
        ]  # (B, 1, d_model) each
        states = graph.node("Concat", *prefix, patches, axis=1)
        return graph.node("Add", states, blocks.weight("position_embedding"))

    def _layer(self, blocks: Blocks, states: Value, name: str) -> Value:
        def attend(states: Value) -> Value:
            packed = blocks.qkv(states, f"{name}.self_attn")  # (B, P + N, 3 * d_model)
            return self._attention(blocks, blocks.graph.split(packed, 3, axis=2), name)

        states = blocks.residual(states, f"{name}.self_attn_residual", attend)
        return self._feed_forward(blocks, states, name)

    def _last_layer(self, blocks: Blocks, states: Value, name: str) -> Value:
        """Only what the head reads asks. (B, P + N, d_model) -> (B, T, d_model)."""
        attention = f"{name}.self_attn"
        epsilon = self.config.norm_epsilon
        normalised = blocks.norm(states, f"{name}.self_attn_residual.layer_norm", epsilon)
        asking = self._tokens(blocks, normalised, 0, self.config.tokens_read)
        query = blocks.linear(asking, f"{attention}.q_proj")
        packed = blocks.linear(normalised, f"{attention}.k_proj", f"{attention}.v_proj")
        key_value = blocks.graph.split(packed, 2, axis=2)
        context = self._attention(blocks, (query, *key_value), name)
        read = self._tokens(blocks, states, 0, self.config.tokens_read)
        return self._feed_forward(blocks, blocks.graph.node("Add", read, context), name)

    def _attention(self, blocks: Blocks, qkv: Sequence[Value], name: str) -> Value:
        heads = self.config.num_heads
        context = blocks.graph.node("MultiHeadAttention", *qkv, domain=MICROSOFT, num_heads=heads)
        return blocks.linear(context, f"{name}.self_attn.out_proj")

    def _feed_forward(self, blocks: Blocks, states: Value, name: str) -> Value:
        return blocks.residual(
            states,
            f"{name}.feed_forward_residual",
            lambda x: blocks.feed_forward(x, f"{name}.feed_forward"),
        )

    def _tokens(self, blocks: Blocks, states: Value, first: int, end: int | None) -> Value:
        """Some tokens, to the last one without an end. (B, P + N, d_model) -> (B, T, d_model)."""
        bounds = (first, np.iinfo(np.int64).max if end is None else end, 1)
        return blocks.graph.node("Slice", states, *map(blocks.integers, bounds))

    def _head(self, blocks: Blocks, states: Value) -> None:
        """float32 in every precision: it is small, and decides."""
        graph = blocks.graph
        states = self._cast(graph, blocks.norm(states, "norm", self.config.norm_epsilon), "float32")
        pooled = self._pool(blocks, states)
        head = FloatProducts().linear(graph, pooled, linear(self.state, "head"))
        logits = graph.output("logits", "float32", ["B", self.config.num_labels])
        graph.node("Div", head, self._weight(graph, "temperature"), output=logits)

    def _pool(self, blocks: Blocks, states: Value) -> Value:
        """What the head reads side by side. (B, T, d_model) -> (B, d_model or 2 * d_model)."""
        graph = blocks.graph
        if self.config.head == "class_token_and_patch_mean":
            patches = self._tokens(blocks, states, len(self.config.prefix), None)
            # Not ReduceMean: the bits of its sums depend on the size of the batch.
            share = graph.constant(1 / self.config.num_patches, "float32")
            shares = graph.node("Expand", share, blocks.integers(1, self.config.num_patches))
            mean = graph.node("MatMul", shares, patches)  # (B, 1, d_model)
            token = self._tokens(blocks, states, 0, 1)
            states = graph.node("Concat", token, mean, axis=1)  # (B, 2, d_model)
        return graph.node("Flatten", states, axis=1)

    def _cast(self, graph: GraphBuilder, states: Value, kind: str) -> Value:
        """float16 states alone come and go by a cast."""
        if self.products.float_type == "float32":
            return states
        return graph.node("Cast", states, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def _weight(self, graph: GraphBuilder, name: str) -> Value:
        return graph.weight(name, self.state[name])
