"""Closed-loop load: so many callers, each with the next call as soon as the last is answered."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

Call = Callable[[Sequence[Any]], Awaitable[int]]  # some units -> how many tokens came back


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
