"""Load on a server. Closed loop: so many callers, each with the next call as soon as the last is
answered. Open loop: calls at times of their own, however long the others take.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Call = Callable[[Sequence[Any]], Awaitable[int]]  # some units -> how many tokens came back
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Run:
    """What the callers of one round saw."""

    num_units: int  # sentences or images
    num_tokens: int
    seconds: float
    latencies: tuple[float, ...]  # seconds of each call
    client_cpu_seconds: float
    server_cpu_seconds: float

    @property
    def units_per_second(self) -> float:
        """Throughput."""
        return self.num_units / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds that this share of the calls stayed under."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run_callers(
    call: Call,
    batches: Sequence[Sequence[Any]],
    num_callers: int,
    server_cpu_seconds: Callable[[], float],
) -> Run:
    """Let the callers share the batches, one a call, in order."""
    pending = iter(batches)
    latencies: list[float] = []
    tokens: list[int] = []

    async def caller() -> None:
        for batch in pending:
            begun = time.perf_counter()
            tokens.append(await call(batch))
            latencies.append(time.perf_counter() - begun)

    begun, client, server = time.perf_counter(), time.process_time(), server_cpu_seconds()
    await asyncio.gather(*(caller() for _ in range(num_callers)))
    return Run(
        num_units=sum(map(len, batches)),
        num_tokens=sum(tokens),
        seconds=time.perf_counter() - begun,
        latencies=tuple(latencies),
        client_cpu_seconds=time.process_time() - client,
        server_cpu_seconds=server_cpu_seconds() - server,
    )


def median_run(runs: Sequence[Run]) -> Run:
    """The run whose throughput is the median."""
    middle = statistics.median_low([run.units_per_second for run in runs])
    return next(run for run in runs if run.units_per_second == middle)


def poisson_arrivals(count: int, rate: float, seed: int) -> list[float]:
    """When the calls of an open loop begin: seconds from its start, so many a second on average."""
    rng = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        arrivals.append(now)
    return arrivals


async def run_open_loop(
    calls: Sequence[Callable[[], Awaitable[Answer]]], arrivals: Sequence[float]
) -> list[tuple[float, Answer]]:
    """Begin each call at its time; when it should have begun (the loop's clock), and its answer.

    Latency counts from there: a client that is late itself makes nobody look faster.
    """
    loop = asyncio.get_running_loop()
    origin = loop.time()
    due = [origin + arrival for arrival in arrivals]

    async def begin(call: Callable[[], Awaitable[Answer]], at: float) -> Answer:
        await asyncio.sleep(at - loop.time())
        return await call()

    answers = await asyncio.gather(*map(begin, calls, due))
    return list(zip(due, answers, strict=True))
