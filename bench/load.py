"""Closed-loop load: so many callers, each with the next call as soon as the last is answered."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """What the callers of one run saw."""

    units: int  # sentences or images
    seconds: float
    calls: tuple[float, ...]  # seconds of each

    @property
    def units_per_second(self) -> float:
        """Throughput."""
        return self.units / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds that this share of the calls stayed under."""
        ordered = sorted(self.calls)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run_callers(
    call: Callable[[Sequence[object]], Awaitable[object]],
    batches: Sequence[Sequence[object]],
    num_callers: int,
) -> Latencies:
    """Let the callers share the batches, one a call, in order."""
    pending = iter(batches)
    seconds: list[float] = []

    async def caller() -> None:
        for batch in pending:
            begun = time.perf_counter()
            await call(batch)
            seconds.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(num_callers)))
    total = time.perf_counter() - begun
    return Latencies(sum(map(len, batches)), total, tuple(seconds))


def median_run(runs: Sequence[Latencies]) -> Latencies:
    """The run whose throughput is the median."""
    middle = statistics.median_low([run.units_per_second for run in runs])
    return next(run for run in runs if run.units_per_second == middle)
