"""An hour of the load that a server is meant to have: nothing grows, nothing slows down."""

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np

from bench.contender import cpu_seconds, machine_cpu_seconds
from bench.server import RunningServer, running_server
from bench.statistics import percentile
from bench.torture.calls import TRANSLATE, call, open_channel, unary
from bench.torture.lines import Line, Size, at_most, none_of
from bench.torture.overload import measure_peak
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Answer,
    Question,
    answer_of,
    answers_alone,
    small_questions,
)
from bench.torture.scrape import BUGS, scrape

LOAD = 0.7  # of the peak
NUM_QUESTIONS = 200
PEAK_SECONDS = 10.0
SAMPLE_SECONDS = 1.0
PARTS = 6  # ten minutes of an hour
MAX_SLOWDOWN = 1.5  # of the last p99 beside the first


@dataclass
class Soaked:
    """What callers saw: (seconds since the start, seconds of the call) of each; and memory."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    mebibytes: list[tuple[float, float]] = field(default_factory=list)
    disturbance: float = 0.0  # other processes' share of the cores

    def p99_milliseconds(self, begin: float, end: float) -> float:
        """Of the calls that began between these seconds."""
        found = [seconds for at, seconds in self.latencies if begin <= at < end]
        return percentile(found, 0.99) * 1e3

    def mebibytes_a_minute(self, begin: float) -> float:
        """The slope of resident memory from there on."""
        times, values = zip(*(pair for pair in self.mebibytes if pair[0] >= begin), strict=True)
        return float(np.polyfit(times, values, 1)[0]) * 60


async def run(size: Size) -> list[Line]:
    """As many minutes as asked for."""
    seconds = size.soak_minutes * 60
    part = seconds / PARTS
    questions = small_questions(NUM_QUESTIONS, size.seed)
    async with running_server() as server:
        alone = await answers_alone(server.target, questions)
        requests = [one.request() for one in questions]
        peak = await measure_peak(server, requests, PEAK_SECONDS)
        rate = LOAD * peak.calls_per_second
        soaked = await _soak(server, alone, rate, seconds, size.seed)
        found = await scrape(server)
    begins = [part * number for number in range(PARTS)]
    p99s = [soaked.p99_milliseconds(begin, begin + part) for begin in begins]
    first, last = p99s[0], p99s[-1]
    memory = [value for _, value in soaked.mebibytes]
    num_calls = len(soaked.latencies)
    load = f"{rate:.0f} calls/s for {size.soak_minutes:g} minutes, {LOAD:.0%} of the peak"
    return [
        Line("load", load),
        none_of("calls that failed or were answered otherwise", soaked.failures, num_calls),
        none_of(BUGS, found.bugs(), num_calls),
        Line(
            "resident memory at the start, at most, at the end",
            f"{memory[0]:.0f}, {max(memory):.0f}, {memory[-1]:.0f} MiB",
        ),
        at_most(
            "slope of resident memory after the first sixth",
            soaked.mebibytes_a_minute(part),
            1.0,
            "MiB/minute",
        ),
        Line("p99 of each sixth", f"{', '.join(f'{p99:.1f}' for p99 in p99s)} ms"),
        at_most("p99 of the last sixth", last / first, MAX_SLOWDOWN, "times that of the first"),
        Line("other processes' share of the cores meanwhile", f"{soaked.disturbance:.1%}"),
    ]


async def _soak(
    server: RunningServer, alone: dict[Question, Answer], rate: float, seconds: float, seed: int
) -> Soaked:
    """So many calls a second on average, whenever they come."""
    rng = random.Random(seed)
    soaked = Soaked()
    running: set[asyncio.Task[None]] = set()
    begun, busy = time.monotonic(), _busy_seconds(server)
    watching = asyncio.create_task(_watch(server, soaked, begun))
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)
        due = begun
        for question in cycle(alone):
            due += rng.expovariate(rate)
            if due > begun + seconds:
                break
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(_ask(rpc, question, alone[question], due - begun, soaked))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    core_seconds = (time.monotonic() - begun) * len(os.sched_getaffinity(0))
    soaked.disturbance = max(0.0, _busy_seconds(server) - busy) / core_seconds
    return soaked


def _busy_seconds(server: RunningServer) -> float:
    """For which others than the server and its callers have had a core so far."""
    return machine_cpu_seconds() - cpu_seconds([os.getpid(), server.pid])


async def _ask(rpc: Any, question: Question, expected: Answer, at: float, soaked: Soaked) -> None:
    outcome = await call(rpc, question.request(), PATIENCE_SECONDS)
    soaked.latencies.append((at, outcome.seconds))
    if outcome.code != "OK":
        soaked.failures.append(outcome.label)
    elif answer_of(outcome.content) != expected:
        soaked.failures.append(f"{answer_of(outcome.content)} instead of {expected}")


async def _watch(server: RunningServer, soaked: Soaked, begun: float) -> None:
    while True:
        soaked.mebibytes.append((time.monotonic() - begun, server.resident_mebibytes()))
        await asyncio.sleep(SAMPLE_SECONDS)
