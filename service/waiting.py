"""Who waits ahead of whom, and how much work that is. Knows neither texts nor images.

Interactive units go before bulk ones, but for every eighth; within a class goes first who has the
least slack: the earliest of the moments by which they must begin to meet their deadlines.
"""

import threading
from bisect import insort_left, insort_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.callers import Priority

BULK_TURN = 8  # where both classes wait, every eighth that leaves is bulk

# The slack is accounted in slots of so many seconds, and nobody has more than fit. Who waits for so
# long is therefore never overtaken by who comes then.
SLOT_SECONDS = 0.05
NUM_SLOTS = 1024
HORIZON_SECONDS = SLOT_SECONDS * (NUM_SLOTS - 2)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the units of one call stand."""

    start_by: float = 0.0  # time.monotonic(), at most HORIZON_SECONDS from when it is taken
    priority: Priority = Priority.INTERACTIVE
    caller: str = ""
    has_deadline: bool = False


ANYWHERE = Place()  # where there is no order but that of arrival


class Placed(Protocol):
    """What can wait."""

    @property
    def place(self) -> Place:
        """Where it stands."""


Item = TypeVar("Item", bound=Placed)


class Line(Generic[Item]):
    """Those who wait, in the order in which they leave. Not thread-safe.

    Sorted lists: at the lengths that queues have, moving their tail costs a microsecond.
    """

    def __init__(self) -> None:
        self._waiting: dict[Priority, list[Item]] = {priority: [] for priority in Priority}
        self._since_bulk = 0  # interactive ones that have left while bulk ones waited

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for item, _, _ in self._in_order())

    def add(self, items: Iterable[Item]) -> None:
        """Let them wait, behind all that must begin as early."""
        for item in items:
            insort_right(self._waiting[item.place.priority], item, key=_start_by)

    def put_back(self, items: Iterable[Item]) -> None:
        """Let them wait again, before all that must begin as early; the first of them last."""
        for item in items:
            insort_left(self._waiting[item.place.priority], item, key=_start_by)

    def take(self, count: int) -> list[Item]:
        """The first so many of them leave."""
        taken: list[Item] = []
        num_taken = dict.fromkeys(self._waiting, 0)
        for (item, priority, since_bulk), _ in zip(self._in_order(), range(count), strict=False):
            taken.append(item)
            num_taken[priority] += 1
            self._since_bulk = since_bulk
        for priority, number in num_taken.items():
            del self._waiting[priority][:number]
        return taken

    def remove(self, items: Iterable[Item]) -> list[Item]:
        """Those of them that still wait leave, and are returned."""
        leaving = set(map(id, items))
        removed: list[Item] = []
        for waiting in self._waiting.values():
            found = [item for item in waiting if id(item) in leaving]
            if found:
                waiting[:] = [item for item in waiting if id(item) not in leaving]
                removed += found
        return removed

    def _in_order(self) -> Iterator[tuple[Item, Priority, int]]:
        """Each with its class, and what `_since_bulk` is once it has left."""
        interactive, bulk = self._waiting[Priority.INTERACTIVE], self._waiting[Priority.BULK]
        since_bulk, i, j = self._since_bulk, 0, 0
        while i < len(interactive) or j < len(bulk):
            is_turn_of_bulk = i == len(interactive) or since_bulk >= BULK_TURN - 1
            if j < len(bulk) and is_turn_of_bulk:
                since_bulk = 0
                yield bulk[j], Priority.BULK, since_bulk
                j += 1
            else:
                since_bulk += j < len(bulk)
                yield interactive[i], Priority.INTERACTIVE, since_bulk
                i += 1


def _start_by(item: Placed) -> float:
    return item.place.start_by


class Backlog:
    """The work that waits, by class, slack and caller; thread-safe.

    Work is in whatever unit its rate is measured in: steps of rows, or images. Kept in slots of
    time (N,), so that what is ahead of a newcomer is a sum, however many wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # On the clock; slot n of an array is so many later.
        self._first_slot = int(monotonic() / SLOT_SECONDS)
        self._work = {priority: np.zeros(NUM_SLOTS) for priority in Priority}
        self._with_deadline = {priority: np.zeros(NUM_SLOTS) for priority in Priority}
        self._num_units: Counter[str] = Counter()  # by caller
        self.total_units = 0

    @property
    def total_work(self) -> float:
        """All that waits."""
        with self._lock:
            return float(sum(work.sum() for work in self._work.values()))

    def num_units(self, caller: str) -> int:
        """How many sequences, or images, of a caller wait."""
        return self._num_units[caller]

    def change(self, place: Place, work: float, num_units: int) -> None:
        """So much waits more at this place, or, if negative, less."""
        with self._lock:
            slot = self._slot(place)
            self._work[place.priority][slot] += work
            if place.has_deadline:
                self._with_deadline[place.priority][slot] += work
            self.total_units += num_units
            self._num_units[place.caller] += num_units
            if not self._num_units[place.caller]:
                del self._num_units[place.caller]
            if not self.total_units:
                self._forget_rounding()

    def ahead(self, place: Place, now: float) -> float:
        """The work that leaves before a newcomer at this place."""
        with self._lock:
            self._advance(now)
            if not self.total_units:
                return 0.0
            slot = self._slot(place)
            own = float(self._work[place.priority][: slot + 1].sum())
            others = (work for one, work in self._work.items() if one is not place.priority)
            other = float(sum(work.sum() for work in others))
        if place.priority is Priority.BULK:
            return own + min(other, own * (BULK_TURN - 1))
        return own + min(other, own / (BULK_TURN - 1))

    def makes_late(self, place: Place, work: float, work_a_second: float, now: float) -> bool:
        """Whether any with a deadline, of the same class and with more slack, would begin too late
        behind a newcomer with so much work, and does not already.
        """
        with self._lock:
            self._advance(now)
            if not self.total_units:
                return False
            behind = self._slot(place) + 1
            asked = self._with_deadline[place.priority][behind:] > 0  # (N',)
            if not asked.any():
                return False
            ahead = np.cumsum(self._work[place.priority])[behind:]  # (N',)
            first = self._first_slot + behind
        last_moment = (np.arange(first, first + len(ahead)) + 1) * SLOT_SECONDS - now  # (N',)
        is_late = ahead / work_a_second > last_moment
        becomes_late = (ahead + work) / work_a_second > last_moment
        return bool((asked & becomes_late & ~is_late).any())

    def _slot(self, place: Place) -> int:
        """Where a place is accounted; in the first slot once it should have begun."""
        slot = int(place.start_by / SLOT_SECONDS) - self._first_slot
        return min(max(slot, 0), NUM_SLOTS - 1)

    def _advance(self, now: float) -> None:
        """Let the first slot be the present one, and hold all that should have begun."""
        passed = min(int(now / SLOT_SECONDS) - self._first_slot, NUM_SLOTS - 1)
        if passed > 0 and self.total_units:
            for slots in (*self._work.values(), *self._with_deadline.values()):
                _shift(slots, passed)
        self._first_slot = max(self._first_slot, int(now / SLOT_SECONDS))

    def _forget_rounding(self) -> None:
        for slots in (*self._work.values(), *self._with_deadline.values()):
            slots[:] = 0.0


def _shift(slots: NDArray[np.float64], passed: int) -> None:
    """Merge the first slots into one, and have as many empty ones at the end."""
    merged = slots[: passed + 1].sum()
    slots[:-passed] = slots[passed:].copy()
    slots[-passed:] = 0.0
    slots[0] = merged
