"""The door: deadlines, the queue's bound, callers' shares, and what the refused are told."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.admission import HALF_LIFE_SECONDS, LATE_SHARE, Admission, Admitted, Demand, Safety
from service.callers import Priority, current_caller, current_priority
from service.errors import CallerQueueFull, DeadlineUnreachable, Overloaded
from service.rate import WINDOW_SECONDS, WorkRate
from service.waiting import Backlog, Place

NOW = 1000.0


class Door:
    """An admission at a stopped clock, and whoever was let in waits for ever."""

    def __init__(self, *, work_a_second: float | None = 100.0, **given: float) -> None:
        self.backlog = Backlog()
        self.outcomes: list[bool] = []
        self.admission = Admission(
            self.backlog,
            unit="sequences",
            max_queued=int(given.get("max_queued", 100)),
            caller_share=given.get("caller_share", 0.5),
            on_ended=self.outcomes.append,
        )
        if work_a_second is not None:
            self.admission.rate.suppose(work_a_second)

    def enter(
        self, num_units: int = 1, work: float = 0.0, deadline: float | None = None, **seconds: float
    ) -> Admitted:
        admitted = self.admission.admit(Demand(num_units, work, **seconds), deadline)
        self.backlog.change(admitted.place, work, num_units)
        return admitted


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOW]
    for module in ("service.admission", "service.waiting"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: now[0])
    return now


@contextmanager
def called_by(name: str, priority: Priority = Priority.INTERACTIVE) -> Iterator[None]:
    caller, urgency = current_caller.set(name), current_priority.set(priority)
    yield
    current_caller.reset(caller)
    current_priority.reset(urgency)


def test_a_deadline_that_an_empty_queue_would_not_meet_gets_no_hint() -> None:
    with pytest.raises(DeadlineUnreachable) as refused:
        Door().enter(work=50.0, deadline=0.6, seconds=0.2, seconds_alone=0.2)
    assert refused.value.message == (
        "the answer would take 0.700 s, 0.000 of them waiting; the deadline is in 0.600 s"
    )
    assert refused.value.retry_after_seconds is None


def test_a_deadline_that_the_queue_stands_in_the_way_of_gets_the_time_it_needs(
    clock: list[float],
) -> None:
    door = Door()
    door.enter(work=200.0)
    door.enter(work=100.0, deadline=1.6)
    clock[0] += 0.7
    with pytest.raises(DeadlineUnreachable, match=r"1\.200 s, 1\.000 of them waiting") as refused:
        door.enter(work=20.0, deadline=1.0)
    late = 1.2 * Safety().factor - 1.0
    assert refused.value.retry_after_seconds == pytest.approx(late)
    assert door.backlog.total_units == 2


def test_who_has_no_deadline_waits_however_long_and_lets_the_urgent_go_first() -> None:
    door = Door()
    for _ in range(50):
        door.enter(work=1000.0)
    urgent = door.enter(work=10.0, deadline=1.0)
    assert urgent.seconds == pytest.approx(0.1)


def test_nobody_is_let_in_for_whom_another_would_miss_its_deadline() -> None:
    door = Door()
    door.enter(work=70.0)
    door.enter(work=90.0, deadline=1.4)
    door.enter(work=10.0, deadline=0.5)
    with pytest.raises(DeadlineUnreachable, match="others would miss their deadlines") as refused:
        door.enter(work=50.0, deadline=0.95)
    assert refused.value.retry_after_seconds == pytest.approx(0.5)


def test_a_full_queue_says_when_it_will_have_room_by_the_work_in_it() -> None:
    door = Door(max_queued=10)
    door.enter(num_units=8, work=400.0)
    with pytest.raises(
        Overloaded, match="8 sequences wait, 5 more would pass the limit of 10"
    ) as e:
        door.enter(num_units=5)
    assert e.value.retry_after_seconds == pytest.approx(3 * 50.0 / 100.0)
    with pytest.raises(Overloaded, match="the call has 11 sequences, the queue takes 10") as never:
        door.enter(num_units=11)
    assert never.value.retry_after_seconds is None


def test_where_nothing_was_measured_yet_the_hint_is_a_second_and_deadlines_are_believed() -> None:
    door = Door(work_a_second=None, max_queued=1)
    door.enter(work=1e9, deadline=0.1)
    with pytest.raises(Overloaded) as refused:
        door.enter()
    assert refused.value.retry_after_seconds == 1.0


def test_a_caller_with_a_name_fills_no_more_than_its_share() -> None:
    door = Door(max_queued=10)
    with called_by("shop"):
        door.enter(num_units=4, work=40.0)
        with pytest.raises(CallerQueueFull) as refused:
            door.enter(num_units=2)
        assert refused.value.message == (
            "4 sequences of 'shop' wait, 2 more would pass a caller's limit of 5"
        )
        assert refused.value.retry_after_seconds == pytest.approx(0.1)
        with pytest.raises(CallerQueueFull) as never:
            door.enter(num_units=6)
        assert never.value.retry_after_seconds is None
    with called_by("news"):
        door.enter(num_units=5)
    door.enter(num_units=1)  # without a name


def test_bulk_waits_behind_interactive_calls_and_hardly_delays_them() -> None:
    door = Door()
    with called_by("", Priority.BULK):
        door.enter(work=10_000.0)
    assert door.enter(work=10.0, deadline=0.5).seconds == pytest.approx(0.1)
    with called_by("", Priority.BULK), pytest.raises(DeadlineUnreachable):
        door.enter(work=10.0, deadline=40.0)


def test_met_and_missed_deadlines_are_told_but_not_callers_who_left(clock: list[float]) -> None:
    door = Door()
    early, late, expired, left = (door.enter(deadline=1.0) for _ in range(4))
    undated = door.enter()
    clock[0] += 0.5
    assert door.admission.ended(early, is_answered=True)
    assert not door.admission.ended(left, is_answered=False)
    assert door.admission.ended(undated, is_answered=True)
    assert not door.admission.ended(undated, is_answered=False)
    clock[0] += 0.6
    assert not door.admission.ended(late, is_answered=True)
    assert not door.admission.ended(expired, is_answered=False)
    assert door.outcomes == [True, False, False]


def test_the_wait_that_is_shown_is_that_of_who_comes_now_and_of_nobody_once_all_is_gone() -> None:
    door = Door()
    wait_seconds = door.admission.watch_wait()
    assert wait_seconds() == 0.0
    door.enter(work=250.0)
    assert wait_seconds() == pytest.approx(2.5)
    del door
    assert wait_seconds() == 0.0


def test_what_was_learned_under_load_is_forgotten_while_nobody_is_served(
    clock: list[float],
) -> None:
    """An idle server went on to refuse every call with a deadline that it had missed in a flood."""
    door = Door()
    served = door.enter(deadline=1e-9, work=0.0)
    for _ in range(100):
        door.admission.give_up(door.admission.admit(Demand(1, 100.0), 8.0))
    with pytest.raises(DeadlineUnreachable):
        door.enter(work=100.0, deadline=2.0)
    clock[0] += 60.0
    assert door.admission.forget() == 1.0  # somebody is being served
    with pytest.raises(DeadlineUnreachable):
        door.enter(work=100.0, deadline=2.0)

    door.admission.leave(served)
    clock[0] += HALF_LIFE_SECONDS
    assert door.admission.forget() == pytest.approx(0.5)
    clock[0] += 20 * HALF_LIFE_SECONDS
    door.admission.forget()
    door.enter(work=100.0, deadline=2.0)


def test_who_gets_a_hint_would_be_let_into_an_empty_queue(clock: list[float]) -> None:
    rng = random.Random(3)
    hints = 0
    for _ in range(300):
        deadline = rng.uniform(0.1, 2.0)
        asked = {"work": 50.0, "seconds_alone": rng.uniform(0.0, 0.5)}
        with pytest.raises(DeadlineUnreachable) as refused:
            Door().enter(**asked, deadline=deadline, seconds=3.0)
        if refused.value.retry_after_seconds is None:
            with pytest.raises(DeadlineUnreachable):
                Door().enter(**asked, deadline=deadline, seconds=asked["seconds_alone"])
        else:
            hints += 1
            Door().enter(**asked, deadline=deadline, seconds=asked["seconds_alone"])
    assert 30 < hints < 270


def test_bulk_leaves_room_for_interactive_calls() -> None:
    door = Door(max_queued=16)
    with called_by("", Priority.BULK):
        door.enter(num_units=10)
        door.enter(num_units=4)
        with pytest.raises(Overloaded, match=r"14 sequences wait, 1 more .* limit of 14"):
            door.enter(num_units=1)
    door.enter(num_units=2)
    with called_by("", Priority.BULK):
        Door(max_queued=16).enter(num_units=16)  # with nobody else there


def test_predictions_that_prove_too_short_are_stretched_until_few_are() -> None:
    rng = random.Random(5)
    safety = Safety()
    late = 0
    for number in range(20_000):
        admitted = Admitted(Place(), NOW, 1.0, 2.0)
        actual = rng.uniform(0.5, 1.8)
        late += number >= 2_000 and actual > safety.factor
        safety.learn(admitted, actual)
    assert safety.factor == pytest.approx(1.787, abs=0.1)  # the quantile itself
    assert late / 18_000 == pytest.approx(LATE_SHARE, abs=LATE_SHARE / 2)


def test_a_call_that_was_given_up_teaches_as_one_that_was_late() -> None:
    door = Door()
    admitted = door.enter(work=100.0, deadline=2.0)
    before = door.admission.admit(Demand(1, 1.0), 2.0).last_moment
    for _ in range(10):
        error = door.admission.give_up(admitted)
    assert "1.000 s were predicted" in error.message
    assert "the deadline was in 2.000 s" in error.message
    assert door.outcomes == [False] * 10
    with pytest.raises(DeadlineUnreachable):  # that was let in before
        door.enter(work=100.0, deadline=2.0)
    assert before == NOW + 2.0


def test_predictions_far_from_their_deadlines_teach_nothing() -> None:
    safety = Safety()
    for deadline in (None, 100.0):
        safety.learn(Admitted(Place(), NOW, 1.0, deadline), 50.0)
    assert safety.factor == Safety().factor


def test_a_rate_is_that_of_the_time_in_which_others_wait() -> None:
    rate = WorkRate()
    assert rate.seconds(7.0) == 0.0
    now = 0.0
    for _ in range(100):  # now and then one, with nobody behind it
        now += 5.0
        rate.finished(1.0, others_wait=False, now=now)
    assert rate.work_a_second is None
    for _ in range(200):
        now += WINDOW_SECONDS / 4
        rate.finished(10.0, others_wait=True, now=now)
    assert rate.seconds(400.0) == pytest.approx(WINDOW_SECONDS * 10)
    for _ in range(200):  # it has become slower
        now += WINDOW_SECONDS / 2
        rate.finished(10.0, others_wait=True, now=now)
    assert rate.seconds(200.0) == pytest.approx(WINDOW_SECONDS * 10, rel=0.01)


def test_a_guess_counts_until_there_is_a_sample() -> None:
    rate = WorkRate()
    rate.suppose(5.0)
    assert rate.work_a_second == 5.0
    for number in range(3):
        rate.finished(10.0, others_wait=True, now=number * 0.1 + 1)
    assert rate.work_a_second == pytest.approx(100.0)
    rate.suppose(5.0)
    assert rate.work_a_second == pytest.approx(100.0)
