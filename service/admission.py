"""The door: who is let in, who is refused at once, and when those may come back.

A call is refused that would not be answered before its deadline, or would make another too late,
or finds the queue full. Counts work in whatever unit its rate is measured in; knows neither texts
nor images. Lives on the event loop.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from service.callers import Priority, current_caller, current_priority
from service.errors import (
    CallerQueueFull,
    DeadlineUnreachable,
    Overloaded,
    ResourceExhausted,
)
from service.rate import WorkRate
from service.waiting import HORIZON_SECONDS, Backlog, Place

# The slack of a call without a deadline: it gives way to more urgent ones for so long.
PATIENCE_SECONDS = 30.0

# A retry hint where nothing has been measured yet, and the shortest there is.
UNMEASURED_SECONDS = 1.0
SHORTEST_SECONDS = 0.001

# A caller whose time is over says so before the server's own clock does, which began later.
DEADLINE_MARGIN_SECONDS = 0.02

# The share of calls whose answers may come later than predicted times `Safety.factor`.
LATE_SHARE = 0.01

# What was learned under load is forgotten by half in so long, while nobody is served: else a server
# that has nothing to do would go on to refuse what it could not do then.
HALF_LIFE_SECONDS = 0.5

# Of the queue's room, while anybody waits, for all but bulk.
BULK_SHARE = 0.875


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call asks for."""

    num_units: int  # sequences or images, as the queue's limit counts them
    work: float
    seconds: float = 0.0  # of its longest unit, at the present load, once it runs
    seconds_alone: float = 0.0  # of its longest unit, with nobody else there


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A call that was let in: its place, and what was predicted."""

    place: Place
    at: float  # time.monotonic()
    seconds: float  # to its answer, as predicted
    deadline_seconds: float | None
    last_moment: float = math.inf  # time.monotonic(): to begin, and be answered in time


class Safety:
    """By how much predictions have to be multiplied so that few answers come later.

    The quantile 1 - LATE_SHARE of actual over predicted seconds, followed by small steps: up by
    STEP times that quantile where an answer is later, down by STEP times the rest where it is not
    (stochastic approximation of a quantile, Robbins and Monro 1951).
    """

    START = 1.5  # a burst slows work down before the rate tells
    STEP = 0.05
    LARGEST = 4.0
    # Predictions of less than this share of the deadline decide nothing, and teach nothing.
    DECISIVE_SHARE = 0.125

    def __init__(self) -> None:
        self.factor = self.START

    @property
    def at_rest(self) -> float:
        """What it is when all that was learned under load is forgotten."""
        return min(self.factor, self.START)

    def forget(self, kept: float) -> None:
        """Keep this share of what the factor is over `at_rest`."""
        self.factor = self.at_rest + (self.factor - self.at_rest) * kept

    def learn(self, admitted: Admitted, seconds: float) -> None:
        """An admitted call's answer came after so long."""
        deadline = admitted.deadline_seconds
        if deadline is None or admitted.seconds < self.DECISIVE_SHARE * deadline:
            return
        is_later = seconds > self.factor * admitted.seconds
        self.factor *= 1 + self.STEP * (1 - LATE_SHARE if is_later else -LATE_SHARE)
        self.factor = min(max(self.factor, 1.0), self.LARGEST)


