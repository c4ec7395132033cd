"""What the examination needs of an engine under test, and how it asks, whatever the task.

A way is how a sample is asked about: "greedy", "beam 4"; images know one, "labels".
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from service.golden import Answer

AnswerT = TypeVar("AnswerT", bound=Answer)
AnswerT_co = TypeVar("AnswerT_co", bound=Answer, covariant=True)

# At once, when throughput is measured: enough to keep the batches full, without filling the queue.
_MAX_AT_ONCE = 1024

# A call takes milliseconds, so these leave dozens running at a time.
_ARRIVAL_SECONDS = (0.0, 0.0, 0.0, 0.001, 0.003)
_LEAVING_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one way: samples a second when many wait, and the median of one that is alone."""

    per_second: float
    tokens_per_second: float | None  # target tokens; None of images
    alone_seconds: float


@dataclass(frozen=True, slots=True)
class Company(Generic[AnswerT_co]):
    """One answer that was given among others."""

    way: str
    index: int  # of the sample
    answer: AnswerT_co


class Trial(Protocol[AnswerT_co]):
    """One engine, with samples to ask it about; constructing one loads the model."""

    @property
    def unit(self) -> str:
        """What a sample is, as in "sentences"."""

    @property
    def ways(self) -> Sequence[str]:
        """How samples are asked about."""

    @property
    def main_way(self) -> str:
        """That of a request without options."""

    @property
    def degraded(self) -> str | None:
        """Why the engine does not serve as it was meant to; None while it does."""

    def start(self) -> None:
        """Begin to serve, on the running loop."""

    async def stop(self) -> None:
        """End all threads."""

    async def alone(self, way: str) -> Sequence[AnswerT_co]:
        """Every sample by itself."""

    async def together(self) -> Sequence[Company[AnswerT_co]]:
        """Every sample, in every way, among others that come, stay or leave."""

    async def speed(self, way: str, seconds: float) -> Speed:
        """Measured for about so long."""


async def in_company(
    asked: Sequence[tuple[str, int]],
    ask: Callable[[str, int], Coroutine[Any, Any, AnswerT]],
    neighbour: Callable[[Random], Coroutine[Any, Any, object]],
) -> list[Company[AnswerT]]:
    """Ask each (way, index) as a call of its own, and a neighbour with it.

    They come in random order at random moments, and some of the neighbours leave.
    """
    rng = Random(0)
    order = rng.sample(asked, len(asked))
    calls: list[asyncio.Task[AnswerT]] = []
    neighbours: list[asyncio.Task[object]] = []
    for way, index in order:
        neighbours.append(asyncio.create_task(neighbour(rng)))
        calls.append(asyncio.create_task(ask(way, index)))
        await asyncio.sleep(rng.choice(_ARRIVAL_SECONDS))
        if rng.random() < _LEAVING_SHARE:
            rng.choice(neighbours).cancel()
    try:
        answers = await asyncio.gather(*calls)
    finally:
        await asyncio.gather(*calls, *neighbours, return_exceptions=True)
    return [Company(*one, answer) for one, answer in zip(order, answers, strict=True)]


async def measure_many(
    ask: Callable[[int], Awaitable[None]], count: int, seconds: float
) -> tuple[int, float]:
    """Let `ask` answer `count` samples at once, then as many as take `seconds`.

    Returns how many these were, and the seconds they took.
    """
    begun = perf_counter()
    await ask(count)
    rate = count / (perf_counter() - begun)
    count = max(count, min(round(rate * seconds), _MAX_AT_ONCE))
    begun = perf_counter()
    await ask(count)
    return count, perf_counter() - begun


async def measure_alone(ask: Callable[[int], Awaitable[None]], count: int, seconds: float) -> float:
    """The median of the seconds that one of `count` samples takes, asked in turn for so long."""
    taken: list[float] = []
    end = perf_counter() + seconds
    while not taken or perf_counter() < end:
        begun = perf_counter()
        await ask(len(taken) % count)
        taken.append(perf_counter() - begun)
    return median(taken)
