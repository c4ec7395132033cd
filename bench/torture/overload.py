"""Ten times what a server can do: it does what it can in time, and refuses the rest at once."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice

import numpy as np

from bench.load import poisson_arrivals, run_open_loop
from bench.server import RunningServer, running_server
from bench.statistics import percentile
from bench.torture.calls import TRANSLATE, Outcome, call, open_channel, unary
from bench.torture.lines import Line, Size, at_least, at_most, none_of
from bench.torture.questions import PATIENCE_SECONDS, Question, big_questions, sentences
from bench.torture.scrape import BUGS, Scrape, scrape

NUM_QUESTIONS = 64
NUM_CALLERS = 16  # of the closed loop that finds the peak
NUM_CONNECTIONS = 8
TIMES_CAPACITY = 10
DEADLINE_SECONDS = 2.0
SAMPLE_SECONDS = 0.5  # of memory
SETTLED_AFTER = 0.25  # of the overload: allocators have seen the largest by then
NUM_PROBES = 20
HURRIED, SHORTEST_USUAL_SECONDS = 10.0, 0.005
PROBE_SECONDS = 0.05
NORMAL = 2.0  # times the usual median
NORMAL_IN_A_ROW = 3
MEBIBYTE = 1 << 20
MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Peak:
    """What a closed loop gets out of a server."""

    calls_per_second: float


@dataclass(frozen=True, slots=True)
class Flood:
    """What callers saw of an overload, and the server's memory."""

    outcomes: Sequence[Outcome]
    seconds: float  # in which calls began
    mebibytes: Sequence[tuple[float, float]]  # seconds since its start, resident memory
    probes: Sequence[Outcome]  # calls of one sentence, before and after
    usual: float  # seconds that such a call takes with nobody else there
    normal_after: float  # seconds from its end; infinite where it was not again

    @property
    def refused(self) -> list[Outcome]:
        """At the door."""
        return [one for one in self.outcomes if one.code == "RESOURCE_EXHAUSTED"]

    @property
    def admitted(self) -> list[Outcome]:
        """Answered or too late."""
        return [one for one in self.outcomes if one.code in ("OK", "DEADLINE_EXCEEDED")]

    @property
    def good(self) -> list[Outcome]:
        """Answered in time."""
        return [one for one in self.outcomes if one.code == "OK"]

    @property
    def mebibytes_a_minute(self) -> float:
        """The slope of resident memory, once it has settled."""
        settled = [pair for pair in self.mebibytes if pair[0] >= SETTLED_AFTER * self.seconds]
        times, values = zip(*settled, strict=True)
        return float(np.polyfit(times, values, 1)[0]) * 60


async def run(size: Size) -> list[Line]:
    """On a server as it is by default."""
    requests = [one.request() for one in big_questions(NUM_QUESTIONS, size.seed)]
    async with running_server() as server:
        peak = await measure_peak(server, requests, size.of(10.0, 3.0))
        before = await scrape(server)
        flood = await overload(server, requests, peak, size.of(60.0, 10.0), size.seed)
        after = await scrape(server)
        let_in_after = flood.normal_after + await _seconds_to_let_in(server, flood.usual)
    return [
        *promises(peak, flood, size),
        at_most(
            "one alone is let in again with a deadline of ten times the usual after",
            let_in_after,
            size.of(2.0, 8.0),
            "s",
        ),
        *_counts(flood, before, after),
        none_of(BUGS, after.bugs(), len(flood.outcomes)),
        await _refusal_cost(requests, size.of(5_000, 1_000)),
    ]


