"""Python a decode step against its budget, at 1, 16 and 64 rows."""

import statistics

from bench.comparison import Findings
from bench.contender import OURS, stage
from bench.models import prepare
from bench.sections.plan import Plan
from bench.translators import search_options

ROWS = (1, 16, 64)
BEAM_SIZES = {"greedy": 1, "beam 4": 4}
MICROSECONDS = 1e6


def budget_microseconds(beam_size: int, num_sequences: int) -> float:
    """What a step may take beside the graph: greedy by row, beams by sentence."""
    return 50 + 0.3 * num_sequences if beam_size == 1 else 150 + 3 * num_sequences


async def measure(plan: Plan) -> Findings:
    """Medians of all steps of all rounds, int8."""
    lines = [
        "| model | search | rows | graph us | Python us | budget us | |",
        "| --- | --- | --: | --: | --: | --: | --- |",
    ]
    for model in plan.models:
        prepare(model)
        async with stage() as on:
            contender = await on.contender("steps", OURS, "bench.contenders.steps")
            await contender.ask("load", bundle=str(model.bundle), precision="int8")
            for search, beam_size in BEAM_SIZES.items():
                for rows in ROWS:
                    num_sequences = max(1, rows // beam_size)
                    options = search_options(model, beam_size) | {"max_tokens": 24}
                    turns: list[tuple[float, float]] = []
                    for _ in range(plan.num_rounds + 1):
                        async with on.only("steps"):
                            reply = await contender.ask(
                                "steps", num_sequences=num_sequences, **options
                            )
                        turns += reply["turns"]
                    graph, python = (
                        statistics.median(side) * MICROSECONDS for side in zip(*turns, strict=True)
                    )
                    budget = budget_microseconds(beam_size, num_sequences)
                    verdict = "within" if python <= budget else "over"
                    lines.append(
                        f"| {model.title} | {search} | {num_sequences * beam_size} | {graph:,.0f} "
                        f"| {python:,.0f} | {budget:,.0f} | {verdict} |"
                    )
            notes = on.disturbance()
    return Findings(notes=["\n".join(lines), notes])
