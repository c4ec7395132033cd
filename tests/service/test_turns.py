"""Who waits to decode an image may leave at any moment."""

import asyncio
from collections.abc import Callable

import pytest

from service.callers import Priority
from service.classification.turns import Turns
from service.waiting import ANYWHERE, Place

TIMEOUT_SECONDS = 10


@pytest.mark.parametrize("leaves_first", [False, True])
async def test_who_leaves_in_the_moment_of_its_turn_costs_neither_its_neighbours_nor_the_turn(
    leaves_first: bool,
) -> None:
    """Regression: the one whose turn ended was told of the leaver, and its call was INTERNAL."""
    turns = Turns(1)
    is_decoded = asyncio.Event()

    async def hold() -> None:
        async with turns.turn(ANYWHERE):
            await is_decoded.wait()

    async with asyncio.timeout(TIMEOUT_SECONDS):
        holder, leaver, patient = (asyncio.create_task(hold()) for _ in range(3))
        await asyncio.sleep(0)
        steps: list[Callable[[], object]] = [is_decoded.set, leaver.cancel]
        for step in reversed(steps) if leaves_first else steps:
            step()
        ended = await asyncio.gather(holder, leaver, patient, return_exceptions=True)
        await hold()  # the turn is free again
    assert ended[0] is None
    assert isinstance(ended[1], asyncio.CancelledError)
    assert ended[2] is None


async def test_a_turn_that_was_given_to_a_leaver_is_passed_on() -> None:
    turns = Turns(1)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async with turns.turn(ANYWHERE):
            leaver = asyncio.create_task(_take(turns))
            await asyncio.sleep(0)
        leaver.cancel()  # the turn is its own, but it does not know yet
        await asyncio.gather(leaver, return_exceptions=True)
        assert leaver.cancelled()
        await _take(turns)


async def test_who_has_least_time_goes_first_and_bulk_last() -> None:
    turns = Turns(1)
    ended: list[str] = []

    async def take(name: str, place: Place) -> None:
        async with turns.turn(place):
            ended.append(name)

    places = {
        "bulk": Place(1.0, Priority.BULK),
        "patient": Place(9.0),
        "urgent": Place(2.0),
    }
    async with asyncio.timeout(TIMEOUT_SECONDS):
        async with turns.turn(ANYWHERE):
            waiting = [asyncio.create_task(take(*one)) for one in places.items()]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
    assert ended == ["urgent", "patient", "bulk"]


async def _take(turns: Turns) -> None:
    async with turns.turn(ANYWHERE):
        pass
