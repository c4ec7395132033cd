"""Runs a bundle's encoder and decoder on ONNX Runtime. Knows tensors, not search or text.

`Graphs` are the sessions, shared by all workers of a model; a `Runner` is one worker's rows.
Tensors are bound by address: a step over R rows binds the first R rows of every cache, and nothing
is copied in or out.
Letters: R rows, B batch, S source length, H heads, D head size, L layers, V vocabulary.
"""

from collections import OrderedDict
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
from service.translation.caches import CAPACITY_STEP, CachePool, CacheSizes, round_up
from service.translation.rows import RowTable
from service.translation.selection import Floats, Ints
from service.translation.sequence import Sequence

# Sources are padded to a multiple of this and encoded with others of that padded length: little
# padding, and few encoder runs. The padding changes no bit of a row (tests hold that).
SOURCE_BUCKET = 8

DEFAULT_CACHE_BYTES = 1 << 30
SHRINK = 2  # caches this many times longer than needed are made shorter
MAX_BINDINGS = 1024  # a few kilobytes each

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
    precision: str

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
        return cls(session("encoder"), session("decoder"), selection, card, precision)


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

    def __init__(
        self, graphs: Graphs, max_rows: int, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        card = graphs.card
        self._graphs = graphs
        self._max_source_tokens = card.limits.max_source_tokens
        self.table = RowTable(max_rows, card.limits.max_target_tokens)
        sizes = CacheSizes.of(card, graphs.precision)
        self._caches = CachePool(sizes, max_rows=max_rows, max_bytes=cache_bytes)
        self._logits = np.zeros((max_rows, card.architecture.vocab_size), np.float32)  # (R, V)
        self._bindings: OrderedDict[tuple[int, int, int], Any] = OrderedDict()

    def room(self) -> "Room":
        """For the sequences that may join now."""
        return Room(self._caches, self.table, *self._needed())

    @property
    def num_rows_next(self) -> int:
        """How many rows the caches take in the next step, one token longer than now."""
        return self._caches.num_rows_at(*self._needed())

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences that have their rows, into those rows. Returns the padding encoded."""
        self._resize()
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
        self._resize()
        self._graphs.decoder.run_with_iobinding(self._binding(num_rows))
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
            self._caches.copy_row(*row)

    def move_row(self, source: int, target: int) -> None:
        """Everything kept for `source` is kept for `target` from now on."""
        self._caches.copy_row(source, target, int(self.table.lengths[source]))
        self._caches.copy_source(source, target, int(self.table.source_ends[source]) + 1)

    def _needed(self) -> tuple[int, int]:
        """The capacities that the running rows need in the next step."""
        num_rows = self.table.num_rows
        if not num_rows:
            return CAPACITY_STEP, CAPACITY_STEP
        longest = int(self.table.lengths[:num_rows].max()) + 1
        return round_up(longest), round_up(int(self.table.source_ends[:num_rows].max()) + 1)

    def _resize(self) -> None:
        """Make the caches as long as needed; shorter only where they could be half as long."""
        needed, now = self._needed(), self._caches.capacities
        target, source = (
            have if need <= have < SHRINK * need else need
            for need, have in zip(needed, now, strict=True)
        )
        if self._caches.num_rows_at(target, source) < self.table.num_rows:
            target, source = needed
        self._caches.resize(target, source, self.table.num_rows)

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
        rows = [row for sequence in sequences for row in sequence.rows]
        beam_sizes = [sequence.beam_size for sequence in sequences]
        for plane, cache in zip(self._caches.cross, caches, strict=True):
            length = min(padded, plane.shape[2])
            plane[rows, :, :length] = np.repeat(cache[:, :, :length], beam_sizes, axis=0)

    @cached_property
    def _cross_names(self) -> list[str]:
        return _cache_names("present", "encoder", self._graphs.card)

    def _binding(self, num_rows: int) -> Any:
        """The binding of a step over the first rows, made once for each layout of the caches."""
        key = (num_rows, *self._caches.capacities)
        if key in self._bindings:
            self._bindings.move_to_end(key)
        else:
            self._bindings[key] = self._bind(num_rows)
            if len(self._bindings) > MAX_BINDINGS:
                self._bindings.popitem(last=False)
        return self._bindings[key]

    def _bind(self, num_rows: int) -> Any:
        """The addresses of all that a step over the first `num_rows` rows reads and writes."""
        binding = self._graphs.decoder.io_binding()
        card, (target, source) = self._graphs.card, self._caches.capacities
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": self.table.tokens[:num_rows],
            "seqlens_k": self.table.lengths[:num_rows],
            "encoder_seqlens_k": self.table.source_ends[:num_rows],
        }
        outputs: dict[str, NDArray[Any]] = {"logits": self._logits[:num_rows]}
        own = [plane[:num_rows] for plane in self._caches.own]
        cross = [plane[:num_rows] for plane in self._caches.cross]
        inputs |= zip(_cache_names("past_key_values", "decoder", card), own, strict=True)
        inputs |= zip(_cache_names("past_key_values", "encoder", card), cross, strict=True)
        # The same address in and out: GroupQueryAttention appends in place.
        outputs |= zip(_cache_names("present", "decoder", card), own, strict=True)
        if card.cache_type(self._graphs.precision) == "int8":
            outputs |= zip(_cache_names("present", "encoder", card), cross, strict=True)
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_cpu_input("total_sequence_length", np.array(target, np.int32))
        binding.bind_cpu_input("encoder_total_sequence_length", np.array(source, np.int32))
        return binding


class Room:
    """Who else fits beside the rows that run: counts down as it says yes."""

    def __init__(self, caches: CachePool, table: RowTable, target: int, source: int) -> None:
        self._caches = caches
        self._num_rows = table.capacity - table.num_free
        self._target, self._source = target, source

    def admits(self, sequence: Sequence) -> bool:
        """Whether this sequence fits too; its rows are then taken."""
        source = max(self._source, round_up(len(sequence.source_ids)))
        num_rows = self._num_rows + sequence.beam_size
        if num_rows > self._caches.num_rows_at(self._target, source):
            return False
        self._num_rows, self._source = num_rows, source
        return True


def open_runners(
    bundle: Bundle,
    precision: str,
    device: Device,
    *,
    count: int,
    max_rows: int,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> list[Runner]:
    """So many runners over one pair of sessions, sharing the bytes. Raises BundleError."""
    graphs = Graphs.open(bundle, precision, device)
    return [Runner(graphs, max_rows, cache_bytes // count) for _ in range(count)]


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
