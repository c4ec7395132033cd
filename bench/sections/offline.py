"""Everything known at once: token ids in, token ids out, against CTranslate2's own call."""

from bench.comparison import Figure, Findings, Target
from bench.contender import Contender, Stage
from bench.models import BASE, DEFAULT
from bench.sections.pairs import Options, Race, run_race
from bench.sections.plan import Plan
from bench.translators import CTranslate2, Sources

TARGETS = {
    (BASE.name, "greedy"): Target(1.2, 1.5),
    (BASE.name, "beam 4"): Target(1.2, 1.5),
    (DEFAULT.name, "greedy"): Target(1.4, 2.0),
    (DEFAULT.name, "beam 4"): Target(1.3, 2.0),
}


async def measure(plan: Plan) -> Findings:
    """Sentences per second."""
    race = Race("offline", "sentences/s", CTranslate2.tune, translate_rate, TARGETS)
    return await run_race(race, plan, plan.num_units, plan.num_tuning)


async def translate_rate(
    on: Stage, contender: Contender, sources: Sources, options: Options
) -> Figure:
    """All sources at once."""
    async with on.only(contender.name):
        reply = await contender.ask("translate", sources=sources, **options)
    return Figure(len(sources) / reply["seconds"], reply["cpu_seconds"] / len(sources))