def promises(peak: Peak, flood: Flood, size: Size) -> list[Line]:
    """What callers see; in a quick run, wide enough for a machine that others use too."""
    goodput = len(flood.good) / flood.seconds / peak.calls_per_second
    times = [one.seconds if one.code == "OK" else float("inf") for one in flood.admitted]
    p99 = percentile(times, 0.99) if times else float("inf")
    refusals = [one.seconds for one in flood.refused]
    others = Counter(one.label for one in flood.outcomes)
    return [
        Line(
            "peak of a closed loop, 16 sentences a call, beam 4",
            f"{peak.calls_per_second:.1f} calls/s",
        ),
        Line("how calls ended", ", ".join(f"{label} {n:,}" for label, n in others.most_common())),
        at_least("goodput at ten times that", goodput, size.of(0.9, 0.3), "of the peak"),
        Line("p99 of those admitted", f"{p99:.3g} s"),
        at_least(
            f"within their deadline of {DEADLINE_SECONDS:g} s, of {len(flood.admitted):,} admitted",
            len(flood.good) / max(len(flood.admitted), 1),
            size.of(0.99, 0.9),
            "",
        ),
        at_most(
            "median of a refusal, at the caller",
            statistics.median(refusals) * 1e3 if refusals else float("inf"),
            size.of(50.0, 400.0),
            "ms",
        ),
        at_most(
            "slope of resident memory", flood.mebibytes_a_minute, size.of(1.0, 100.0), "MiB/minute"
        ),
        at_most(
            "latency of one alone is normal again after", flood.normal_after, size.of(2.0, 8.0), "s"
        ),
    ]


async def _seconds_to_let_in(server: RunningServer, usual: float) -> float:
    """Until several calls in a row are not refused whose deadline an idle server meets with ease.

    Until then what it learned under load counts. Infinite where they are refused for long.
    """
    deadline = HURRIED * max(usual, SHORTEST_USUAL_SECONDS)
    begun = time.monotonic()
    num_let_in = 0
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)
        while (seconds := time.monotonic() - begun) < PATIENCE_SECONDS:
            one = await call(rpc, _probe(), deadline)
            num_let_in = 0 if one.code == "RESOURCE_EXHAUSTED" else num_let_in + 1
            if num_let_in == NORMAL_IN_A_ROW:
                return seconds
            await asyncio.sleep(PROBE_SECONDS)
    return float("inf")


async def _refusal_cost(requests: Sequence[bytes], num_calls: int) -> Line:
    """A server whose queue takes one sentence, of calls that have more, does nothing but refuse."""
    async with running_server("--max-queued-sequences", "1") as server:
        before = server.cpu_seconds()
        outcomes = await _closed_loop(server, requests, num_calls)
        microseconds = (server.cpu_seconds() - before) / num_calls / MICRO
    labels = {one.label for one in outcomes}
    ok = labels == {"RESOURCE_EXHAUSTED QUEUE_FULL"}
    return Line(
        "processor time of a refusal, of a server that refuses all",
        f"{microseconds:.0f} us of {', '.join(labels)}",
        "RESOURCE_EXHAUSTED QUEUE_FULL alone",
        ok,
    )


async def _closed_loop(
    server: RunningServer, requests: Sequence[bytes], num_calls: int
) -> list[Outcome]:
    pending = islice(cycle(requests), num_calls)
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)

        async def caller() -> list[Outcome]:
            return [await call(rpc, request, PATIENCE_SECONDS) for request in pending]

        found = await asyncio.gather(*(caller() for _ in range(NUM_CALLERS)))
    return [one for outcomes in found for one in outcomes]


def _counts(flood: Flood, before: Scrape, after: Scrape) -> list[Line]:
    """The server's beside the callers'. Who is late may have missed any answer, so may differ."""
    late = sum(one.code == "DEADLINE_EXCEEDED" for one in flood.outcomes)
    reasons = after.by("attendant_requests_rejected_total", "reason")
    reasons.subtract(before.by("attendant_requests_rejected_total", "reason"))
    codes = _translate_codes(after)
    codes.subtract(_translate_codes(before))
    return [
        _equal(
            "refusals by reason, of the server and of its callers",
            reasons,
            Counter(one.reason for one in flood.refused),
            late,
        ),
        _equal(
            "calls by status, of the server and of its callers",
            codes - Counter({code: codes[code] for code in ("CANCELLED", "DEADLINE_EXCEEDED")}),
            Counter(
                one.code
                for one in (*flood.outcomes, *flood.probes)
                if one.code != "DEADLINE_EXCEEDED"
            ),
            late,
        ),
    ]


def _translate_codes(found: Scrape) -> Counter[str]:
    return found.by("grpc_server_handled_total", "grpc_code", grpc_method="Translate")


