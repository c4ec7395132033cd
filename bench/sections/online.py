"""Many callers, a sentence a call, through gRPC: ours beside a server around CTranslate2."""

from collections.abc import Sequence
from functools import partial

from bench.answers import Agreement
from bench.comparison import Comparison, Figure, Findings, Target
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
from bench.statistics import alternate


async def measure(plan: Plan) -> Findings:
    """Greedy, sentences as they are."""
    return await _measure(plan, "online", GREEDY, Target(1.2, 1.5))


async def measure_mixed(plan: Plan) -> Findings:
    """Greedy, beam 4 and 4-best, sources of 5 to 100 tokens."""
    return await _measure(plan, "mixed", MIXED, Target(1.5, 2.5))


async def _measure(plan: Plan, section: str, traffic: Traffic, target: Target) -> Findings:
    async with server_pair(plan, traffic) as pair:
        agreement = await _compare_texts(pair)
        turns = {name: partial(_turn, pair, name) for name in pair.servers}
        figures = await alternate(turns, plan.num_rounds)
        disturbance = pair.on.disturbance()
    case = f"{BASE.title}, {NUM_CALLERS} callers, int8"
    comparison = Comparison(
        section=section,
        case=case,
        unit="calls/s",
        ours=figures[OURS],
        peer=PEER,
        theirs=figures[PEER],
        target=target,
    )
    return Findings([comparison], [pair.grid, f"{case}: {agreement}", f"{section}: {disturbance}"])


async def _compare_texts(pair: ServerPair) -> Agreement:
    """Both answer all requests; words stand for tokens."""
    answers: list[Sequence[list[list[str]]]] = []
    for name, server in pair.servers.items():
        reply = await pair.callers.closed(name, server, pair.requests, NUM_CALLERS)
        answers.append([[texts[0].split()] for texts in reply["texts"]])
    return Agreement.of(*answers)


async def _turn(pair: ServerPair, name: str) -> Figure:
    reply = await pair.callers.closed(name, pair.servers[name], pair.requests, NUM_CALLERS)
    return Figure(
        len(pair.requests) / reply["seconds"],
        (reply["server_cpu_seconds"] + reply["cpu_seconds"]) / len(pair.requests),
    )
