"""Runs a bundle's encoder and decoder on ONNX Runtime. Knows tensors, not search or text.

`Graphs` are the sessions, shared by all workers of a model; a `Runner` is one worker's caches. A
row's caches never move while it runs, so tensors are bound by address: a step over R rows binds the
first R rows of every cache, and nothing is copied in or out.
Letters: R rows, B batch, S source capacity, T target capacity, H heads, D head size, L layers,
V vocabulary.
"""

import math
import mmap
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.bundle import Bundle, GraphName, TranslationCard, expected_tensors
from service.runtime import Device, check_tensors, open_session
from service.translation.rows import RowTable
from service.translation.selection import Floats, Ints
from service.translation.sequence import Sequence

# Sources are padded to a multiple of this and encoded with others of that padded length: little
# padding, and few encoder runs. The padding changes no bit of a row (tests hold that).
SOURCE_BUCKET = 8

SELECTION_GRAPH = Path(__file__).parent / "selection.onnx"
SELECTION_ELEMENTS = 1 << 19  # logits a run of the selection; measured, 2 MiB of them
BLOCK_WIDTHS = range(16, 513)
BEST_BLOCK_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Graphs:
    """The sessions of one bundle in one precision. `run` may be called from several threads."""

    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    selection: "Selection"
    card: TranslationCard

    @classmethod
    def open(cls, bundle: Bundle, precision: str, device: Device) -> "Graphs":
        """Open both graphs and check their tensors. Raises BundleError."""

        def session(graph: GraphName) -> onnxruntime.InferenceSession:
            # One thread: a call computes on its caller's thread, and any number may call at once.
            path = bundle.path(precision, graph)
            opened = open_session(path, device=device, threads=1)
            tensors = expected_tensors(bundle.card, graph, precision=precision)
            check_tensors(opened, inputs=tensors.inputs, outputs=tensors.outputs, graph=str(path))
            return opened

        card = bundle.translation
        selection = Selection(card.architecture.vocab_size, device)
        return cls(session("encoder"), session("decoder"), selection, card)


