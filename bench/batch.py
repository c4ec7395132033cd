"""What attendant-batch costs: a file through it beside the same texts given to the engine at once.

    python -m bench.batch [--rounds 5] [--texts 8000] [--beam-size 1]

The model is the default bundle, whose steps are the shortest there are. Both sides have an engine
that is open; one reads a file, writes parts and joins them, the other only awaits the answers.
Prints medians of rounds that take turns.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from batch.embedded import EmbeddedEngine
from batch.inputs import Input
from batch.local import write_parts
from batch.plan import Plan
from bench.machine import machine
from bench.models import DEFAULT, SENTENCES
from bench.sentences import repeat
from bench.statistics import Ratio, alternate
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import merge_options


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=8000, help="a round")
    parser.add_argument("--beam-size", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        batch, engine = asyncio.run(_measure(chosen, Path(folder))).values()
    print(
        f"{machine()}\n\n{chosen.texts} texts a round, beam {chosen.beam_size}, {chosen.rounds} "
        f"rounds each: {statistics.median(batch):,.0f} texts/s by attendant-batch, "
        f"{statistics.median(engine):,.0f} by the engine alone: {Ratio.of(batch, engine)}"
    )


async def _measure(chosen: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    texts = repeat(SENTENCES.read_text(encoding="utf-8").splitlines(), chosen.texts)
    source = folder / "in.txt"
    source.write_text("\n".join(texts) + "\n", encoding="utf-8")
    settings = Settings.model_validate({"device": "cpu", "max_queued_sequences": 10 * len(texts)})
    engine = TranslationEngine(
        Bundle.open(DEFAULT.bundle), settings=settings, metrics=Metrics.create()
    )
    engine.start()
    options = {"model": DEFAULT.name, "beam_size": chosen.beam_size}
    try:
        async with EmbeddedEngine.open(settings, "translate", options) as embedded:
            turns = {
                "batch": partial(_batch, embedded, source, options),
                "engine": partial(_engine, engine, texts, chosen.beam_size),
            }
            return await alternate(turns, chosen.rounds)
    finally:
        await engine.stop()


async def _batch(engine: EmbeddedEngine, source: Path, options: dict[str, object]) -> float:
    """Texts a second, from the file to the file."""
    output = source.with_name("out.txt")
    begun = time.perf_counter()
    found = Input.find(source, kind=None, task=None, field=None, shard_records=None)
    plan = Plan.make(found, options, output, None)
    plan.ledger.begin(plan.identity())
    shards = list(enumerate(found.shards()))
    await write_parts(engine, plan.ledger, shards)
    plan.ledger.join([number for number, _ in shards], output, plan.set_aside)
    seconds = time.perf_counter() - begun
    output.unlink()
    return sum(shard.num_records for _, shard in shards) / seconds


async def _engine(engine: TranslationEngine, texts: list[str], beam_size: int) -> float:
    """Texts a second, all in one call."""
    options = merge_options(engine.default_options, engine.limits, beam_size=beam_size)
    begun = time.perf_counter()
    found = await engine.translate(texts, options)
    seconds = time.perf_counter() - begun
    assert all(one.error is None for one in found.results)
    return len(texts) / seconds


if __name__ == "__main__":
    main()
