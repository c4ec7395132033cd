"""The most probable tokens of a row, in NumPy: for the few rows whose scores rules have changed.

From all other rows the runner chooses, on its device. Letters: R rows, V vocabulary.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 64
PART_SIZE = 1 << 18  # numbers: 1 MiB


def log_sum_exp(scores: Floats) -> Floats:
    """log(sum(exp(scores))) of each row: (R, V) -> (R,).

    A row of -inf alone has the lowest finite number, so that differences are -inf and never NaN.
    Rows that lie on a device are fetched, all at once. So few are computed at a time that what lies
    in between stays in the processor's cache.
    """
    scores = np.asarray(scores)
    if scores.size <= PART_SIZE:
        return _log_sum_exp(scores)
    parts = np.array_split(scores, math.ceil(scores.size / PART_SIZE))
    return np.concatenate([_log_sum_exp(part) for part in parts])


def _log_sum_exp(scores: Floats) -> Floats:
    lowest = np.finfo(np.float32).min
    highest = np.maximum(scores.max(axis=1, keepdims=True), lowest)  # (R, 1)
    sums = np.exp(scores - highest).sum(axis=1)  # (R,) 1 at least, or no token is possible
    total: Floats = np.log(np.maximum(sums, 1)) + highest[:, 0]
    return total


def top_tokens(scores: Floats, count: int) -> tuple[Floats, Ints]:
    """The `count` largest of each row and their columns, in no order: (R, V) -> twice (R, count).

    The largest n of a row lie in the n blocks with the largest maxima, and maxima are cheap.
    """
    num_rows, width = scores.shape
    num_blocks = math.ceil(width / BLOCK)
    if num_blocks <= 2 * count:
        return _partition(scores, np.broadcast_to(np.arange(width), scores.shape), count)
    whole = width // BLOCK  # blocks; what is behind them is short, and always looked at
    blocks = scores[:, : whole * BLOCK].reshape(num_rows, whole, BLOCK)  # (R, blocks, BLOCK)
    maxima = blocks.max(axis=2)  # (R, blocks)
    chosen = np.argpartition(maxima, whole - count, axis=1)[:, whole - count :]  # (R, count)
    values = np.take_along_axis(blocks, chosen[:, :, None], axis=1)  # (R, count, BLOCK)
    columns = chosen[:, :, None] * BLOCK + np.arange(BLOCK)  # (R, count, BLOCK)
    tail = np.broadcast_to(np.arange(whole * BLOCK, width), (num_rows, width - whole * BLOCK))
    return _partition(
        np.concatenate([values.reshape(num_rows, -1), scores[:, whole * BLOCK :]], axis=1),
        np.concatenate([columns.reshape(num_rows, -1), tail], axis=1),
        count,
    )


def _partition(values: Floats, columns: Ints, count: int) -> tuple[Floats, Ints]:
    width = values.shape[1]
    best = np.argpartition(values, width - count, axis=1)[:, width - count :]  # (R, count)
    return np.take_along_axis(values, best, axis=1), np.take_along_axis(columns, best, axis=1)
