"""What online and open loop share: our server beside CTranslate2's at its best, and traffic."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.contender import Stage, stage
from bench.grid import Trial, grid_table
from bench.models import BASE, prepare
from bench.sections.plan import Plan
from bench.sentences import repeat, token_counter
from bench.server import RunningServer
from bench.servers import PEER, Callers, best_setting, our_server, peer_server, tune_peer_server
from bench.traffic import Request, mixed_traffic, uniform_traffic

NUM_CALLERS = 64
OURS = "our server"


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of it: so many requests made of these texts."""

    name: str
    make: Callable[[Sequence[str], int], list[Request]]


GREEDY = Traffic("greedy", lambda texts, count: uniform_traffic(BASE, repeat(texts, count)))
MIXED = Traffic(
    "mixed", lambda texts, count: mixed_traffic(BASE, texts, count, token_counter(BASE))
)


@dataclass(frozen=True, slots=True)
class ServerPair:
    """Both servers, running, who calls them, and what for."""

    on: Stage
    callers: Callers
    servers: dict[str, RunningServer]  # ours first
    requests: list[Request]
    grid: str  # the peer's, as Markdown


@asynccontextmanager
async def server_pair(plan: Plan, traffic: Traffic) -> AsyncIterator[ServerPair]:
    """Choose the peer's settings, once a run of the benchmark, then start both."""
    prepare(BASE)
    async with stage() as on:
        callers = await Callers.start(on)
        trials = await _trials(plan, callers, traffic)
        async with (
            our_server(on, BASE) as ours,
            peer_server(on, BASE, *best_setting(trials)) as theirs,
        ):
            yield ServerPair(
                on,
                callers,
                {OURS: ours, PEER: theirs},
                traffic.make(plan.sentences.timed, plan.num_units),
                grid_table(f"{PEER}, {traffic.name}, calls/s", trials),
            )


async def _trials(plan: Plan, callers: Callers, traffic: Traffic) -> list[Trial]:
    if traffic.name not in plan.server_trials:
        tuning = traffic.make(plan.sentences.tuning, plan.num_tuning)
        trials = await tune_peer_server(callers, BASE, tuning, NUM_CALLERS)
        plan.server_trials[traffic.name] = trials
    return plan.server_trials[traffic.name]
