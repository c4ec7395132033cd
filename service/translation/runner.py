"""Runs a bundle's encoder and decoder on ONNX Runtime. Knows tensors, not search or text.

`Graphs` are the sessions, shared by all workers of a model; a `Runner` is one worker's rows.
Tensors are bound by address: a step over R rows binds the first R rows of every cache, and nothing
is copied in or out.
Letters: R rows, B batch, S source length, H heads, D head size, L layers, V vocabulary.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, TranslationCard
from service.runtime import Device
from service.translation.caches import CachePool, CacheSizes, round_up
from service.translation.device_runner import DeviceRunner, open_device_runner
from service.translation.graphs import Graphs
from service.translation.rows import RowTable
from service.translation.selection import Floats, Ints
from service.translation.sequence import Sequence
from service.translation.workers import DEFAULT_CACHE_BYTES, Workers

# What another run of the encoder takes, in tokens that it would encode meanwhile (measured: 10 with
# the default bundle, 12 at base size). Sources are encoded together, padded to the longest, where
# that is more padding. The padding changes no bit of a row (tests hold that).
RUN_TOKENS = 10

logger = logging.getLogger(__name__)

SHRINK = 2  # caches this many times longer than needed are made shorter
MAX_BINDINGS = 1024  # a few kilobytes each
NUM_TIMED_STEPS = 5
WORTHWHILE_GAIN = 1.15  # of several threads; else their memory is given back
SMALLEST_PARALLEL_WEIGHTS = 8_000_000  # of a decoder; smaller ones did not gain


class Runner:
    """The rows of one decode worker: their table, their caches, and the two graphs over them."""

    steps_parts = True

    def __init__(
        self, graphs: Graphs, max_rows: int, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        card = graphs.card
        self._graphs = graphs
        self.table = RowTable(max_rows, card.limits.max_target_tokens)
        sizes = CacheSizes.of(card, graphs.precision)
        self._caches = CachePool(sizes, max_rows=max_rows, max_bytes=cache_bytes)
        self._logits = np.zeros((max_rows, card.architecture.vocab_size), np.float32)  # (R, V)
        self._bindings: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._parallel: Graphs | None = None
        self._steps_that_fit = 0  # at least so many fit from now on in the caches as they are
        self.alone = False  # whether no other worker of the model computes

    def gain_from(self, parallel: Graphs) -> float:
        """Use graphs that compute on several threads while no other worker does, if that is faster.

        Their answers are the same to the bit. Returns how many times faster a step of one row is.
        """
        one_thread = self._seconds_a_step(self._graphs)
        gain = one_thread / self._seconds_a_step(parallel)
        if gain >= WORTHWHILE_GAIN:
            self._parallel = parallel
        return gain

    def room(self) -> "Room":
        """For the sequences that may join now."""
        return Room(self._caches, self.table, *self._needed())

    @property
    def num_rows_next(self) -> int:
        """At least so many rows the caches take in the next step, one token longer than now."""
        if self._caches.takes_all:
            return self.table.capacity
        if self._steps_that_fit:
            return self._caches.num_rows
        return self._caches.num_rows_at(*self._needed())

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences that have their rows, into those rows. Returns the padding encoded."""
        self._resize()
        padding = 0
        for members in encoded_together(sequences):
            padded = len(members[-1].source_ids)
            self._encode(members, padded)
            padding += padded * len(members) - sum(len(one.source_ids) for one in members)
        return padding

    def step(self, rows: range | None = None) -> Floats:
        """One decode step over all running rows: their logits (R, V), valid until the next.

        Over some rows, if given, and the logits of the others stay as they are.
        """
        num_rows = self.table.num_rows
        if not self._steps_that_fit:
            self._resize()
        self._steps_that_fit -= 1
        graphs = self._chosen_graphs()
        graphs.decoder.run_with_iobinding(self._binding(graphs, rows or range(num_rows)))
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

    def _longest(self) -> tuple[int, int]:
        """The most target tokens of a row that runs, with the next, and the most source tokens."""
        num_rows = self.table.num_rows
        lengths, ends = self.table.lengths[:num_rows], self.table.source_ends[:num_rows]
        return int(lengths.max(initial=0)) + 1, int(ends.max(initial=0)) + 1

    def _needed(self) -> tuple[int, int]:
        """The capacities that the running rows need in the next step."""
        target, source = self._longest()
        return round_up(target), round_up(source)

    def _resize(self) -> None:
        """Make the caches as long as needed; shorter only where they could be half as long.

        Steps look again when those that surely fit are over: after a CAPACITY_STEP at most.
        """
        self._steps_that_fit = 0
        longest, now = self._longest(), self._caches.capacities
        needed = round_up(longest[0]), round_up(longest[1])
        target, source = (
            have if need <= have < SHRINK * need else need
            for need, have in zip(needed, now, strict=True)
        )
        if self._caches.num_rows_at(target, source) < self.table.num_rows:
            target, source = needed
        self._caches.resize(target, source, self.table.num_rows)
        self._steps_that_fit = needed[0] - longest[0] + 1

    def _encode(self, sequences: SequenceOf[Sequence], padded: int) -> None:
        """Encode sequences of one padded length and keep their keys and values in their rows."""
        input_ids = np.zeros((len(sequences), padded), np.int64)  # (B, S)
        attention_mask = np.zeros((len(sequences), padded), np.int64)  # (B, S)
        for index, sequence in enumerate(sequences):
            input_ids[index, : len(sequence.source_ids)] = sequence.source_ids
            attention_mask[index, : len(sequence.source_ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        caches = self._chosen_graphs().encoder.run(
            self._cross_names, feeds
        )  # 2L times (B, H, S, D)
        rows = [row for sequence in sequences for row in sequence.rows]
        beam_sizes = [sequence.beam_size for sequence in sequences]
        for plane, cache in zip(self._caches.cross, caches, strict=True):
            length = min(padded, plane.shape[2])
            plane[rows, :, :length] = np.repeat(cache[:, :, :length], beam_sizes, axis=0)

    @cached_property
    def _cross_names(self) -> list[str]:
        return _cache_names("present", "encoder", self._graphs.card)

    def _chosen_graphs(self) -> Graphs:
        return self._parallel if self.alone and self._parallel is not None else self._graphs

    def _seconds_a_step(self, graphs: Graphs) -> float:
        """Of the first row, whatever it holds; no row runs."""
        binding = self._bind(graphs, range(1))
        seconds = []
        for _ in range(NUM_TIMED_STEPS):
            begun = time.perf_counter()
            graphs.decoder.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - begun)
        return min(seconds)

    def _binding(self, graphs: Graphs, rows: range) -> Any:
        """The binding of a step over these rows, made once for each layout of the caches."""
        key = (rows.start, rows.stop, graphs is self._parallel, *self._caches.capacities)
        if key in self._bindings:
            self._bindings.move_to_end(key)
        else:
            self._bindings[key] = self._bind(graphs, rows)
            if len(self._bindings) > MAX_BINDINGS:
                self._bindings.popitem(last=False)
        return self._bindings[key]

    def _bind(self, graphs: Graphs, rows: range) -> Any:
        """The addresses of all that a step over these rows reads and writes."""
        binding = graphs.decoder.io_binding()
        card, (target, source) = graphs.card, self._caches.capacities
        some = slice(rows.start, rows.stop)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": self.table.tokens[some],
            "seqlens_k": self.table.lengths[some],
            "encoder_seqlens_k": self.table.source_ends[some],
        }
        outputs: dict[str, NDArray[Any]] = {"logits": self._logits[some]}
        own = [plane[some] for plane in self._caches.own]
        cross = [plane[some] for plane in self._caches.cross]
        inputs |= zip(_cache_names("past_key_values", "decoder", card), own, strict=True)
        inputs |= zip(_cache_names("past_key_values", "encoder", card), cross, strict=True)
        # The same address in and out: GroupQueryAttention appends in place.
        outputs |= zip(_cache_names("present", "decoder", card), own, strict=True)
        if card.cache_type(graphs.precision) != "float32":
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
    bundle: Bundle, precision: str, device: Device, workers: Workers
) -> list[Runner] | list[DeviceRunner]:
    """Runners over one pair of sessions, or two where those on several threads gain.

    Raises BundleError.
    """
    if device == "cuda":
        return [
            open_device_runner(
                bundle,
                precision,
                device,
                max_rows=workers.max_rows,
                cache_bytes=workers.cache_bytes,
                fixed_bucket=workers.fixed_bucket,
            )
        ]
    graphs = Graphs.open(bundle, precision, device)
    runners = [
        Runner(graphs, workers.max_rows, workers.cache_bytes_each) for _ in range(workers.count)
    ]
    # With more threads than heads a row's attention is split, and rounds differently.
    threads = min(workers.threads_alone, graphs.card.architecture.num_heads)
    if threads > 1 and _num_weights(graphs.card) > SMALLEST_PARALLEL_WEIGHTS:
        parallel = Graphs.open(bundle, precision, device, threads)
        gains = [runner.gain_from(parallel) for runner in runners]
        logger.info("%s: a step on %d threads is %.2f times faster", bundle.name, threads, gains[0])
    return runners


def _num_weights(card: TranslationCard) -> int:
    """About, of a decoder."""
    sizes = card.architecture
    layer = (8 * sizes.d_model + 2 * sizes.ffn_size) * sizes.d_model
    return sizes.decoder_layers * layer + sizes.vocab_size * sizes.d_model


def encoded_together(sequences: SequenceOf[Sequence]) -> list[list[Sequence]]:
    """Those to encode together, the longest last: apart from where a run takes less than padding
    all the shorter ones to the next length.
    """
    groups: list[list[Sequence]] = []
    length = 0
    for sequence in sorted(sequences, key=lambda one: len(one.source_ids)):
        further, length = len(sequence.source_ids) - length, len(sequence.source_ids)
        if groups and len(groups[-1]) * further <= RUN_TOKENS:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def _cache_names(prefix: str, side: str, card: TranslationCard) -> list[str]:
    """Key and value of layer 0, of layer 1, ...: the order of the first axis of a cache."""
    layers = range(card.architecture.decoder_layers)
    return [f"{prefix}.{layer}.{side}.{part}" for layer in layers for part in ("key", "value")]
