"""Who joins the running batch, and when: the queue between the event loop and the decode workers.

The order is that of `service.waiting`. Knows counts of rows and tokens, and neither models nor
search.
"""

import threading
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from itertools import islice
from typing import Protocol

from service.translation.sequence import Sequence
from service.waiting import Backlog, Line

# Where not all that wait fit, so many rows beside the running ones join at once, or so many
# sequences. Measured, default bundle: encoded alone a sentence takes 196 us, among eight 124.
JOINING_SHARE = 1 / 8
JOINING_SEQUENCES = 8
# Where a worker runs BUSY_ROWS, up to COMPANY join it at once, though some of them are another's
# share: in company a sentence is encoded in less. Measured, 64 callers of a sentence each: at base
# size 5 % more sentences a second, with the default bundle 2 to 4 %. To wait for company gained
# little more, and where callers do not wait for each other cost 9 % of the median.
BUSY_ROWS = 16
COMPANY = 4


class Room(Protocol):
    """What a worker still has room for."""

    def admits(self, sequence: Sequence) -> bool:
        """Whether this sequence fits too; its room is then taken."""


class Scheduler:
    """The waiting sequences of one model; thread-safe.

    A worker takes at most `encode_tokens_per_step` source tokens between two steps, so that a
    burst of long texts does not stall those who run, and at most its share of those who wait, so
    that the other workers have work too. Among many rows a few join together, and where there is
    no room for all who wait, they join some at a time: the encoder takes less for several than for
    each.
    """

    def __init__(self, *, num_workers: int, encode_tokens_per_step: int) -> None:
        self._num_workers = num_workers
        self._encode_tokens_per_step = encode_tokens_per_step
        self.backlog = Backlog()
        self._waiting: Line[Sequence] = Line()
        self._changed = threading.Condition()
        self._is_closed = False
        self._num_idle = 0  # workers that wait in `take`

    def add(self, sequences: SequenceOf[Sequence]) -> None:
        """Let sequences wait for their turn, those of one place in this order."""
        with self._changed:
            self._waiting.add(sequences)
            self._enter(sequences)
            self._changed.notify_all()

    def remove(self, sequences: Iterable[Sequence]) -> int:
        """Let those of these sequences that still wait leave the queue; returns how many did."""
        with self._changed:
            removed = self._waiting.remove(sequences)
            self._leave(removed)
        return len(removed)

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue, looked at without its lock."""
        return len(self._waiting)

    @property
    def others_idle(self) -> bool:
        """Whether all workers but the one that asks have nothing to do."""
        return self._num_idle >= self._num_workers - 1

    def close(self) -> None:
        """Let `take` return nothing and never block again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether the workers are to end."""
        return self._is_closed

    def give_back(self, sequences: SequenceOf[Sequence]) -> None:
        """Let sequences wait again that a worker has taken, before all others of their places."""
        with self._changed:
            self._waiting.put_back(reversed(sequences))
            self._enter(sequences)
            self._changed.notify_all()

    def take_all(self) -> list[Sequence]:
        """Everyone who waits, for nobody will serve them."""
        with self._changed:
            waiting = self._waiting.take(len(self._waiting))
            self._leave(waiting)
        return waiting

    def take(self, room: Room, *, num_running: int = 0, block: bool = False) -> list[Sequence]:
        """The next sequences for a worker with this room, cancelled ones among them.

        `num_running` is how many rows it runs. With `block` it waits until there is one; an empty
        answer then means that it is closed.
        """
        with self._changed:
            self._num_idle += 1
            while block and not self._waiting and not self._is_closed:
                self._changed.wait()
            self._num_idle -= 1
            return self._next(room, num_running)

    def _next(self, room: Room, num_running: int) -> list[Sequence]:
        share = -(-len(self._waiting) // self._num_workers)
        if num_running >= BUSY_ROWS:
            share = max(share, COMPANY)
        joining: list[Sequence] = []
        tokens = 0
        for sequence in islice(self._waiting, share):
            if not sequence.is_cancelled:
                tokens += len(sequence.source_ids)
                if joining and tokens > self._encode_tokens_per_step:
                    break
                if not room.admits(sequence):
                    if _too_few(joining, num_running):
                        return []
                    break
            joining.append(sequence)
        taken = self._waiting.take(len(joining))
        self._leave(taken)
        return taken

    def _enter(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.backlog.change(sequence.place, sequence.work, 1)

    def _leave(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.backlog.change(sequence.place, -sequence.work, -1)


def _too_few(joining: SequenceOf[Sequence], num_running: int) -> bool:
    """Whether these should rather wait for more of the running rows to end."""
    num_rows = sum(sequence.beam_size for sequence in joining)
    return num_rows < JOINING_SHARE * num_running and len(joining) < JOINING_SEQUENCES
