"""Run a bundle's translation graphs a token at a time, with rows that join and leave on their own.

The least that verification needs of the server's decode loop, written anew so that it checks the
graphs and not that loop: fixed caches, bound in place, one row a sentence.
Letters: B batch, R rows, S source capacity, T target capacity, H heads, D head size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.quantization import Floats
from service.bundle import Bundle, GraphName, TranslationCard, expected_tensors
from service.runtime import check_tensors, open_session

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Graphs:
    """Both sessions of one precision."""

    card: TranslationCard
    encoder: onnxruntime.InferenceSession | None  # None once it has been asked
    decoder: onnxruntime.InferenceSession
    cache_type: str = "float32"

    @classmethod
    def open(cls, bundle: Bundle, precision: str) -> "Graphs":
        """Open encoder and decoder on the CPU and check their tensors. Raises BundleError."""
        encoder, decoder = (
            open_checked(bundle, precision, name) for name in ("encoder", "decoder")
        )
        card = bundle.translation
        return cls(card, encoder, decoder, card.cache_type(precision))

    def encode(self, sources: Sequence[Sequence[int]], length: int | None = None) -> list[Floats]:
        """Cross-attention caches (B, H, length, D) of a padded batch, in the graph's order."""
        if self.encoder is None:
            raise ValueError("the encoder is not open")
        input_ids, attention_mask = pad(sources, length)
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        caches: list[Floats] = self.encoder.run(None, feeds)
        return caches


class Rows:
    """A pool of rows; the first n of them take a step together."""

    def __init__(self, graphs: Graphs, *, rows: int, source: int, target: int) -> None:
        sizes = graphs.card.architecture
        self.graphs = graphs
        self.lengths = np.zeros(rows, np.int32)  # tokens in the cache of each row
        self._source_last = np.zeros(rows, np.int32)
        layers, heads, size = 2 * sizes.decoder_layers, sizes.num_heads, sizes.head_size
        # (2 * L, R, H, S or T, D): keys and values of every layer
        self._cross = np.zeros((layers, rows, heads, source, size), graphs.cache_type)
        self._own = np.zeros((layers, rows, heads, target, size), graphs.cache_type)
        self._logits = np.zeros((rows, sizes.vocab_size), np.float32)

    def admit(self, row: int, caches: Sequence[Floats], batch_row: int, source_length: int) -> None:
        """Begin a sentence in a row: copy its encoder caches, forget what the row held."""
        for layer, cache in enumerate(caches):
            self._cross[layer, row, :, :source_length] = cache[batch_row, :, :source_length]
        self._source_last[row] = source_length - 1
        self.lengths[row] = 0

    def step(self, tokens: Sequence[int]) -> Floats:
        """Feed the next token to rows 0 to n - 1. Returns their logits (n, V), a copy."""
        count = len(tokens)
        binding = self.graphs.decoder.io_binding()
        feeds = {
            "input_ids": np.array(tokens, np.int64)[:, None],  # (R, 1)
            "seqlens_k": self.lengths[:count],
            "encoder_seqlens_k": self._source_last[:count],
            "total_sequence_length": np.array(self._own.shape[3], np.int32),
            "encoder_total_sequence_length": np.array(self._cross.shape[3], np.int32),
        }
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for layer in range(len(self._own)):
            place = f"{layer // 2}.{{side}}.{('key', 'value')[layer % 2]}"
            own, cross = place.format(side="decoder"), place.format(side="encoder")
            _bind(binding.bind_input, f"past_key_values.{own}", self._own[layer, :count])
            _bind(binding.bind_input, f"past_key_values.{cross}", self._cross[layer, :count])
            _bind(binding.bind_output, f"present.{own}", self._own[layer, :count])
            if self.graphs.cache_type == "int8":
                _bind(binding.bind_output, f"present.{cross}", self._cross[layer, :count])
        _bind(binding.bind_output, "logits", self._logits[:count])
        self.graphs.decoder.run_with_iobinding(binding)
        self.lengths[:count] += 1
        return self._logits[:count].copy()


def open_checked(
    bundle: Bundle, precision: str, name: GraphName, *, mapped: bool = False
) -> onnxruntime.InferenceSession:
    """Open a graph on one thread of the CPU and check its tensors. Raises BundleError.

    `mapped` as in `open_session`.
    """
    session = open_session(bundle.path(precision, name), device="cpu", threads=1, mapped=mapped)
    expected = expected_tensors(bundle.card, name, precision=precision)
    check_tensors(session, inputs=expected.inputs, outputs=expected.outputs)
    return session


def pad(sequences: Sequence[Sequence[int]], length: int | None = None) -> tuple[Ids, Ids]:
    """Right-padded ids and their mask, both (B, length); the longest sequence by default."""
    length = length or max(map(len, sequences))
    ids = np.zeros((len(sequences), length), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