def _equal(what: str, server: Counter[str], callers: Counter[str], late: int) -> Line:
    """The server may have answered some more, which came too late: never fewer."""
    more = {name: server[name] - callers[name] for name in {*server, *callers}}
    ok = all(difference >= 0 for difference in more.values()) and sum(more.values()) <= late
    pairs = ", ".join(f"{name} {server[name]:,} and {callers[name]:,}" for name in sorted(more))
    asked = "equal" if not late else f"equal, but for {late:,} that were late"
    return Line(what, pairs, asked, ok and bool(pairs))


async def measure_peak(server: RunningServer, requests: Sequence[bytes], seconds: float) -> Peak:
    """Callers that ask again as soon as they are answered, so long; the first second warms up."""
    until = time.monotonic() + seconds + 1
    outcomes: list[Outcome] = []
    pending = cycle(requests)
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)

        async def caller() -> None:
            while time.monotonic() < until:
                outcomes.append(await call(rpc, next(pending), PATIENCE_SECONDS))

        await asyncio.gather(*(caller() for _ in range(NUM_CALLERS)))
    counted = [one for one in outcomes if until - seconds <= one.ended <= until]
    good = sum(one.code == "OK" for one in counted)
    if not good:
        raise RuntimeError(f"nothing was answered: {Counter(one.label for one in outcomes)}")
    return Peak(good / seconds)


async def overload(
    server: RunningServer, requests: Sequence[bytes], peak: Peak, seconds: float, seed: int
) -> Flood:
    """Calls at times of their own, ten times as many as the server can answer."""
    rate = TIMES_CAPACITY * peak.calls_per_second
    arrivals = poisson_arrivals(round(rate * seconds), rate, seed)
    probes = await probe_alone(server)
    usual = median_seconds(probes)
    channels = [open_channel(server.target) for _ in range(NUM_CONNECTIONS)]
    rpcs = [unary(channel, TRANSLATE) for channel in channels]
    pairs = zip(cycle(rpcs), islice(cycle(requests), len(arrivals)), strict=False)
    calls = [partial(call, rpc, request, DEADLINE_SECONDS) for rpc, request in pairs]
    samples: list[tuple[float, float]] = []
    watching = asyncio.create_task(_watch_memory(server, samples))
    begun = time.monotonic()
    probing = asyncio.create_task(seconds_to_normal(server, begun + arrivals[-1], usual))
    outcomes = [answer for _, answer in await run_open_loop(calls, arrivals)]
    normal_after, more_probes = await probing
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return Flood(outcomes, arrivals[-1], samples, [*probes, *more_probes], usual, normal_after)


async def _watch_memory(server: RunningServer, samples: list[tuple[float, float]]) -> None:
    begun = time.monotonic()
    while True:
        samples.append((time.monotonic() - begun, server.resident_mebibytes()))
        await asyncio.sleep(SAMPLE_SECONDS)


def _probe() -> bytes:
    return Question(sentences()[:1]).request()


async def probe_alone(server: RunningServer) -> list[Outcome]:
    """One sentence after the other, with nobody else there."""
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)
        return [await call(rpc, _probe(), PATIENCE_SECONDS) for _ in range(NUM_PROBES)]


def median_seconds(outcomes: Sequence[Outcome]) -> float:
    """How long they took."""
    return statistics.median(one.seconds for one in outcomes)


async def seconds_to_normal(
    server: RunningServer, end: float, usual: float
) -> tuple[float, list[Outcome]]:
    """From `end` (monotonic) to the first of several calls in a row that take as long as usual.

    With it come all calls that were made for that.
    """
    await asyncio.sleep(end - time.monotonic())
    probes: list[Outcome] = []
    in_a_row: list[Outcome] = []
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)
        while time.monotonic() < end + PATIENCE_SECONDS:
            one = await call(rpc, _probe(), PATIENCE_SECONDS)
            probes.append(one)
            is_normal = one.code == "OK" and one.seconds <= NORMAL * usual
            in_a_row = [*in_a_row, one] if is_normal else []
            if len(in_a_row) == NORMAL_IN_A_ROW:
                return in_a_row[0].begun - end, probes
    return float("inf"), probes
