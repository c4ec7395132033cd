"""All shards on the machines of a Ray cluster: an actor with the engine on each, by Ray Data.

Every machine needs this package, the models and, at the same paths, input and output. When a
machine is lost, another does its shards again; a part that is written twice is the same part.
"""

import asyncio
import logging
import math
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch.embedded import EmbeddedEngine
from batch.local import write_parts
from batch.plan import Plan
from batch.records import Shard
from service.settings import Settings

Rows = dict[str, NDArray[Any]]

ROOT = Path(__file__).resolve().parent.parent
# Of a task: while the last sentences of one are decoded, the next fill the batch.
MAX_SHARDS_A_TASK = 4
# At least, so that no machine waits long for the last task of another.
TASKS_AN_ACTOR = 3


class ShardActor:
    """An engine that stays open while its machine gets tasks."""

    def __init__(self, plan: Plan, settings: dict[str, Any]) -> None:
        self._ledger = plan.ledger
        self._runner = asyncio.Runner()
        self._open = AsyncExitStack()
        engine = EmbeddedEngine.open(
            Settings.model_construct(**settings), plan.input.task, plan.options
        )
        self._engine = self._runner.run(self._open.enter_async_context(engine))

    def __call__(self, rows: Rows) -> Rows:
        """{"number" (N,), "shard" (N,), pickled} -> {"num_records" (N,)} when they are written."""
        shards: list[Shard] = [pickle.loads(one) for one in rows["shard"]]
        numbered = zip(map(int, rows["number"]), shards, strict=True)
        self._runner.run(write_parts(self._engine, self._ledger, numbered))
        return {"num_records": np.array([shard.num_records for shard in shards])}


def run(
    plan: Plan,
    shards: Sequence[tuple[int, Shard]],
    settings: Settings,
    address: str,
    cpus_an_actor: int | None,
    on_answered: Callable[[int], object],
) -> None:
    """Write the parts of these shards; tells how many more records have been answered.

    `address` is Ray's, "auto", or "local" for a cluster of this machine alone. An actor has as many
    CPUs as the smallest machine, unless told. Raises ImportError without Ray, ConnectionError
    without a cluster, ValueError where no machine has room for an actor, and what Ray raises when
    an actor's task fails.
    """
    ray = _quiet_ray()
    environment = {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    ray.init(
        address,
        runtime_env={"env_vars": environment},
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False if address == "local" else None,
    )
    try:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cpus_an_actor, num_actors = _actors(cpus, cpus_an_actor)
        tasks = ray.data.from_items(
            [{"number": number, "shard": pickle.dumps(shard)} for number, shard in shards],
            override_num_blocks=_num_tasks(len(shards), num_actors),
        )
        written = tasks.map_batches(
            ShardActor,
            fn_constructor_args=(plan, _on(settings, cpus_an_actor)),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=cpus_an_actor,
        )
        for rows in written.iter_batches(batch_size=None, prefetch_batches=0):
            on_answered(int(rows["num_records"].sum()))
    finally:
        ray.shutdown()


def _actors(cpus: Sequence[int], wanted: int | None) -> tuple[int, int]:
    """CPUs of an actor, and how many actors fit on machines with so many. Raises ValueError."""
    largest = max(cpus, default=0)
    each = wanted or min((count for count in cpus if count), default=1)
    if each > largest:
        raise ValueError(
            f"an actor needs {each} CPUs, the largest machine of the cluster has {largest}"
        )
    return each, sum(count // each for count in cpus)


def _num_tasks(num_shards: int, num_actors: int) -> int:
    even = math.ceil(num_shards / (TASKS_AN_ACTOR * num_actors))
    return math.ceil(num_shards / min(even, MAX_SHARDS_A_TASK))


def _on(settings: Settings, num_cpus: int) -> dict[str, Any]:
    """An actor computes on the cores that Ray has given it."""
    given = dict(settings)
    given["decode_workers"] = settings.decode_workers or num_cpus
    given["image_threads"] = settings.image_threads or num_cpus
    given["models"] = settings.models.absolute()  # an actor has another working folder
    return given


def _quiet_ray() -> Any:
    """Ray, which leaves the terminal to our progress bar and reports its use to nobody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray Data reads it when it is imported. What it says remains in the session's logs.
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    try:
        import ray.data
    except ImportError:
        raise ImportError("--ray needs Ray: pip install 'attendant[ray]'") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray
