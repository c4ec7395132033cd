"""One sentence at a time: token ids in, token ids out, against CTranslate2's own call."""

import statistics

from bench.comparison import Figure, Findings, Target
from bench.contender import Contender, Stage
from bench.models import BASE, DEFAULT
from bench.sections.pairs import Options, Race, run_race
from bench.sections.plan import Plan
from bench.translators import CTranslate2, Sources

TARGETS = {
    (BASE.name, "greedy"): Target(2.0, 3.0),
    (BASE.name, "beam 4"): Target(2.0, 3.0),
    (DEFAULT.name, "greedy"): Target(1.2, 1.6),
    (DEFAULT.name, "beam 4"): Target(1.2, 1.6),
}
PART = 8  # of a round's sentences: alone they take so many times longer


async def measure(plan: Plan) -> Findings:
    """Milliseconds of the median sentence."""
    race = Race(
        *("alone", "ms, p50", CTranslate2.tune_alone, median_latency, TARGETS),
        divide="theirs by ours",
    )
    return await run_race(race, plan, plan.share(PART), max(8, plan.num_tuning // PART))


async def median_latency(
    on: Stage, contender: Contender, sources: Sources, options: Options
) -> Figure:
    """One source after the other."""
    async with on.only(contender.name):
        calls = (await contender.ask("alone", sources=sources, **options))["calls"]
    seconds, cpu_seconds = (
        statistics.median(call[name] for call in calls) for name in ("seconds", "cpu_seconds")
    )
    return Figure(seconds * 1e3, cpu_seconds)
