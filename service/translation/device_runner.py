"""Runs a bundle on a device with memory of its own: what `runner` does there, on the CPU.

Caches, logits and candidates stay on the device; a step sends the rows' tokens and lengths, in one
copy, and brings the best candidates back, in one. Steps run over the first R rows rounded up to a
bucket, so that CUDA graphs can be captured: one for each bucket. Rows in between are dead, of
length 0, and disturb nobody. Knows tensors, not search or text; nor bundles, but where one is
opened, so that benchmarks can do without.
Letters: R rows, B batch, S source capacity, T target capacity, H heads, D head size, P planes (key
and value of every layer), V vocabulary, C candidates.
"""

import logging
import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import BundleError
from service.runtime import Device, check_tensors
from service.translation.caches import CAPACITY_STEP, CacheSizes, round_up
from service.translation.device_logits import DeviceLogits
from service.translation.device_memory import DeviceBuffer, DeviceGraph, Tensors, View
from service.translation.rows import RowTable
from service.translation.selection import Floats, Ints
from service.translation.sequence import Sequence

if TYPE_CHECKING:
    from service.bundle import Bundle, GraphName

logger = logging.getLogger(__name__)

GRAPHS = Path(__file__).parent / "device_graphs"

# Attention is told the longest length of a step rounded up to one of these, or the capacity: it
# shares work out by it, and a captured graph has it baked in.
LENGTHS = (64, 256)
NUM_CANDIDATES = (4, 16, 64)  # that graphs are made for; else a power of two
ENCODED_TOKENS = 4096  # padded source tokens encoded in one run, at most
COPIED_BYTES = 64 << 20  # of caches copied in one run
WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """The graphs of one model in one precision, and what a runner has to know of them."""

    encoder: Path
    decoder: Path
    sizes: CacheSizes
    vocab_size: int
    device: Device

    @classmethod
    def of(cls, bundle: "Bundle", precision: str, device: Device) -> "DeviceModel":
        """The model of a bundle. Raises BundleError."""
        card = bundle.translation
        paths: dict[GraphName, Path] = {
            graph: bundle.path(precision, graph) for graph in card.GRAPHS
        }
        sizes = CacheSizes.of(card, precision)
        if sizes.kind == np.int8:
            raise BundleError(f"expected float caches on {device}, {precision} has int8 ones")
        vocab_size = card.architecture.vocab_size
        return cls(paths["encoder"], paths["decoder"], sizes, vocab_size, device)


