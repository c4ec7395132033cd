"""The time of a decode step against its rows and its tokens, beside the least it could take."""

from dataclasses import asdict, dataclass
from typing import Any

from bench.comparison import Findings
from bench.contender import OURS, Contender, stage
from bench.models import BASE, prepare
from bench.sections.plan import Plan
from service.bundle import Bundle, TranslationArchitecture

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TARGET_TOKENS = (1, 4, 16, 64, 256)
SOURCE_TOKENS = 16
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Step:
    """A step of int8 graphs with int8 caches, and its floor, in seconds."""

    num_rows: int
    target_tokens: int
    seconds: float
    floor_seconds: float


async def measure(plan: Plan) -> Findings:
    """Base size, int8, one thread."""
    prepare(BASE)
    sizes = Bundle.open(BASE.bundle).translation.architecture
    async with stage() as on:
        contender = await on.contender("floor", OURS, "bench.contenders.floor")
        async with on.only("floor"):
            await contender.ask(
                "load", bundle=str(BASE.bundle), precision="int8", max_tokens=max(TARGET_TOKENS)
            )
            limits = await contender.ask("limits")
            steps = [
                await _step(contender, sizes, limits, num_rows, target_tokens)
                for target_tokens in TARGET_TOKENS
                for num_rows in ROWS
            ]
        disturbance = on.disturbance()
    peak = (
        f"One thread: {limits['operations_per_second'] / 1e9:.0f} integer operations and "
        f"{limits['bytes_per_second'] / 1e9:.1f} bytes read a nanosecond, measured. A source has "
        f"{SOURCE_TOKENS} tokens."
    )
    notes = [peak, _table(steps), f"base size, int8: {disturbance}"]
    return Findings(notes=notes, figures={"limits": limits, "steps": list(map(asdict, steps))})


def floor_seconds(
    sizes: TranslationArchitecture, limits: dict[str, Any], num_rows: int, target_tokens: int
) -> float:
    """max(operations / peak, bytes / bandwidth): weights are read once, of the caches what rows
    have, and logits are written.
    """
    layer = 8 * sizes.d_model**2 + 2 * sizes.d_model * sizes.ffn_size
    weights = sizes.decoder_layers * layer + sizes.vocab_size * sizes.d_model
    cached = 2 * sizes.decoder_layers * sizes.d_model * (SOURCE_TOKENS + target_tokens)
    operations = 2 * num_rows * (weights + cached)
    num_bytes = weights + num_rows * (cached + FLOAT_BYTES * sizes.vocab_size)
    seconds: float = max(
        operations / limits["operations_per_second"], num_bytes / limits["bytes_per_second"]
    )
    return seconds


async def _step(
    contender: Contender,
    sizes: TranslationArchitecture,
    limits: dict[str, Any],
    num_rows: int,
    target_tokens: int,
) -> Step:
    reply = await contender.ask(
        "step", num_rows=num_rows, target_tokens=target_tokens, source_tokens=SOURCE_TOKENS
    )
    floor = floor_seconds(sizes, limits, num_rows, target_tokens)
    return Step(num_rows, target_tokens, reply["seconds"], floor)


def _table(steps: list[Step]) -> str:
    """Milliseconds, and how many times the floor that is."""
    head = " | ".join(f"{tokens} tokens" for tokens in TARGET_TOKENS)
    lines = [f"| rows | {head} |", "| --: |" + " --: |" * len(TARGET_TOKENS)]
    for rows in ROWS:
        of_rows = sorted(
            (step for step in steps if step.num_rows == rows), key=lambda step: step.target_tokens
        )
        cells = (
            f"{step.seconds * 1e3:.2f} ({step.seconds / step.floor_seconds:.1f} x)"
            for step in of_rows
        )
        lines.append(f"| {rows} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
