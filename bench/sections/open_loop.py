"""Calls at times of their own, as many a second on both: 80 % of what the peer can do.

The peer decodes whole batches, and CTranslate2 streams only a single greedy sentence: its first
word comes with its answer. Ours is asked for whole answers as the peer is, and for streams in turns
of their own.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

from bench.comparison import Comparison, Figure, Findings, Target
from bench.load import poisson_arrivals
from bench.models import BASE
from bench.sections.plan import Plan
from bench.sections.server_pair import (
    GREEDY,
    MIXED,
    NUM_CALLERS,
    OURS,
    ServerPair,
    Traffic,
    server_pair,
)
from bench.servers import PEER
from bench.statistics import alternate, percentile

TARGET = Target(0.5, 0.25)
SHARE_OF_CAPACITY = 0.8
STREAMS = "our server, streaming"


class Latencies(NamedTuple):
    """Milliseconds of one round, from when a call was to begin."""

    median: float
    p99: float
    first_token_median: float
    first_token_p99: float


async def measure(plan: Plan) -> Findings:
    """Both kinds of traffic."""
    findings = Findings()
    for traffic in (GREEDY, MIXED):
        await _measure(plan, traffic, findings)
    return findings


async def _measure(plan: Plan, traffic: Traffic, findings: Findings) -> None:
    async with server_pair(plan, traffic) as pair:
        rate = SHARE_OF_CAPACITY * await _capacity(pair)
        # Round n has the same arrivals on both.
        turns = {name: partial(_turn, pair, name, rate, count(1)) for name in pair.servers}
        turns[STREAMS] = partial(_turn, pair, OURS, rate, count(1), stream=True)
        found = await alternate(turns, plan.num_rounds)
        disturbance = pair.on.disturbance()
    findings.comparisons.extend(_comparisons(traffic.name, found))
    findings.notes.append(pair.grid)
    findings.notes.append(
        f"{traffic.name}: {rate:.1f} calls a second on both, {SHARE_OF_CAPACITY:.0%} of what the "
        f"peer can do; {disturbance}"
    )


async def _capacity(pair: ServerPair) -> float:
    """The peer's calls a second in a closed loop; the first round warms up."""
    for _ in range(2):
        reply = await pair.callers.closed(PEER, pair.servers[PEER], pair.requests, NUM_CALLERS)
    return len(pair.requests) / float(reply["seconds"])


async def _turn(
    pair: ServerPair, name: str, rate: float, rounds: "count[int]", *, stream: bool = False
) -> Latencies:
    arrivals = poisson_arrivals(len(pair.requests), rate, seed=next(rounds))
    reply = await pair.callers.open(
        name, pair.servers[name], pair.requests, arrivals, stream=stream
    )
    return Latencies(
        *(
            percentile(reply[kind], share) * 1e3
            for kind in ("latencies", "first_token")
            for share in (0.5, 0.99)
        )
    )


def _comparisons(name: str, found: Mapping[str, Sequence[Latencies]]) -> list[Comparison]:
    lines = [
        (OURS, "whole answer, p99", TARGET, "p99"),
        (OURS, "whole answer, p50", None, "median"),
        (STREAMS, "first token of a stream, p50", TARGET, "first_token_median"),
        (STREAMS, "first token of a stream, p99", None, "first_token_p99"),
        (STREAMS, "end of a stream, p50", None, "median"),
        (STREAMS, "end of a stream, p99", None, "p99"),
    ]
    return [
        Comparison(
            section="open-loop",
            case=f"{BASE.title}, {name}, int8",
            unit=f"ms, {unit}",
            ours=[Figure(getattr(one, field)) for one in found[asked]],
            peer=PEER,
            theirs=[Figure(getattr(one, field)) for one in found[PEER]],
            target=target,
        )
        for asked, unit, target, field in lines
    ]