@dataclass(frozen=True, slots=True)
class Layout:
    """Caches (P, R, H, S, D) somewhere on the device."""

    address: int
    planes: int
    rows: int
    heads: int
    capacity: int
    head_bytes: int  # of D numbers

    def words(self, tokens: int) -> View:
        """They as words of so many tokens of one head each."""
        width = tokens * self.head_bytes // WORD_BYTES
        count = self.planes * self.rows * self.heads * self.capacity // tokens
        return View(self.address, (count, width), np.dtype(np.float32))

    def offsets(self, tokens: int, length: int) -> Ints:
        """From the first word of a row to all that hold its first `length` tokens, (1, M)."""
        stride = self.capacity // tokens
        plane = np.arange(self.planes)[:, None, None] * (self.rows * self.heads * stride)
        head = np.arange(self.heads)[:, None] * stride
        places = plane + head + np.arange(length // tokens)  # (P, H, words)
        return places.reshape(1, -1)

    def first_words(self, tokens: int, rows: Ints) -> Ints:
        """The first word of each of these rows (..., N), (..., N, 1)."""
        return np.asarray(rows, np.int64)[..., None] * (self.heads * self.capacity // tokens)


class RowCopies:
    """Copies rows of some caches onto rows of others, or of the same, on the device.

    Their number and length are rounded up, so that the graph can be captured once for each: the
    last pair is copied as often as it takes.
    """

    def __init__(
        self,
        graph: DeviceGraph,
        source: Layout,
        target: Layout,
        lengths: SequenceOf[int],
        device: Device,
    ) -> None:
        """`lengths` is what those of rows are rounded up to, ascending."""
        self._graph = graph
        self._source, self._target = source, target
        self._tokens = math.gcd(CAPACITY_STEP, source.capacity, target.capacity)  # of a word
        self._host = np.zeros((2, _power_of_two(target.rows), 1), np.int64)
        self._pairs = DeviceBuffer(device, self._host.shape, np.int64, "rows to copy")
        self._offsets = {
            length: [_offsets(device, each, self._tokens, length) for each in (source, target)]
            for length in lengths
        }

    def copy(self, sources: Ints, targets: Ints, length: int) -> None:
        """Let each target row have the first `length` tokens, or some more, of its source row.

        None may be both. Raises DeviceError.
        """
        length = next(one for one in self._offsets if one >= length)
        from_words = self._source.first_words(self._tokens, sources)
        pairs = np.stack([from_words, self._target.first_words(self._tokens, targets)])  # (2, N, 1)
        at_once = _rows_at_once(self._target, length)
        for start in range(0, len(sources), at_once):
            self._copy(pairs[:, start : start + at_once], length)

    def warm_up(self) -> None:
        """Capture all graphs: copy the first row, of which all are dead, onto the first."""
        for length in self._offsets:
            for count in _powers_of_two(
                min(_rows_at_once(self._target, length), self._host.shape[1])
            ):
                self._copy(np.zeros((2, count, 1), np.int64), length)

    def _copy(self, pairs: Ints, length: int) -> None:
        count = _power_of_two(pairs.shape[1])
        self._host[:, : pairs.shape[1]] = pairs
        self._host[:, pairs.shape[1] : count] = pairs[:, -1:]
        self._pairs.write(self._host)
        key = (self._source, self._target, count, length)
        self._graph.run(key, lambda: self._tensors(count, length))

    def _tensors(self, count: int, length: int) -> Tensors:
        target = self._target.words(self._tokens)
        source_offsets, target_offsets = self._offsets[length]
        inputs = {
            "source": self._source.words(self._tokens),
            "target": target,
            "source_offsets": source_offsets.view(),
            "target_offsets": target_offsets.view(),
            "source_rows": self._pairs.view((count, 1)),
            "target_rows": self._pairs.view((count, 1), offset_bytes=self._host.strides[0]),
        }
        return Tensors(inputs, {"result": target}, {})


class EncoderInputs:
    """What the encoder reads, on the device: padded tokens and which of them are real, one copy."""

    def __init__(self, device: Device, max_tokens: int) -> None:
        self._host = np.zeros((2, max_tokens), np.int64)
        self._device = DeviceBuffer(device, self._host.shape, np.int64, "sources")

    def write(self, sources: SequenceOf[Ints], batch: int, padded: int) -> None:
        """Send them as (B, S); rows that are left over have one token each."""
        ids, real = self._host[:, : batch * padded].reshape(2, batch, padded)
        ids[:], real[:] = 0, 0
        real[:, 0] = 1
        for index, source in enumerate(sources):
            ids[index, : len(source)] = source
            real[index, : len(source)] = 1
        self._device.write(self._host)

    def views(self, batch: int, padded: int) -> dict[str, View]:
        """The inputs of the encoder for so many sources of this length."""
        view, shape = self._device.view, (batch, padded)
        mask_at = self._host.strides[0]
        return {"input_ids": view(shape), "attention_mask": view(shape, offset_bytes=mask_at)}


class StepInputs:
    """What a step reads of its rows, on the device: tokens, lengths and source ends, one copy."""

    def __init__(self, device: Device, max_rows: int) -> None:
        self._host = np.zeros(16 * max_rows, np.uint8)
        self._device = DeviceBuffer(device, self._host.shape, np.uint8, "tokens and lengths")
        self._max_rows = max_rows

    def write(self, table: RowTable) -> None:
        """Send those of the rows that run; the others are dead, of length 0."""
        num_rows, capacity = table.num_rows, self._max_rows
        self._host[:] = 0
        tokens = self._host[: 8 * capacity].view(np.int64)
        lengths, ends = self._host[8 * capacity :].view(np.int32).reshape(2, capacity)
        tokens[:num_rows] = table.tokens[:num_rows, 0]
        lengths[:num_rows] = table.lengths[:num_rows]
        ends[:num_rows] = table.source_ends[:num_rows]
        self._device.write(self._host)

    def views(self, num_rows: int) -> dict[str, View]:
        """The inputs of the decoder for the first rows."""
        capacity, view = self._max_rows, self._device.view
        return {
            "input_ids": view((num_rows, 1), np.int64),
            "seqlens_k": view((num_rows,), np.int32, offset_bytes=8 * capacity),
            "encoder_seqlens_k": view((num_rows,), np.int32, offset_bytes=12 * capacity),
        }


class Candidates:
    """The graph that finds the C best tokens of every row, and where it puts them."""

    def __init__(self, device: Device, *, capture: bool) -> None:
        self._device = device
        self._graph = DeviceGraph(GRAPHS / "candidates.onnx", device, capture=capture)
        self._found: dict[tuple[int, int], DeviceBuffer] = {}

    def find(self, logits: View, count: int) -> tuple[Floats, Floats, Ints]:
        """Log-probabilities, best first, logits and tokens of logits (R, V): three times (R, C)."""
        key = (logits.shape[0], count)
        if key not in self._found:
            shape = (logits.shape[0], 3 * count)
            self._found[key] = DeviceBuffer(self._device, shape, np.float32, "candidates")
        found = self._found[key]
        self._graph.run(key, lambda: self._tensors(logits, count, found.view()))
        scores, values, tokens = np.split(found.read(), 3, axis=1)
        return scores, values, tokens.astype(np.int64)

    def _tensors(self, logits: View, count: int, found: View) -> Tensors:
        return Tensors({"logits": logits}, {"candidates": found}, {"count": np.array([count])})


class DeviceRunner:
    """The rows of one decode worker on a device."""

    steps_parts = False  # what its graphs are captured for is a prefix

    def __init__(
        self,
        model: DeviceModel,
        max_rows: int,
        cache_bytes: int,
        *,
        fixed_bucket: bool = False,
        capture: bool = True,
    ) -> None:
        """With `fixed_bucket` steps run over all rows, and each source is encoded alone: a GPU then
        picks the same kernels whoever is there.

        Raises BundleError where the device has too little memory.
        """
        sizes = model.sizes
        max_rows = min(max_rows, cache_bytes // sizes.longest_row_bytes)
        if not max_rows:
            raise BundleError(
                f"expected {sizes.longest_row_bytes} bytes of caches for a row on {model.device}, "
                f"found {cache_bytes}"
            )
        self.table = RowTable(max_rows, sizes.max_target_tokens)
        self.alone = False  # makes no difference here
        self._model = model
        self._buckets = (max_rows,) if fixed_bucket else buckets(max_rows)
        self._fixed_bucket = fixed_bucket
        self._encoder = DeviceGraph(model.encoder, model.device, capture=capture)
        self._decoder = DeviceGraph(model.decoder, model.device, capture=capture)
        self._candidates = Candidates(model.device, capture=capture)
        self._transfer = DeviceGraph(GRAPHS / "transfer.onnx", model.device, capture=capture)
        self._edit = DeviceGraph(GRAPHS / "edit.onnx", model.device)
        self._fetch = DeviceGraph(GRAPHS / "fetch.onnx", model.device)
        self._allocate(max_rows)
        self._own_copies = self._copies(self._own, self._own, _doubled(self._own.capacity))
        self._cross_copies = self._copies(self._cross, self._cross, _doubled(self._cross.capacity))
        self._encoded_copies = {
            layout.capacity: self._copies(layout, self._cross, [layout.capacity])
            for layout in self._encoded
        }
        self._found: dict[int, tuple[Floats, Floats, Ints]] = {}  # of this step, by their number
        self._num_rows = 0  # of this step, with the dead ones of the bucket
        self._moves: dict[int, int] = {}  # target -> source, not yet made

    def _allocate(self, max_rows: int) -> None:
        sizes, device = self._model.sizes, self._model.device
        head = (sizes.planes, max_rows, sizes.heads)
        target, source = round_up(sizes.max_target_tokens), round_up(sizes.max_source_tokens)
        tokens = max(ENCODED_TOKENS, sizes.max_source_tokens)
        shapes = {
            "self-attention caches": (*head, target, sizes.head_size),
            "cross-attention caches": (*head, source, sizes.head_size),
            "encoded sources": (sizes.planes, tokens, sizes.heads, sizes.head_size),
        }
        self._own_cache, self._cross_cache, self._encoded_cache = (
            DeviceBuffer(device, shape, sizes.kind, name) for name, shape in shapes.items()
        )
        self._own = self._layout(self._own_cache.address, max_rows, target)
        self._cross = self._layout(self._cross_cache.address, max_rows, source)
        # By length: as many sources as fit, so that a plane is where it is however many there are.
        self._encoded = [
            self._layout(self._encoded_cache.address, tokens // length, length)
            for length in _doubled(sizes.max_source_tokens)
        ]
        self._sources = EncoderInputs(device, tokens)
        shape = (max_rows, self._model.vocab_size)
        self._logits = DeviceBuffer(device, shape, np.float32, "logits")
        self._inputs = StepInputs(device, max_rows)

    def _copies(self, source: Layout, target: Layout, lengths: SequenceOf[int]) -> RowCopies:
        return RowCopies(self._transfer, source, target, lengths, self._model.device)

    def _layout(self, address: int, rows: int, capacity: int) -> Layout:
        sizes = self._model.sizes
        head_bytes = sizes.head_size * sizes.kind.itemsize
        return Layout(address, sizes.planes, rows, sizes.heads, capacity, head_bytes)

    @property
    def is_captured(self) -> bool:
        """Whether decode steps replay CUDA graphs."""
        return self._decoder.is_captured

    @property
    def cache_bytes(self) -> int:
        """Of the attention caches of all rows, taken for good."""
        return self._own_cache.num_bytes + self._cross_cache.num_bytes

    @property
    def fixed_bytes(self) -> int:
        """Of what lies beside them for good; the runtime has the weights and what it computes."""
        return self._encoded_cache.num_bytes + self._logits.num_bytes

    def room(self) -> "FreeRows":
        """For the sequences that may join now."""
        return FreeRows(self.table.num_free)

    @property
    def num_rows_next(self) -> int:
        """All rows fit in every step: each has memory for the longest target."""
        return self.table.capacity

    def warm_up(self) -> None:
        """Run steps over dead rows: kernels are chosen, and all graphs captured, so that nothing
        else on the device is in the way of it later."""
        for num_rows in self._buckets:
            for lengths in self._all_lengths() if self.is_captured else [self._lengths()]:
                self.run_bucket(num_rows, lengths)
            for count in NUM_CANDIDATES:
                self.candidates(count)
        for layout in self._encoded:
            for batch in self._batches(layout):
                self._sources.write([], batch, layout.capacity)
                self._run_encoder(layout, batch)
        for copies in (self._own_copies, self._cross_copies, *self._encoded_copies.values()):
            copies.warm_up()

    def run_bucket(self, num_rows: int, lengths: tuple[int, int] | None = None) -> None:
        """Run the decoder over rows as the device has them; `step` sends what they are first.

        Without `lengths`, target and source, those of the rows that run.
        """
        self._found.clear()
        self._num_rows = self._bucket(num_rows)
        key = (self._num_rows, *(lengths or self._lengths()))
        self._decoder.run(key, lambda: self._step_tensors(*key))

    def admit(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences that have their rows, into those rows. Returns the padding encoded."""
        self._make_moves()
        padding = 0
        for members in self._encoded_together(sequences):
            padding += self._encode(members) - sum(len(one.source_ids) for one in members)
        return padding

    def step(self, rows: range | None = None) -> Floats:
        """One decode step over all running rows: their logits (R, V), valid until the next.

        They stay on the device; what stands for them fetches what is asked of it. `rows` are all.
        Raises DeviceError.
        """
        num_rows = self.table.num_rows
        self._make_moves()
        self._inputs.write(self.table)
        self.run_bucket(num_rows)
        logits = DeviceLogits(self, num_rows, self._model.vocab_size)
        return cast("Floats", logits)  # to a search it is one

    def best_tokens(self, rows: Ints, count: int) -> tuple[Floats, Ints]:
        """The `count` largest log-probabilities of each of these rows, best first, and their
        tokens, by the logits as they are now: twice (len(rows), count).
        """
        scores, _, tokens = self.candidates(count)
        return scores[rows, :count], tokens[rows, :count]

    def copy_rows(self, sources: Ints, targets: Ints, lengths: Ints) -> None:
        """Let each target have seen the first `length` target tokens of its source."""
        self._make_moves()
        self._own_copies.copy(sources, targets, int(lengths.max()))

    def move_row(self, source: int, target: int) -> None:
        """Everything kept for `source` is kept for `target` from now on.

        Moves are made together, before whatever comes next.
        """
        if target in self._moves.values():  # left over from a copy that failed
            self._make_moves()
        self._moves[target] = self._moves.pop(source, source)

    def candidates(self, count: int) -> tuple[Floats, Floats, Ints]:
        """Of the last step's logits: log-probabilities, best first, logits and tokens (R, C)."""
        kind = next((size for size in NUM_CANDIDATES if size >= count), _power_of_two(count))
        kind = min(kind, self._model.vocab_size)
        if kind not in self._found:
            self._found[kind] = self._candidates.find(self._logits_of(self._num_rows), kind)
        return self._found[kind]

    def fetch(self, rows: Ints) -> Floats:
        """The logits of these rows (len(rows), V), as a copy."""
        inputs = {"logits": self._logits_of(self._num_rows)}
        tensors = Tensors(inputs, {}, {"rows": rows}, fetched=("fetched",))
        (fetched,) = self._fetch.run_once(tensors)
        return np.array(fetched)

    def edit(self, rows: Ints, tokens: Ints, values: Floats) -> None:
        """Write values (N,) at places of the logits."""
        logits = self._logits_of(self._num_rows)
        places = np.stack([rows, tokens], axis=1).astype(np.int64)  # (N, 2)
        given: dict[str, NDArray[Any]] = {"places": places, "values": values}
        self._edit.run_once(Tensors({"logits": logits}, {"result": logits}, given))
        self._found.clear()

    def _step_tensors(self, num_rows: int, target: int, source: int) -> Tensors:
        planes = range(self._model.sizes.planes)
        own = [self._plane(self._own, plane, num_rows) for plane in planes]
        cross = [self._plane(self._cross, plane, num_rows) for plane in planes]
        inputs = self._inputs.views(num_rows)
        inputs |= zip(_cache_names("past_key_values", "decoder", len(planes)), own, strict=True)
        inputs |= zip(_cache_names("past_key_values", "encoder", len(planes)), cross, strict=True)
        outputs = {"logits": self._logits_of(num_rows)}
        # The same address in and out: GroupQueryAttention appends in place.
        outputs |= zip(_cache_names("present", "decoder", len(planes)), own, strict=True)
        if self._model.sizes.kind != np.float32:  # see `service.bundle.expected_tensors`
            outputs |= zip(_cache_names("present", "encoder", len(planes)), cross, strict=True)
        given: dict[str, NDArray[Any]] = {
            "total_sequence_length": np.array(target, np.int32),
            "encoder_total_sequence_length": np.array(source, np.int32),
        }
        return Tensors(inputs, outputs, given)

    def _plane(self, layout: Layout, plane: int, num_rows: int) -> View:
        """The first rows of one key or value cache, (R, H, T or S, D)."""
        sizes = self._model.sizes
        shape = (num_rows, layout.heads, layout.capacity, sizes.head_size)
        size = layout.rows * layout.heads * layout.capacity * layout.head_bytes
        return View(layout.address + plane * size, shape, sizes.kind)

    def _logits_of(self, num_rows: int) -> View:
        return self._logits.view((num_rows, self._model.vocab_size))

    def _bucket(self, num_rows: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= num_rows)

    def _lengths(self) -> tuple[int, int]:
        """What attention is told of the longest target and source that run."""
        table, caches = self.table, (self._own, self._cross)
        if self._fixed_bucket:
            return self._own.capacity, self._cross.capacity
        needed = (table.lengths, table.source_ends)
        longest = (int(each[: table.num_rows].max(initial=0)) + 1 for each in needed)
        target, source = (
            next(size for size in _lengths_of(cache) if size >= length)
            for length, cache in zip(longest, caches, strict=True)
        )
        return target, source

    def _all_lengths(self) -> list[tuple[int, int]]:
        if self._fixed_bucket:
            return [self._lengths()]
        return list(product(_lengths_of(self._own), _lengths_of(self._cross)))

    def _make_moves(self) -> None:
        """All at once: they go from behind the rows that remain to gaps among these.

        Raises DeviceError; then they are still to be made.
        """
        if not self._moves:
            return
        targets, sources = np.array(list(self._moves)), np.array(list(self._moves.values()))
        lengths, ends = self.table.lengths[targets], self.table.source_ends[targets]
        if longest := int(lengths.max()):
            self._own_copies.copy(sources, targets, longest)
        self._cross_copies.copy(sources, targets, int(ends.max()) + 1)
        self._moves.clear()

    def _encoded_together(self, sequences: SequenceOf[Sequence]) -> list[list[Sequence]]:
        """Groups of similar length, the longest last: as many as fit, for on a GPU a run takes as
        long as thousands of tokens of padding; one each where nobody may make a difference.
        """
        groups: list[list[Sequence]] = []
        for sequence in sorted(sequences, key=lambda one: len(one.source_ids)):
            fitting = self._encoded_layout(sequence).rows
            if groups and len(groups[-1]) < fitting and not self._fixed_bucket:
                groups[-1].append(sequence)
            else:
                groups.append([sequence])
        return groups

    def _encoded_layout(self, sequence: Sequence) -> Layout:
        """Where what a source is encoded to lies until it has its rows."""
        length = len(sequence.source_ids)
        return next(layout for layout in self._encoded if layout.capacity >= length)

    def _encode(self, sequences: SequenceOf[Sequence]) -> int:
        """Encode sequences, the longest last; keep their keys and values in all their rows.

        Returns the tokens that were encoded.
        """
        layout = self._encoded_layout(sequences[-1])
        batch = next(size for size in self._batches(layout) if size >= len(sequences))
        self._sources.write([one.source_ids for one in sequences], batch, layout.capacity)
        self._run_encoder(layout, batch)
        rows = np.array([row for sequence in sequences for row in sequence.rows])
        members = np.repeat(
            np.arange(len(sequences)), [sequence.beam_size for sequence in sequences]
        )
        self._encoded_copies[layout.capacity].copy(members, rows, layout.capacity)
        return batch * layout.capacity

    def _batches(self, layout: Layout) -> list[int]:
        """How many sources of this length are encoded at once, ascending."""
        most = min(layout.rows, self.table.capacity) if not self._fixed_bucket else 1
        return [*(size for size in _powers_of_two(most) if size < most), most]

    def _run_encoder(self, layout: Layout, batch: int) -> None:
        self._encoder.run((batch, layout.capacity), lambda: self._encoder_tensors(layout, batch))

    def _encoder_tensors(self, layout: Layout, batch: int) -> Tensors:
        planes = range(self._model.sizes.planes)
        caches = [self._plane(layout, plane, batch) for plane in planes]
        names = _cache_names("present", "encoder", len(planes))
        inputs = self._sources.views(batch, layout.capacity)
        return Tensors(inputs, dict(zip(names, caches, strict=True)), {})


class FreeRows:
    """Room for so many rows: counts down as it says yes."""

    def __init__(self, num_free: int) -> None:
        self._num_free = num_free

    def admits(self, sequence: Sequence) -> bool:
        """Whether this sequence fits too; its rows are then taken."""
        if sequence.beam_size > self._num_free:
            return False
        self._num_free -= sequence.beam_size
        return True


def open_device_runner(
    bundle: "Bundle",
    precision: str,
    device: Device,
    *,
    max_rows: int,
    cache_bytes: int,
    fixed_bucket: bool = False,
) -> DeviceRunner:
    """A runner over a bundle's graphs, warm. Raises BundleError."""
    from service.bundle import expected_tensors  # benchmarks run where its packages are not

    model = DeviceModel.of(bundle, precision, device)
    runner = DeviceRunner(model, max_rows, cache_bytes, fixed_bucket=fixed_bucket)
    for graph, opened in (("encoder", runner._encoder), ("decoder", runner._decoder)):
        tensors = expected_tensors(bundle.card, cast("GraphName", graph), precision=precision)
        check_tensors(
            opened.session, inputs=tensors.inputs, outputs=tensors.outputs, graph=str(opened.path)
        )
    runner.warm_up()
    num_rows = runner.table.capacity
    logger.info(
        "%s/%s: %d rows on %s, %.0f MiB of attention caches and %.0f MiB of encoded sources and "
        "logits%s",
        *(bundle.name, bundle.version, num_rows, device),
        *(runner.cache_bytes / (1 << 20), runner.fixed_bytes / (1 << 20)),
        f"; max_rows of {max_rows} need more cache_memory" if num_rows < max_rows else "",
    )
    return runner


def buckets(max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that steps run over: powers of two, and all."""
    return (*(power for power in _powers_of_two(max_rows) if power < max_rows), max_rows)


def _lengths_of(layout: Layout) -> tuple[int, ...]:
    """What attention over these caches may be told, ascending."""
    return (*(size for size in LENGTHS if size < layout.capacity), layout.capacity)


def _offsets(device: Device, layout: Layout, tokens: int, length: int) -> DeviceBuffer:
    offsets = layout.offsets(tokens, length)
    table = DeviceBuffer(device, offsets.shape, np.int64, "offsets of rows")
    table.write(offsets)
    return table


def _rows_at_once(layout: Layout, length: int) -> int:
    """Rows of this length that are copied in one run, which has room for all of them in between."""
    row_bytes = layout.planes * layout.heads * length * layout.head_bytes
    return max(1, _power_of_two(COPIED_BYTES // row_bytes + 1) // 2)


def _doubled(capacity: int) -> list[int]:
    """What lengths are rounded up to, ascending: each double the one before, and the capacity."""
    sizes = _powers_of_two(capacity)
    return [*(size for size in sizes if CAPACITY_STEP <= size < capacity), capacity]


def _powers_of_two(most: int) -> list[int]:
    """All up to this number, ascending."""
    return [1 << power for power in range(most.bit_length())]


def _power_of_two(count: int) -> int:
    """The least one that is no less."""
    return 1 << (count - 1).bit_length()


def _cache_names(prefix: str, side: str, planes: int) -> list[str]:
    """Key and value of layer 0, of layer 1, ...: the order of the first axis of a cache."""
    layers = range(planes // 2)
    return [f"{prefix}.{layer}.{side}.{part}" for layer in layers for part in ("key", "value")]
