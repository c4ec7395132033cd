"""What a server counts, read from its /metrics as Prometheus does."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from bench.server import RunningServer

GAUGES = (
    "attendant_requests_waiting",
    "attendant_sequences_running",
    "attendant_rows_running",
)
POLL_SECONDS = 0.05
BUGS = "calls that the server counts as INTERNAL or UNKNOWN, decode threads that died"


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one moment."""

    samples: Sequence[Sample]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(one.value for one in self._of(name) if labels.items() <= one.labels.items())

    def by(self, name: str, label: str, **labels: str) -> Counter[str]:
        """The same by another label's values."""
        found: Counter[str] = Counter()
        for one in self._of(name):
            if labels.items() <= one.labels.items() and one.value:
                found[one.labels[label]] += int(one.value)
        return found

    def gauges(self) -> dict[str, float]:
        """What waits and runs."""
        return {name: self.total(name) for name in GAUGES}

    def bugs(self) -> list[str]:
        """What should be nowhere."""
        codes = self.by("grpc_server_handled_total", "grpc_code")
        http = self.by("attendant_http_requests_total", "code")
        deaths = self.total("attendant_decode_thread_deaths_total")
        return [
            *(f"{codes[code]} {code}" for code in ("INTERNAL", "UNKNOWN") if codes[code]),
            *(f"{http[code]} HTTP {code}" for code in ("500",) if http[code]),
            *([f"{deaths:g} decode threads that died"] if deaths else []),
        ]

    def _of(self, name: str) -> list[Sample]:
        return [one for one in self.samples if one.name == name]


async def scrape(server: RunningServer) -> Scrape:
    """Read them now. Raises aiohttp.ClientError."""
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{server.http_target}/metrics")
        text = await response.text()
    families = text_string_to_metric_families(text)
    return Scrape([sample for family in families for sample in family.samples])


async def until(condition: Callable[[], Awaitable[bool]], max_seconds: float) -> float:
    """Wait for it -> seconds that it took. Raises TimeoutError."""
    begun = time.monotonic()
    while not await condition():
        if time.monotonic() - begun > max_seconds:
            raise TimeoutError(f"still waiting after {max_seconds:g} s")
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - begun


async def until_idle(server: RunningServer, max_seconds: float) -> dict[str, float]:
    """Wait until nothing waits or runs -> the gauges then, or as they are after that time."""
    found: dict[str, float] = {}

    async def idle() -> bool:
        found.update((await scrape(server)).gauges())
        return not any(found.values())

    with suppress(TimeoutError):  # the gauges say it
        await until(idle, max_seconds)
    return found
