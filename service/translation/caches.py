"""The attention caches of one decode worker: one buffer, laid out for what runs at the moment.

Reading caches is bound by the memory's latency, so rows lie close together: each as long as the
longest that runs, not as the longest that may. Measured with 64 int8 rows of 16 tokens, d 512, a
layer: 280 us at a capacity of 24, 440 at one of 256. The layout follows from the capacities alone,
and the buffer is what the caches may take: they cannot take more.
Letters: P planes (key and value of every layer), R rows, H heads, D head size, T target capacity,
S source capacity.
"""

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from service.bundle import TranslationCard

CAPACITY_STEP = 8  # capacities are multiples of it
ALIGNMENT = 64  # bytes, of a line of the processor's caches


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What the caches of a model take."""

    planes: int
    heads: int
    head_size: int
    kind: np.dtype[Any]
    max_target_tokens: int
    max_source_tokens: int

    @classmethod
    def of(cls, card: "TranslationCard", precision: str) -> "CacheSizes":
        """Those of a bundle in this precision."""
        sizes = card.architecture
        return cls(
            planes=2 * sizes.decoder_layers,
            heads=sizes.num_heads,
            head_size=sizes.head_size,
            kind=np.dtype(card.cache_type(precision)),
            max_target_tokens=card.limits.max_target_tokens,
            max_source_tokens=card.limits.max_source_tokens,
        )

    def row_bytes(self, target: int, source: int) -> int:
        """Of one row with room for so many target and source tokens."""
        return self.planes * self.heads * self.head_size * self.kind.itemsize * (target + source)

    @property
    def longest_row_bytes(self) -> int:
        """Of a row with the longest target and source that the model takes."""
        return self.row_bytes(round_up(self.max_target_tokens), round_up(self.max_source_tokens))


def round_up(tokens: int) -> int:
    """The capacity for so many tokens."""
    return max(1, -(-tokens // CAPACITY_STEP)) * CAPACITY_STEP


class CachePool:
    """Self- and cross-attention caches of rows 0 to num_rows - 1, views of one buffer.

    `own` is (P, R, H, T, D), `cross` (P, R, H, S, D); a row's tokens lie at the front of T and S.
    R is `max_rows`, or less where the buffer does not take so many at these capacities. `own` is at
    the buffer's front, `cross` at its end: mostly one becomes longer, and the other may stay.
    """

    own: NDArray[Any]
    cross: NDArray[Any]

    def __init__(self, sizes: CacheSizes, *, max_rows: int, max_bytes: int) -> None:
        self._sizes = sizes
        self._max_rows = max_rows
        self.num_bytes = min(max_bytes, max_rows * sizes.longest_row_bytes)
        # Whether all rows fit whatever their lengths.
        self.takes_all = self.num_bytes == max_rows * sizes.longest_row_bytes
        self._pages = mmap.mmap(-1, self.num_bytes + ALIGNMENT)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # else a row takes 2 MiB as soon as it is touched
            self._pages.madvise(mmap.MADV_NOHUGEPAGE)
        self.own, self.cross = self._views(CAPACITY_STEP, CAPACITY_STEP)

    @property
    def capacities(self) -> tuple[int, int]:
        """T and S."""
        return self.own.shape[3], self.cross.shape[3]

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self.own.shape[1])

    def num_rows_at(self, target: int, source: int) -> int:
        """R, if these were the capacities."""
        return min(self._max_rows, self.num_bytes // self._sizes.row_bytes(target, source))

    def resize(self, target: int, source: int, num_rows: int) -> None:
        """Change the capacities, keeping what the first `num_rows` rows have.

        What a row has beyond a smaller capacity is lost; R must be `num_rows` at least.
        """
        if (target, source) == self.capacities:
            return
        before, after = (self.own, self.cross), self._views(target, source)
        # All is kept before anything changes: where there is no memory for it, nothing has.
        kept = [
            (new, _front(old, num_rows, new.shape[3]))
            for old, new in zip(before, after, strict=True)
            if old.shape != new.shape
        ]
        self.own, self.cross = after
        for new, rows in kept:
            new[:, :num_rows, :, : rows.shape[3]] = rows

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Let row `target` have the first `length` target tokens of row `source`."""
        self.own[:, target, :, :length] = self.own[:, source, :, :length]

    def copy_source(self, source: int, target: int, length: int) -> None:
        """Let row `target` have the `length` source tokens of row `source`."""
        self.cross[:, target, :, :length] = self.cross[:, source, :, :length]

    def _views(self, target: int, source: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """`own` and `cross` at these capacities."""
        sizes, num_rows = self._sizes, self.num_rows_at(target, source)
        before_cross = self.num_bytes - num_rows * sizes.row_bytes(0, source)
        cross_at = -(-before_cross // ALIGNMENT) * ALIGNMENT
        return self._view(0, num_rows, target), self._view(cross_at, num_rows, source)

    def _view(self, offset: int, num_rows: int, length: int) -> NDArray[Any]:
        sizes = self._sizes
        shape = (sizes.planes, num_rows, sizes.heads, length, sizes.head_size)
        count = math.prod(shape)
        return np.frombuffer(self._pages, sizes.kind, count, offset).reshape(shape)


def _front(planes: NDArray[Any], num_rows: int, length: int) -> NDArray[Any]:
    """A copy of the first tokens of the first rows of planes (P, R, H, T, D)."""
    return planes[:, :num_rows, :, :length].copy()
