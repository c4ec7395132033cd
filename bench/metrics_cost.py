"""What the metrics cost: the engine with the collectors, scraped, and with ones that do nothing.

    python -m bench.metrics_cost [--rounds 9] [--calls 4000] [--callers 64] [--beam-size 1]

The model is the default bundle, whose steps are the shortest there are, and each call is one
sentence: both make the cost as large as it gets. Prints medians of rounds that take turns.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from bench.machine import machine
from bench.models import DEFAULT, SENTENCES
from bench.sentences import repeat
from bench.statistics import Ratio, alternate
from service.bundle import Bundle
from service.metric_kinds import declarations
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import Segmentation, merge_options

SCRAPE_SECONDS = 1.0  # fifteen times as often as Prometheus does by default


class NullCollector:
    """Takes what a collector takes and keeps nothing."""

    def labels(self, *values: object) -> "NullCollector":
        """Itself."""
        return self

    def ignore(self, value: object = None) -> None:
        """Nothing."""

    inc = dec = set = observe = set_function = ignore


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took."""

    calls_a_second: float
    cpu_seconds: float  # a call


def null_metrics() -> Metrics:
    """Metrics that count nothing."""
    collectors: dict[str, Any] = {name: NullCollector() for name, _ in declarations(Metrics)}
    return Metrics(registry=CollectorRegistry(), **collectors)


def main() -> None:
    """Measure and print."""
    chosen = _parser().parse_args()
    counting, idle = asyncio.run(_measure(chosen)).values()
    rate = _ratio(counting, idle, "calls_a_second")
    cpu = _ratio(counting, idle, "cpu_seconds")
    print(
        f"{machine()}\n\n{chosen.calls} calls a round, {chosen.callers} callers, beam "
        f"{chosen.beam_size}, {chosen.rounds} rounds each, a scrape every {SCRAPE_SECONDS:g} s: "
        f"{_median(counting, 'calls_a_second'):,.0f} calls/s with metrics, "
        f"{_median(idle, 'calls_a_second'):,.0f} without: {rate}; processor time a call "
        f"{_median(counting, 'cpu_seconds') * 1e6:,.0f} us with, "
        f"{_median(idle, 'cpu_seconds') * 1e6:,.0f} without: {cpu}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.metrics_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=4000, help="a round")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--beam-size", type=int, default=1)
    return parser


async def _measure(chosen: argparse.Namespace) -> dict[str, list[Round]]:
    metrics = {"with": Metrics.create(), "without": null_metrics()}
    engines = {
        name: TranslationEngine(
            Bundle.open(DEFAULT.bundle), settings=Settings(device="cpu"), metrics=one
        )
        for name, one in metrics.items()
    }
    for engine in engines.values():
        engine.start()
    texts = repeat(SENTENCES.read_text(encoding="utf-8").splitlines(), chosen.calls)
    turns = {name: partial(_round, engines[name], metrics[name], texts, chosen) for name in engines}
    try:
        return await alternate(turns, chosen.rounds)
    finally:
        for engine in engines.values():
            await engine.stop()


async def _round(
    engine: TranslationEngine, metrics: Metrics, texts: list[str], chosen: argparse.Namespace
) -> Round:
    pending = iter(texts)
    scraping = asyncio.create_task(_scrape(metrics))
    begun, begun_cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_call(engine, pending, chosen.beam_size) for _ in range(chosen.callers)))
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
    scraping.cancel()
    with suppress(asyncio.CancelledError):
        await scraping
    return Round(len(texts) / seconds, cpu_seconds / len(texts))


async def _call(engine: TranslationEngine, pending: Iterator[str], beam_size: int) -> None:
    options = merge_options(engine.default_options, engine.limits, beam_size=beam_size)
    for text in pending:
        await engine.translate([text], options, Segmentation.NONE)


async def _scrape(metrics: Metrics) -> None:
    while True:
        metrics.render()
        await asyncio.sleep(SCRAPE_SECONDS)


def _median(rounds: list[Round], name: str) -> float:
    return statistics.median(getattr(one, name) for one in rounds)


def _ratio(rounds: list[Round], others: list[Round], name: str) -> str:
    ratio = Ratio.of(*([getattr(one, name) for one in side] for side in (rounds, others)))
    return f"{ratio.value:.3f} ({ratio.lowest:.3f} to {ratio.highest:.3f})"


if __name__ == "__main__":
    main()
