"""The graphs of a translation bundle as ONNX Runtime sessions. Knows tensors, not rows or search.

Letters: R rows, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from service.bundle import Bundle, GraphName, TranslationCard, expected_tensors
from service.runtime import Device, check_tensors, open_session
from service.translation.selection import Floats, Ints

SELECTION_GRAPH = Path(__file__).parent / "selection.onnx"
SELECTION_ELEMENTS = 1 << 20  # logits a run of the selection, 4 MiB; measured
BLOCK_WIDTHS = range(16, 513)
BEST_BLOCK_WIDTH = 100  # measured at vocabularies of 5 000 and 32 000


@dataclass(frozen=True, slots=True)
class Graphs:
    """The sessions of one bundle in one precision. `run` may be called from several threads."""

    encoder: onnxruntime.InferenceSession
    decoder: onnxruntime.InferenceSession
    selection: "Selection"
    card: TranslationCard
    precision: str

    @classmethod
    def open(cls, bundle: Bundle, precision: str, device: Device, threads: int = 1) -> "Graphs":
        """Open both graphs and check their tensors. Raises BundleError.

        On one thread a call computes on its caller's, and any number may call at once.
        """

        def session(graph: GraphName) -> onnxruntime.InferenceSession:
            path = bundle.path(precision, graph)
            opened = open_session(path, device=device, threads=threads)
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
        feeds = {"count": np.array([count], np.int64), "blocks": self._shape}
        parts = [
            self._session.run(None, {"logits": logits[start : start + self._rows_a_run], **feeds})
            for start in range(0, len(logits), self._rows_a_run)
        ]
        if len(parts) == 1:
            return parts[0][0], parts[0][1]
        values, tokens = (np.concatenate(side) for side in zip(*parts, strict=True))
        return values, tokens


def _block_width(vocab_size: int) -> int:
    """The width of the blocks that the selection looks for maxima in: it has to divide V.

    A vocabulary that has no such divisor is one block: right, and slower.
    """
    fitting = [width for width in BLOCK_WIDTHS if vocab_size % width == 0]
    return min(fitting, key=lambda width: abs(width - BEST_BLOCK_WIDTH), default=vocab_size)
