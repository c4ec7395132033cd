"""What every decode step reads and writes, as arrays whose first axis is the row.

Rows 0 to num_rows - 1 are running. Where some end others begin, and the last ones move into the
gaps that are left, so that a step always runs over a prefix. A sequence of beam size K owns K rows,
anywhere. The caches of a row belong to the runner and follow through `RowMover`.
"""

from collections.abc import Sequence as SequenceOf
from typing import Protocol

import numpy as np

from service.translation.sequence import Sequence


class RowMover(Protocol):
    """Whoever keeps something for a row that is not in the table."""

    def move_row(self, source: int, target: int) -> None:
        """Everything kept for `source` is kept for `target` from now on."""


class RowTable:
    """The rows of one decode worker; R rows of capacity, T target tokens at most."""

    def __init__(self, capacity: int, max_target_tokens: int) -> None:
        self.capacity = capacity
        self.num_rows = 0
        self.tokens = np.zeros((capacity, 1), np.int64)  # (R, 1) the input of the next step
        self.lengths = np.zeros(capacity, np.int32)  # (R,) tokens in the self-attention cache
        self.source_ends = np.zeros(capacity, np.int32)  # (R,) its last position in the source
        self.scores = np.zeros(capacity, np.float32)  # (R,) summed log-probabilities
        # (R, T + 1): the start token, then the target so far: `history[row, :lengths[row] + 1]`.
        self.history = np.zeros((capacity, max_target_tokens + 1), np.int64)
        self.owners: list[Sequence | None] = [None] * capacity
        self._gaps: list[int] = []  # rows under num_rows that nobody has
        self._numbers = (self.tokens, self.lengths, self.source_ends, self.scores)

    @property
    def num_free(self) -> int:
        """Rows that nobody has."""
        return self.capacity - self.num_rows + len(self._gaps)

    def next_lengths(self, sequences: SequenceOf[Sequence]) -> list[int]:
        """The length of each sequence's target with the token that is being chosen."""
        lengths = self.lengths[: self.num_rows].tolist()
        return [lengths[sequence.rows[0]] + 1 for sequence in sequences]

    def allocate(self, sequence: Sequence, start_token_id: int) -> None:
        """Give the sequence a row for each beam, at its start; only the first beam is alive."""
        rows = [self._free_row() for _ in range(sequence.beam_size)]
        sequence.rows = rows
        for row in rows:
            self.owners[row] = sequence
        self.tokens[rows] = start_token_id
        self.history[rows, 0] = start_token_id
        self.lengths[rows] = 0
        self.source_ends[rows] = len(sequence.source_ids) - 1
        self.scores[rows] = -np.inf
        self.scores[rows[0]] = 0.0

    def release(self, sequences: SequenceOf[Sequence]) -> None:
        """Take back the rows of these sequences; `close_gaps` before the next step."""
        for sequence in sequences:
            for row in sequence.rows:
                self.owners[row] = None
            self.lengths[sequence.rows] = 0
            self.source_ends[sequence.rows] = 0
            self._gaps += sequence.rows
            sequence.rows = []

    def clear(self) -> None:
        """Take back all rows, whatever state they are in."""
        for row, owner in enumerate(self.owners):
            if owner is not None:
                owner.rows = []
            self.owners[row] = None
        self.lengths.fill(0)
        self.source_ends.fill(0)
        self.num_rows = 0
        self._gaps.clear()

    def close_gaps(self, mover: RowMover) -> None:
        """Move the last rows into gaps that no sequence has filled since."""
        if not self._gaps:
            return
        remaining = self.num_rows - len(self._gaps)
        movers = (row for row in range(remaining, self.num_rows) if self.owners[row] is not None)
        for gap, row in zip((gap for gap in self._gaps if gap < remaining), movers, strict=True):
            self._move(row, gap)
            mover.move_row(row, gap)
        self.num_rows = remaining
        self._gaps.clear()

    def _free_row(self) -> int:
        if self._gaps:
            return self._gaps.pop()
        self.num_rows += 1
        return self.num_rows - 1

    def _move(self, source: int, target: int) -> None:
        owner = self.owners[source]
        assert owner is not None  # an owned row, by the choice of movers
        owner.rows[owner.rows.index(source)] = target
        self.owners[target], self.owners[source] = owner, None
        length = self.lengths[source] + 1
        self.history[target, :length] = self.history[source, :length]
        for array in self._numbers:
            array[target] = array[source]