class Admission:
    """One model's door. What is let in enters and leaves the backlog elsewhere."""

    def __init__(
        self,
        backlog: Backlog,
        *,
        unit: str,
        max_queued: int,
        caller_share: float,
        on_ended: Callable[[bool], None] = lambda is_met: None,
    ) -> None:
        """`unit` is the plural of what is counted.

        `on_ended` hears of every admitted call with a deadline whether it was met.
        """
        self.max_queued = max_queued
        self.rate = WorkRate()
        self._caller_share = caller_share
        self._backlog = backlog
        self._unit = unit
        self._on_ended = on_ended
        self._safety = Safety()
        self._inside: set[Admitted] = set()
        self._looked_at = monotonic()  # by `forget`

    def forget(self) -> float:
        """How much of what was learned under load still counts, of what counted at the last look.

        1 while anybody is served.
        """
        now = monotonic()
        rested = 0.0 if self._inside else now - self._looked_at
        self._looked_at = now
        kept = float(0.5 ** (rested / HALF_LIFE_SECONDS))
        self._safety.forget(kept)
        return kept

    def wait_seconds(self) -> float:
        """How long an interactive call would wait that came now and was not urgent."""
        now = monotonic()
        return self.rate.seconds(self._backlog.ahead(Place(now + PATIENCE_SECONDS), now))

    def watch_wait(self) -> Callable[[], float]:
        """`wait_seconds` for a gauge, which keeps no model in memory; 0 once this is gone."""
        seen = weakref.ref(self)

        def wait_seconds() -> float:
            admission = seen()
            return 0.0 if admission is None else admission.wait_seconds()

        return wait_seconds

    def admit(self, demand: Demand, deadline_seconds: float | None) -> Admitted:
        """Let a call in whole or refuse it whole; `ended`, `give_up` or `leave` is told of its end.

        Raises Overloaded, CallerQueueFull or DeadlineUnreachable.
        """
        admitted = self.consider(demand, deadline_seconds)
        self._inside.add(admitted)
        return admitted

    def consider(self, demand: Demand, deadline_seconds: float | None) -> Admitted:
        """What `admit` would return. Raises what it would raise."""
        caller = current_caller.get()
        self._check_room(demand)
        if caller:
            self._check_share(demand, caller)
        now = monotonic()
        slack = PATIENCE_SECONDS if deadline_seconds is None else deadline_seconds
        slack = min(max(slack - demand.seconds, 0.0), HORIZON_SECONDS)
        place = Place(now + slack, current_priority.get(), caller, deadline_seconds is not None)
        wait = self.rate.seconds(self._backlog.ahead(place, now))
        seconds = wait + self.rate.seconds(demand.work) + demand.seconds
        if deadline_seconds is not None:
            self._check_deadline(demand, wait, seconds, deadline_seconds)
            self._check_others(demand, place, now)
            last_moment = now + deadline_seconds - demand.seconds * self._safety.factor
            return Admitted(place, now, seconds, deadline_seconds, last_moment)
        return Admitted(place, now, seconds, None)

    def leave(self, admitted: Admitted) -> None:
        """A call has ended of which nothing is to be learned: it was no fault of the load."""
        self._inside.discard(admitted)
        self._looked_at = monotonic()

    def ended(self, admitted: Admitted, *, is_answered: bool) -> bool:
        """A call that was let in has its answer, or nobody waits for it any more.

        Returns whether it was answered, and by its deadline.
        """
        self.leave(admitted)
        deadline = admitted.deadline_seconds
        if deadline is None:
            return is_answered
        seconds = monotonic() - admitted.at
        is_met = is_answered and seconds <= deadline
        # Else its caller has left, which says nothing.
        if is_answered or seconds >= deadline - DEADLINE_MARGIN_SECONDS:
            self._safety.learn(admitted, seconds)
            self._on_ended(is_met)
        return is_met

    def give_up(self, admitted: Admitted) -> DeadlineUnreachable:
        """What a call is told that was let in, and of which some still waits at the last moment."""
        self.leave(admitted)
        self._safety.learn(admitted, math.inf)
        self._on_ended(False)
        waited = monotonic() - admitted.at
        return DeadlineUnreachable(
            f"{waited:.3f} s were not enough to begin, {admitted.seconds:.3f} s were predicted to "
            f"the answer; the deadline was in {admitted.deadline_seconds or 0.0:.3f} s",
            # What kept it waiting is not in the queue any more, but may still run.
            retry_after_seconds=max(self.wait_seconds(), waited, SHORTEST_SECONDS),
        )

    def _check_room(self, demand: Demand) -> None:
        num_waiting = self._backlog.total_units
        limit = self.max_queued
        if num_waiting and current_priority.get() is Priority.BULK:
            limit = max(int(BULK_SHARE * limit), 1)
        excess = num_waiting + demand.num_units - limit
        if excess <= 0:
            return
        if demand.num_units > self.max_queued:
            raise Overloaded(
                f"the call has {demand.num_units} {self._unit}, "
                f"the queue takes {self.max_queued} at most"
            )
        raise Overloaded(
            f"{num_waiting} {self._unit} wait, {demand.num_units} more would pass the limit of "
            f"{limit}",
            retry_after_seconds=self._drain_seconds(excess),
        )

    def _check_share(self, demand: Demand, caller: str) -> None:
        limit = max(int(self._caller_share * self.max_queued), 1)
        num_waiting = self._backlog.num_units(caller)
        excess = num_waiting + demand.num_units - limit
        if excess > 0:
            raise CallerQueueFull(
                f"{num_waiting} {self._unit} of {caller!r} wait, {demand.num_units} more would "
                f"pass a caller's limit of {limit}",
                retry_after_seconds=(
                    None if demand.num_units > limit else self._drain_seconds(excess)
                ),
            )

    def _check_deadline(
        self, demand: Demand, wait: float, seconds: float, deadline_seconds: float
    ) -> None:
        late = seconds * self._safety.factor - deadline_seconds
        if late < 0:
            return
        # As it would be predicted with nobody else there.
        alone = (self.rate.seconds(demand.work) + demand.seconds_alone) * self._safety.at_rest
        raise DeadlineUnreachable(
            f"the answer would take {seconds:.3f} s, {wait:.3f} of them waiting; "
            f"the deadline is in {deadline_seconds:.3f} s",
            retry_after_seconds=None if alone >= deadline_seconds else max(late, SHORTEST_SECONDS),
        )

    def _check_others(self, demand: Demand, place: Place, now: float) -> None:
        work_a_second = self.rate.work_a_second
        if work_a_second is None:
            return
        if self._backlog.makes_late(place, demand.work, work_a_second, now):
            seconds = self.rate.seconds(demand.work)
            raise DeadlineUnreachable(
                f"the call takes {seconds:.3f} s, for which others would miss their deadlines, "
                "who were here before",
                retry_after_seconds=max(seconds, SHORTEST_SECONDS),
            )

    def _drain_seconds(self, num_units: int) -> float:
        """When so many units will have left the queue, at the work that those in it ask for."""
        if self.rate.work_a_second is None:
            return UNMEASURED_SECONDS
        work = self._backlog.total_work / max(self._backlog.total_units, 1) * num_units
        return max(self.rate.seconds(work), SHORTEST_SECONDS)


def reasons() -> tuple[str, ...]:
    """Why a call may be refused here."""
    refusals: tuple[type[ResourceExhausted], ...] = (
        Overloaded,
        CallerQueueFull,
        DeadlineUnreachable,
    )
    return tuple(one.reason for one in refusals)
