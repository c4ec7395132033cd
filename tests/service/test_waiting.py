"""Who leaves a queue before whom, and how much work is ahead of a newcomer."""

import random
from dataclasses import dataclass

import pytest

from service.callers import Priority
from service.waiting import BULK_TURN, HORIZON_SECONDS, SLOT_SECONDS, Backlog, Line, Place

NOW = 1000.0
BULK = Priority.BULK


@dataclass(frozen=True, eq=False)
class Waiter:
    name: str
    place: Place


def waiters(
    names: str, start_by: float = 0.0, priority: Priority = Priority.INTERACTIVE
) -> list[Waiter]:
    return [Waiter(name, Place(start_by, priority)) for name in names]


def taken(line: Line[Waiter], count: int = 1000) -> str:
    return "".join(waiter.name for waiter in line.take(count))


def test_who_must_begin_first_leaves_first_and_equals_in_the_order_they_came() -> None:
    line = Line[Waiter]()
    line.add(waiters("cd", 5.0))
    line.add(waiters("e", 9.0))
    line.add(waiters("ab", 1.0))
    assert [waiter.name for waiter in line] == list("abcde")
    assert taken(line, 3) == "abc"
    assert taken(line) == "de"
    assert len(line) == 0


def test_every_eighth_that_leaves_is_bulk_while_both_wait() -> None:
    line = Line[Waiter]()
    line.add(waiters("b" * 3, 0.0, BULK))
    line.add(waiters("i" * 20, 99.0))
    assert BULK_TURN == 8
    expected = "iiiiiiib" * 2 + "iiiiiib"
    one_by_one = "".join(taken(line, 1) for _ in range(23))
    assert one_by_one == expected


def test_the_order_that_is_looked_at_is_the_order_they_leave_in() -> None:
    rng = random.Random(3)
    line = Line[Waiter]()
    for _ in range(300):
        priority = rng.choice(list(Priority))
        line.add(waiters("x", rng.random(), priority))
        if rng.random() < 0.3:
            count = rng.randrange(4)
            expected = [waiter for waiter, _ in zip(line, range(count), strict=False)]
            assert line.take(count) == expected


def test_bulk_alone_leaves_at_once_and_does_not_save_up_turns() -> None:
    line = Line[Waiter]()
    line.add(waiters("b" * 9, 0.0, BULK))
    assert taken(line) == "b" * 9
    line.add(waiters("i" * 9))
    line.add(waiters("b", 0.0, BULK))
    assert taken(line) == "iiiiiiibii"


def test_who_is_put_back_leaves_before_its_equals() -> None:
    line = Line[Waiter]()
    line.add(waiters("abc"))
    first = line.take(2)
    line.put_back(reversed(first))
    assert taken(line) == "abc"


def test_only_those_are_removed_that_wait() -> None:
    line = Line[Waiter]()
    everyone = [*waiters("ab"), *waiters("c", 0.0, BULK)]
    line.add(everyone)
    line.take(1)
    assert {waiter.name for waiter in line.remove(everyone)} == {"b", "c"}
    assert len(line) == 0


def at(seconds: float, priority: Priority = Priority.INTERACTIVE, *, dated: bool = False) -> Place:
    return Place(NOW + seconds, priority, has_deadline=dated)


def test_what_must_begin_later_is_not_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.waiting.monotonic", lambda: NOW)
    backlog = Backlog()
    backlog.change(at(1.0), 10.0, 1)
    backlog.change(at(5.0), 100.0, 1)
    assert backlog.ahead(at(0.5), NOW) == 0.0
    assert backlog.ahead(at(2.0), NOW) == 10.0
    assert backlog.ahead(at(9.0), NOW) == 110.0
    assert backlog.total_work == 110.0
    # When their moments have passed they are still ahead, and leave as much as came.
    assert backlog.ahead(at(20.1), NOW + 20.0) == 110.0
    backlog.change(at(1.0), -10.0, -1)
    assert backlog.ahead(at(20.1), NOW + 20.0) == 100.0
    backlog.change(at(5.0), -100.0, -1)
    assert backlog.total_work == 0.0


def test_the_classes_take_their_turns_in_what_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.waiting.monotonic", lambda: NOW)
    backlog = Backlog()
    backlog.change(at(1.0), 70.0, 1)
    backlog.change(at(1.0, BULK), 1000.0, 1)
    assert backlog.ahead(at(2.0), NOW) == pytest.approx(80.0)  # and an eighth is bulk
    assert backlog.ahead(at(2.0, BULK), NOW) == pytest.approx(1070.0)
    assert backlog.ahead(at(0.5, BULK), NOW) == 0.0  # its turn comes before its like's


def test_work_is_conserved_at_any_place_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    now = NOW
    monkeypatch.setattr("service.waiting.monotonic", lambda: now)
    backlog = Backlog()
    inside: list[tuple[Place, float]] = []
    for _ in range(2000):
        now += rng.choice((0.0, 0.001, 0.2, 3.0, 70.0))
        if inside and rng.random() < 0.5:
            place, work = inside.pop(rng.randrange(len(inside)))
            backlog.change(place, -work, -1)
        else:
            slack = rng.random() * HORIZON_SECONDS
            place = Place(now + slack, rng.choice(list(Priority)), has_deadline=rng.random() < 0.5)
            backlog.ahead(place, now)
            inside.append((place, float(rng.randrange(1, 9))))
            backlog.change(*inside[-1], 1)
        assert backlog.total_units == len(inside)
        assert backlog.total_work == sum(work for _, work in inside)
        last = Place(now + HORIZON_SECONDS + 1)
        mine = [(place, work) for place, work in inside if place.priority is last.priority]
        others = sum(work for _, work in inside) - sum(work for _, work in mine)
        own = sum(work for _, work in mine)
        assert backlog.ahead(last, now) == pytest.approx(own + min(others, own / (BULK_TURN - 1)))


def test_a_newcomer_that_would_make_another_late_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.waiting.monotonic", lambda: NOW)
    backlog = Backlog()
    backlog.change(at(1.0, dated=True), 80.0, 1)  # at 100 a second it is done waiting at 0.8 s
    urgent = at(0.1, dated=True)
    assert not backlog.makes_late(urgent, 10.0, 100.0, NOW)
    assert backlog.makes_late(urgent, 30.0 + 100 * SLOT_SECONDS, 100.0, NOW)
    assert not backlog.makes_late(at(2.0, dated=True), 1000.0, 100.0, NOW)  # behind it
    assert not backlog.makes_late(urgent, 1000.0, 10.0, NOW)  # it is late whoever comes


def test_nobody_is_made_late_who_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.waiting.monotonic", lambda: NOW)
    backlog = Backlog()
    backlog.change(at(1.0), 80.0, 1)
    backlog.change(at(1.0, BULK, dated=True), 80.0, 1)  # of another class
    assert not backlog.makes_late(at(0.1, dated=True), 1000.0, 100.0, NOW)


def test_callers_are_counted_as_long_as_they_have_something_there() -> None:
    backlog = Backlog()
    backlog.change(Place(caller="shop"), 1.0, 3)
    backlog.change(Place(caller="news"), 1.0, 1)
    backlog.change(Place(caller="shop"), -1.0, -3)
    assert (backlog.num_units("shop"), backlog.num_units("news")) == (0, 1)
    assert list(backlog._num_units) == ["news"]  # names do not pile up
