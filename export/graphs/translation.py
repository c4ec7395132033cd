"""The graphs of a translation model: the encoder, and one step of the decoder.

Self-attention and cross-attention are GroupQueryAttention (as many key heads as query heads): every
row has a length of its own, a row's bits do not depend on the padded length, on the batch size or
on its neighbours, and the decoder's cache grows in place when past and present are bound to the
same buffer. `service.bundle.expected_tensors` is the contract of names and shapes.
Letters: B batch, R rows, S source length, T target capacity, H heads, D head size, V vocabulary.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from export.graphs.builder import ABSENT, MICROSOFT, GraphBuilder, Shape, Value
from export.graphs.layers import Blocks, State, linear
from export.graphs.positions import Positions
from export.graphs.products import Products, Table
from export.graphs.weights_file import WeightsFile
from export.quantization import LOGITS_SOURCE, Floats
from export.seq2seq import Seq2SeqConfig

SCALES_PLACE = 12  # of the caches' scales among the inputs of GroupQueryAttention


@dataclass(frozen=True, slots=True)
class TranslationGraphs:
    """Builds both graphs from one model's state."""

    config: Seq2SeqConfig
    state: State
    final_logits_bias: Floats
    products: Products
    weights: WeightsFile

    def encoder(self) -> GraphBuilder:
        """Source ids (B, S) -> keys and values (B, H, S, D) of every cross-attention."""
        graph = GraphBuilder("encoder", self.weights)
        blocks = self._blocks(graph)
        ids = graph.input("input_ids", "int64", ["B", "S"])
        mask = graph.input("attention_mask", "int64", ["B", "S"])
        places, lengths = self._places_and_lengths(blocks, ids, mask)
        places = Positions(self.config, "encoder").places(graph, ids, places)
        states = self._embed(blocks, ids, places, "encoder")  # (B, S, d_model)
        for index in range(self.config.encoder_layers):
            states = self._encoder_layer(blocks, states, f"encoder_layers.{index}", lengths)
        if self.config.norm == "pre":
            states = blocks.norm(states, "encoder_norm")
        self._cross_caches(blocks, states)
        return graph

    def decoder(self) -> GraphBuilder:
        """One token of every row -> logits (R, V), and self-attention caches grown in place."""
        graph = GraphBuilder("decoder", self.weights)
        blocks = self._blocks(graph)
        ids = graph.input("input_ids", "int64", ["R", 1])
        lengths = graph.input("seqlens_k", "int32", ["R"])
        encoder_lengths = graph.input("encoder_seqlens_k", "int32", ["R"])
        capacity = graph.input("total_sequence_length", "int32", [])
        encoder_capacity = graph.input("encoder_total_sequence_length", "int32", [])
        places = graph.node("Unsqueeze", lengths, blocks.integers(1))  # (R, 1)
        states = self._embed(blocks, ids, places, "decoder")  # (R, 1, d_model)
        # Cross-attention adds no keys: what it is given as new ones is empty, (R, 0, d_model).
        nothing = graph.node(
            "Slice", states, blocks.integers(0), blocks.integers(0), blocks.integers(1)
        )
        for index in range(self.config.decoder_layers):
            own = _Cache(self._past(graph, index, "decoder"), lengths, capacity)
            cross = _Cache(self._past(graph, index, "encoder"), encoder_lengths, encoder_capacity)
            states = self._decoder_layer(blocks, states, index, own, cross, nothing)
        if self.config.norm == "pre":
            states = blocks.norm(states, "decoder_norm")
        self._logits(blocks, states)
        return graph

    def _encoder_layer(
        self, blocks: Blocks, states: Value, name: str, lengths: tuple[Value, ...]
    ) -> Value:
        def attend(states: Value) -> Value:
            packed = blocks.qkv(states, f"{name}.self_attn")  # (B, S, 3 * d_model)
            context = self._attend_both_ways(blocks.graph, packed, lengths)
            return blocks.linear(context, f"{name}.self_attn.out_proj")

        states = blocks.residual(states, f"{name}.self_attn_residual", attend)
        return self._feed_forward(blocks, states, name)

    def _places_and_lengths(
        self, blocks: Blocks, ids: Value, mask: Value
    ) -> tuple[Value, tuple[Value, ...]]:
        """Places of the tokens, (S) or (B, S), and what attention is told of the lengths (B,).

        For a GPU no shape is computed, so that CUDA graphs can capture it all.
        """
        graph, one = blocks.graph, blocks.graph.constant(1, "int64")
        tokens = graph.node("ReduceSum", mask, blocks.integers(1), keepdims=0)  # (B,)
        if self._for_gpu:
            return graph.node("Sub", graph.node("CumSum", mask, one), one), (_int32(graph, tokens),)
        padded = graph.node("Squeeze", graph.node("Shape", ids, start=1, end=2))
        places = graph.node("Range", graph.constant(0, "int64"), padded, one)
        return places, (_int32(graph, graph.node("Sub", tokens, one)), _int32(graph, padded))

    def _attend_both_ways(
        self, graph: GraphBuilder, packed: Value, lengths: tuple[Value, ...]
    ) -> Value:
        """Attention of the encoder: queries, keys, values (B, S, 3 * d_model) -> (B, S, d_model).

        On a GPU GroupQueryAttention is made for decoders; MultiHeadAttention never looks only back,
        and takes the lengths as its mask.
        """
        if self._for_gpu:
            qkv = graph.split(packed, 3, axis=2)
            heads = self.config.encoder_layer.num_heads
            inputs = (*qkv, ABSENT, *lengths)
            return graph.node("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=heads)
        inputs = (packed, ABSENT, ABSENT, ABSENT, ABSENT, *lengths)
        return self._attention(graph, inputs, causal=False)

    def _decoder_layer(
        self,
        blocks: Blocks,
        states: Value,
        index: int,
        own: "_Cache",
        cross: "_Cache",
        nothing: Value,
    ) -> Value:
        name = f"decoder_layers.{index}"

        def attend(states: Value) -> Value:
            packed = blocks.qkv(states, f"{name}.self_attn")  # (R, 1, 3 * d_model)
            inputs = (packed, ABSENT, ABSENT, *own.inputs)
            scales = self._cache_scales(blocks.graph, f"{name}.self_attn")
            present = self._present(blocks, index, "decoder")
            context = self._attention(blocks.graph, inputs, present=present, scales=scales)
            return blocks.linear(context, f"{name}.self_attn.out_proj")

        def attend_to_source(states: Value) -> Value:
            query = blocks.linear(states, f"{name}.cross_attn.q_proj")  # (R, 1, d_model)
            inputs = (query, nothing, nothing, *cross.inputs)
            scales = self._cache_scales(blocks.graph, f"{name}.cross_attn")
            # These caches grow by nothing; int8 ones have to be returned all the same, and a GPU
            # takes them for what they are, shared, by their being returned.
            returned = scales or self._for_gpu
            present = self._present(blocks, index, "encoder") if returned else ()
            context = self._attention(blocks.graph, inputs, present=present, scales=scales)
            return blocks.linear(context, f"{name}.cross_attn.out_proj")

        states = blocks.residual(states, f"{name}.self_attn_residual", attend)
        states = blocks.residual(states, f"{name}.cross_attn_residual", attend_to_source)
        return self._feed_forward(blocks, states, name)

    def _feed_forward(self, blocks: Blocks, states: Value, name: str) -> Value:
        return blocks.residual(
            states,
            f"{name}.feed_forward_residual",
            lambda x: blocks.feed_forward(x, f"{name}.feed_forward"),
        )

    def _attention(
        self,
        graph: GraphBuilder,
        inputs: tuple[Value, ...],
        *,
        causal: bool = True,
        present: tuple[Value, ...] = (),
        scales: tuple[Value, ...] = (),
    ) -> Value:
        context = f"{present[0] if present else inputs[0]}.context"
        heads = self.config.num_heads if causal else self.config.encoder_layer.num_heads
        quantized: dict[str, str | int] = {}
        if scales:
            inputs = (*inputs, *[ABSENT] * (SCALES_PLACE - len(inputs)), *scales)
            quantized = {f"{part}_quant_type": "PER_CHANNEL" for part in "kv"}
            quantized["kv_cache_bit_width"] = 8
        graph.nodes(
            "GroupQueryAttention",
            inputs,
            [context, *present],
            domain=MICROSOFT,
            num_heads=heads,
            kv_num_heads=heads,
            causal=int(causal),
            **quantized,
        )
        return context

    def _cross_caches(self, blocks: Blocks, states: Value) -> None:
        """Keys and values of all decoder layers, L of them, from one product."""
        layers, graph = self.config.decoder_layers, blocks.graph
        packed = self._cacheable(blocks, states, cross_attention_names(layers))
        sizes = blocks.integers(0, 0, 2 * layers, self.config.num_heads, self._head_size)
        caches = graph.node("Reshape", packed, sizes)  # (B, S, 2 * L, H, D)
        caches = graph.node("Transpose", caches, perm=[2, 0, 3, 1, 4])  # (2 * L, B, H, S, D)
        for place in range(2 * layers):
            name = f"present.{place // 2}.encoder.{('key', 'value')[place % 2]}"
            graph.output(name, self._cache_type, ["B", self.config.num_heads, "S", self._head_size])
            graph.node("Gather", caches, graph.constant(place, "int64"), axis=0, output=name)

    def _cacheable(self, blocks: Blocks, states: Value, names: list[str]) -> Value:
        """The projections of these names side by side, in the type of the caches."""
        layer = linear(self.state, *names)
        if self._cache_type != "int8":
            return self.products.linear(blocks.graph, states, layer)
        # In steps of its own, so that all that is left to do is to round.
        step = np.concatenate([self.products.cache_scales[name] for name in names])
        layer = replace(layer, weight=layer.weight / step, bias=layer.bias / step)
        steps = self.products.linear(blocks.graph, states, layer)
        one, zero = blocks.graph.constant(1.0, "float32"), blocks.graph.constant(0, "int8")
        return blocks.graph.node("QuantizeLinear", steps, one, zero)

    def _cache_scales(self, graph: GraphBuilder, attention: str) -> tuple[Value, ...]:
        """What a key and a value of int8 caches are multiplied by; nothing for float ones."""
        if self._cache_type != "int8":
            return ()
        names = (f"{attention}.{part}_proj" for part in "kv")
        scales = self.products.cache_scales
        return tuple(graph.weight(f"{name}.cache_scale", scales[name]) for name in names)

    @property
    def _cache_type(self) -> str:
        return "int8" if self.products.cache_scales else self.products.float_type

    @property
    def _for_gpu(self) -> bool:
        return self.products.float_type == "float16"

    def _embed(self, blocks: Blocks, ids: Value, places: Value, side: str) -> Value:
        """Tokens (R, T) at places (R, T) or (T) -> (R, T, d_model)."""
        graph = blocks.graph
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        table = self._source_table if side == "encoder" else self._table
        tokens = self.products.embed(graph, ids, table, scale)
        positions = Positions(self.config, side).of(blocks, ids, places)
        states = graph.node("Add", tokens, positions)
        if not self.config.embedding_norm:
            return states
        return blocks.norm(states, f"{side}_embedding_norm")

    def _logits(self, blocks: Blocks, states: Value) -> None:
        graph = blocks.graph
        rows = graph.node("Squeeze", states, blocks.integers(1))  # (R, 1, d_model) -> (R, d_model)
        logits = graph.output("logits", "float32", ["R", self.config.vocab_size])
        self.products.logits(graph, rows, self._output_table, self.final_logits_bias, logits)

    def _past(self, graph: GraphBuilder, index: int, side: str) -> tuple[Value, Value]:
        length = "T" if side == "decoder" else "S"
        shape: Shape = ["R", self.config.num_heads, length, self._head_size]
        key, value = (f"past_key_values.{index}.{side}.{part}" for part in ("key", "value"))
        return graph.input(key, self._cache_type, shape), graph.input(
            value, self._cache_type, shape
        )

    def _present(self, blocks: Blocks, index: int, side: str) -> tuple[Value, ...]:
        length = "T" if side == "decoder" else "S"
        shape: Shape = ["R", self.config.num_heads, length, self._head_size]
        names = (f"present.{index}.{side}.{part}" for part in ("key", "value"))
        return tuple(blocks.graph.output(name, self._cache_type, shape) for name in names)

    def _blocks(self, graph: GraphBuilder) -> Blocks:
        return Blocks(graph, self.products, self.state, self.config.layer)

    @property
    def _table(self) -> Table:
        return Table("embedding", LOGITS_SOURCE, self.state["embedding.weight"])

    @property
    def _source_table(self) -> Table:
        if self.config.source_vocab_size is None:
            return self._table
        name = "source_embedding"
        return Table(name, name, self.state[f"{name}.weight"])

    @property
    def _output_table(self) -> Table:
        if self.config.tied_output:
            return self._table
        return Table("output_embedding", LOGITS_SOURCE, self.state["output_embedding.weight"])

    @property
    def _head_size(self) -> int:
        return self.config.d_model // self.config.num_heads


@dataclass(frozen=True, slots=True)
class _Cache:
    """What GroupQueryAttention is told about a cache."""

    past: tuple[Value, Value]
    lengths: Value
    capacity: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (*self.past, self.lengths, self.capacity)


def cross_attention_names(layers: int) -> list[str]:
    """The key and value projections of every decoder layer, in the order they are packed in."""
    return [
        f"decoder_layers.{layer}.cross_attn.{part}"
        for layer in range(layers)
        for part in ("k_proj", "v_proj")
    ]


def _int32(graph: GraphBuilder, value: Value) -> Value:
    return graph.node("Cast", value, to=TensorProto.INT32)