class Selection:
    """The graph that chooses tokens from logits; `export.graphs.selection` says how."""

    def __init__(self, vocab_size: int, device: Device) -> None:
        self._session = open_session(SELECTION_GRAPH, device=device, threads=1)
        self._shape = np.array([0, -1, _block_width(vocab_size)], np.int64)
        # As many rows a run as leave what lies between its operators in a core's cache.
        self._rows_a_run = max(1, SELECTION_ELEMENTS // vocab_size)

    def best_tokens(self, logits: Floats, count: int) -> tuple[Floats, Ints]:
        """Logits (R, V) -> the largest log-probabilities, best first, and tokens (R, count)."""
        values = np.empty((len(logits), count), np.float32)
        tokens = np.empty((len(logits), count), np.int64)
        feeds = {"count": np.array([count], np.int64), "blocks": self._shape}
        for start in range(0, len(logits), self._rows_a_run):
            rows = slice(start, start + self._rows_a_run)
            found = self._session.run(None, {"logits": logits[rows], **feeds})
            values[rows], tokens[rows] = found
        return values, tokens


class Runner:
    """The rows of one decode worker: their table, their caches, and the two graphs over them."""

    def __init__(self, graphs: Graphs, max_rows: int) -> None:
        card = graphs.card
        sizes = card.architecture
        self._graphs = graphs
        self._max_source_tokens = card.limits.max_source_tokens
        self.table = RowTable(max_rows, card.limits.max_target_tokens)
        heads = (sizes.num_heads, sizes.head_size)
        num_caches = 2 * sizes.decoder_layers  # a key and a value for each layer
        # Zeros cost memory only where they are overwritten: (2L, R, H, T, D) and (2L, R, H, S, D).
        self._self_cache = _cache(num_caches, max_rows, card.limits.max_target_tokens, *heads)
        self._cross_cache = _cache(num_caches, max_rows, self._max_source_tokens, *heads)
        self._last_source_positions = np.zeros(max_rows, np.int32)  # (R,)
        self._logits = np.zeros((max_rows, sizes.vocab_size), np.float32)  # (R, V)
        self._target_capacity = np.array(card.limits.max_target_tokens, np.int32)
        self._source_capacity = np.array(self._max_source_tokens, np.int32)
        self._bindings: dict[int, Any] = {}

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences that have their rows, into those rows. Returns the padding encoded."""
        by_length = sorted(sequences, key=lambda sequence: len(sequence.source_ids))
        padding = 0
        for padded, group in groupby(by_length, key=self._padded_length):
            members = list(group)
            self._encode(members, padded)
            padding += padded * len(members) - sum(len(one.source_ids) for one in members)
        return padding

    def step(self) -> Floats:
        """One decode step over all running rows: their logits (R, V), valid until the next."""
        num_rows = self.table.num_rows
        binding = self._bindings.get(num_rows)
        if binding is None:
            binding = self._bindings[num_rows] = self._bind(num_rows)
        self._graphs.decoder.run_with_iobinding(binding)
        return self._logits[:num_rows]

    def best_tokens(self, rows: Ints, count: int) -> tuple[Floats, Ints]:
        """The `count` largest log-probabilities of each of these rows, best first, and their
        tokens, by the logits as they are now: twice (len(rows), count).
        """
        if 2 * len(rows) < self.table.num_rows:
            return self._graphs.selection.best_tokens(self._logits[rows], count)
        values, tokens = self._graphs.selection.best_tokens(
            self._logits[: self.table.num_rows], count
        )
        return values[rows], tokens[rows]

    def copy_rows(self, sources: Ints, targets: Ints, lengths: Ints) -> None:
        """Let each target have seen the first `length` target tokens of its source."""
        for row in zip(sources.tolist(), targets.tolist(), lengths.tolist(), strict=True):
            self._copy_row(*row)

    def move_row(self, source: int, target: int) -> None:
        """Everything kept for `source` is kept for `target` from now on."""
        self._copy_row(source, target, int(self.table.lengths[source]))
        last = self._last_source_positions[source]
        self._last_source_positions[target] = last
        self._cross_cache[:, target, :, : last + 1] = self._cross_cache[:, source, :, : last + 1]

    def _copy_row(self, source: int, target: int, length: int) -> None:
        self._self_cache[:, target, :, :length] = self._self_cache[:, source, :, :length]

    def _padded_length(self, sequence: Sequence) -> int:
        buckets = -(-len(sequence.source_ids) // SOURCE_BUCKET)
        return min(buckets * SOURCE_BUCKET, self._max_source_tokens)

    def _encode(self, sequences: SequenceOf[Sequence], padded: int) -> None:
        """Encode sequences of one padded length and keep their keys and values in their rows."""
        input_ids = np.zeros((len(sequences), padded), np.int64)  # (B, S)
        attention_mask = np.zeros((len(sequences), padded), np.int64)  # (B, S)
        for index, sequence in enumerate(sequences):
            input_ids[index, : len(sequence.source_ids)] = sequence.source_ids
            attention_mask[index, : len(sequence.source_ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        caches = self._graphs.encoder.run(self._cross_names, feeds)  # 2L times (B, H, S, D)
        for index, sequence in enumerate(sequences):
            length = len(sequence.source_ids)
            self._last_source_positions[sequence.rows] = length - 1
            for layer, cache in enumerate(caches):
                self._cross_cache[layer][sequence.rows, :, :length] = cache[index, :, :length]

    @cached_property
    def _cross_names(self) -> list[str]:
        return _cache_names("present", "encoder", self._graphs.card)

    def _bind(self, num_rows: int) -> Any:
        """The addresses of all that a step over the first `num_rows` rows reads and writes."""
        binding = self._graphs.decoder.io_binding()
        card = self._graphs.card
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": self.table.tokens[:num_rows],
            "seqlens_k": self.table.lengths[:num_rows],
            "encoder_seqlens_k": self._last_source_positions[:num_rows],
            "total_sequence_length": self._target_capacity,
            "encoder_total_sequence_length": self._source_capacity,
        }
        outputs: dict[str, NDArray[Any]] = {"logits": self._logits[:num_rows]}
        self_caches = [cache[:num_rows] for cache in self._self_cache]
        cross_caches = [cache[:num_rows] for cache in self._cross_cache]
        inputs |= zip(_cache_names("past_key_values", "decoder", card), self_caches, strict=True)
        inputs |= zip(_cache_names("past_key_values", "encoder", card), cross_caches, strict=True)
        # The same address in and out: GroupQueryAttention appends in place.
        outputs |= zip(_cache_names("present", "decoder", card), self_caches, strict=True)
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def open_runners(
    bundle: Bundle, precision: str, device: Device, *, count: int, max_rows: int
) -> list[Runner]:
    """So many runners over one pair of sessions. Raises BundleError."""
    graphs = Graphs.open(bundle, precision, device)
    return [Runner(graphs, max_rows) for _ in range(count)]


def _cache(layers: int, rows: int, length: int, heads: int, size: int) -> NDArray[np.float32]:
    """Zeros (L, R, H, length, D) whose pages cost memory only where they are written.

    NumPy asks for huge pages for its own arrays: a row that is a tenth full would then take all its
    memory (measured: 98 MiB instead of 17 for 64 rows of 20 tokens).
    """
    shape = (layers, rows, heads, length, size)
    pages = mmap.mmap(-1, math.prod(shape) * np.dtype(np.float32).itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32).reshape(shape)


def _block_width(vocab_size: int) -> int:
    """The width of the blocks that the selection looks for maxima in: it has to divide V.

    A vocabulary that has no such divisor is one block: right, and slower.
    """
    fitting = [width for width in BLOCK_WIDTHS if vocab_size % width == 0]
    return min(fitting, key=lambda width: abs(width - BEST_BLOCK_WIDTH), default=vocab_size)


def _cache_names(prefix: str, side: str, card: TranslationCard) -> list[str]:
    """Key and value of layer 0, of layer 1, ...: the order of the first axis of a cache."""
    layers = range(card.architecture.decoder_layers)
    return [f"{prefix}.{layer}.{side}.{part}" for layer in layers for part in ("key", "value")]
