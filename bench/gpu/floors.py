"""What a decode step has to take at least on a chip.

max(bytes / bandwidth, operations / peak) + kernels x the time of an empty one. Every byte of the
weights is read once, of the caches what the rows have, and logits are written and read once.
Letters: R rows, V vocabulary, L layers.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx

from bench.gpu.chip import Chip
from export.seq2seq import Seq2SeqConfig

HALF_BYTES = 2
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one step."""

    num_bytes: float
    operations: float
    kernels: int

    def seconds(self, chip: Chip) -> float:
        """The least time."""
        work = max(
            self.num_bytes / chip.bytes_per_second, self.operations / chip.operations_per_second
        )
        return work + self.kernels * chip.kernel_seconds


def step_floor(
    config: Seq2SeqConfig,
    *,
    num_rows: int,
    source_tokens: float,
    target_tokens: float,
    kernels: int,
) -> Floor:
    """Of a step over R rows, with so many tokens in their caches on average."""
    layer = 8 * config.d_model**2 + 2 * config.d_model * config.ffn_size
    table = config.vocab_size * config.d_model
    weights = config.decoder_layers * layer + table
    cached = 2 * config.decoder_layers * config.d_model * (source_tokens + target_tokens)
    logits = config.vocab_size * (HALF_BYTES + 2 * FLOAT_BYTES)
    return Floor(
        num_bytes=weights * HALF_BYTES + num_rows * (cached * HALF_BYTES + logits),
        operations=2 * num_rows * (weights + cached),
        kernels=kernels,
    )


def vision_floor(
    *, weights: int, patches: int, d_model: int, layers: int, batch: int, kernels: int
) -> Floor:
    """Of a run over so many pictures."""
    attention = 2 * layers * patches * patches * d_model  # products with keys, then values
    states = layers * patches * d_model * HALF_BYTES * 2
    return Floor(
        num_bytes=weights * HALF_BYTES + batch * states,
        operations=2 * batch * (weights * patches + attention),
        kernels=kernels,
    )


def num_nodes(*paths: Path) -> int:
    """The nodes of graphs: about as many kernels, where none can be counted."""
    return sum(len(onnx.load(path, load_external_data=False).graph.node) for path in paths)
