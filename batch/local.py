"""All shards on this machine."""

import asyncio
from collections.abc import Callable, Iterable

from batch.embedded import EmbeddedEngine
from batch.ledger import Ledger
from batch.plan import Plan
from batch.records import Shard
from service.settings import Settings

# While the last sentences of one shard are decoded, the next ones fill the batch.
SHARDS_AT_A_TIME = 2


async def run(
    plan: Plan,
    shards: Iterable[tuple[int, Shard]],
    settings: Settings,
    on_answered: Callable[[int], object],
) -> None:
    """Write the parts of these shards; tells how many more records have been answered.

    Raises AttendantError, OSError and ValueError in an ExceptionGroup; what is whole by then stays.
    """
    async with EmbeddedEngine.open(settings, plan.input.task, plan.options) as engine:
        await write_parts(engine, plan.ledger, shards, on_answered)


async def write_parts(
    engine: EmbeddedEngine,
    ledger: Ledger,
    shards: Iterable[tuple[int, Shard]],
    on_answered: Callable[[int], object] = lambda num_records: None,
) -> None:
    """With an engine that is open. Raises as `run` does."""
    waiting = iter(shards)

    async def work() -> None:
        for number, shard in waiting:
            outcomes = await engine.answer(shard, on_answered)
            if model := engine.model:
                ledger.hold_to(model)
            await asyncio.to_thread(ledger.keep, number, outcomes, shard.types)

    async with asyncio.TaskGroup() as group:
        for _ in range(SHARDS_AT_A_TIME):
            group.create_task(work())
