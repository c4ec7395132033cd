"""The translating contenders, and how CTranslate2's best settings are found."""

import os
import statistics
from collections.abc import Sequence
from typing import Any

from bench.contender import OURS, Contender, Stage
from bench.grid import (
    FIRST_BATCH,
    HOPELESS,
    OTHER_BATCHES,
    Batch,
    Threads,
    Trial,
    thread_settings,
    worth_trying,
)
from bench.models import BenchModel
from bench.peers.environments import python_of

Sources = Sequence[Sequence[int]]
PRECISIONS = {"int8": "int8", "fp32": "float32"}  # ours -> CTranslate2's
TRIALS = 2  # of each setting; the faster one counts
PROBE_PART = 4  # of the sentences, to find the threads that are worth trying


def search_options(model: BenchModel, beam_size: int, num_hypotheses: int = 1) -> dict[str, int]:
    """What every contender is asked for."""
    return {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "min_tokens": model.min_tokens,
        "max_tokens": model.max_tokens,
    }


async def our_translator(stage: Stage, model: BenchModel, precision: str) -> Contender:
    """Our decode workers with the model loaded."""
    contender = await stage.contender(f"ours {precision}", OURS, "bench.contenders.ours")
    await contender.ask("load", bundle=str(model.bundle), precision=precision)
    return contender


class CTranslate2:
    """A process of it for each kind of kernels, with one model loaded at a time."""

    def __init__(self, stage: Stage, model: BenchModel, precision: str) -> None:
        self._stage = stage
        self._model = model
        self._compute_type = PRECISIONS[precision]
        self._contenders: dict[bool, Contender] = {}
        self._loaded: dict[bool, Threads] = {}
        self._best_rate = 0.0  # of the grid so far

    async def use(self, threads: Threads, batch: Batch | None = None) -> Contender:
        """The process, with these settings."""
        contender = self._contenders.get(threads.use_mkl)
        if contender is None:
            contender = self._contenders[threads.use_mkl] = await self._stage.contender(
                f"CTranslate2 {self._compute_type}" + (" MKL" if threads.use_mkl else ""),
                python_of("ctranslate2"),
                "bench.contenders.ct2",
                threads.environment,
            )
        if self._loaded.get(threads.use_mkl) != threads:
            await contender.ask(
                "load",
                model=str(self._model.ctranslate2),
                compute_type=self._compute_type,
                inter_threads=threads.inter,
                intra_threads=threads.intra,
            )
            self._loaded[threads.use_mkl] = threads
        if batch is not None:
            await contender.ask("batch", max_batch_size=batch.size, batch_type=batch.kind)
        return contender

    async def tune(self, sources: Sources, options: dict[str, int]) -> list[Trial]:
        """The grid for many sources at once."""
        self._best_rate = 0.0
        some = sources[: max(1, len(sources) // PROBE_PART)]
        probes = [
            await self._try(threads, FIRST_BATCH, some, options)
            for threads in thread_settings(num_cores())
        ]
        trials = [
            await self._try(threads, batch, sources, options)
            for threads in worth_trying(probes)
            for batch in (FIRST_BATCH, *OTHER_BATCHES)
        ]
        tried = {(trial.threads, trial.batch) for trial in trials}
        return trials + [probe for probe in probes if (probe.threads, probe.batch) not in tried]

    async def tune_alone(self, sources: Sources, options: dict[str, int]) -> list[Trial]:
        """The grid for one source at a time."""
        trials = []
        for threads in thread_settings(num_cores()):
            if threads.inter > 1:
                continue  # a second translator has nothing to do
            contender = await self.use(threads)
            await contender.ask("alone", sources=sources[:2], **options)
            calls = (await self._turn(contender, "alone", sources, options))["calls"]
            seconds = statistics.median(call["seconds"] for call in calls)
            trials.append(Trial(threads, Batch(1, "examples"), 1 / seconds))
        return trials

    async def _try(
        self, threads: Threads, batch: Batch, sources: Sources, options: dict[str, int]
    ) -> Trial:
        contender = await self.use(threads, batch)
        rate = 0.0
        for _ in range(TRIALS):
            reply = await self._turn(contender, "translate", sources, options)
            rate = max(rate, len(sources) / reply["seconds"])
            if rate < HOPELESS * self._best_rate:
                break
        self._best_rate = max(rate, self._best_rate)
        return Trial(threads, batch, rate)

    async def _turn(
        self, contender: Contender, do: str, sources: Sources, options: dict[str, int]
    ) -> dict[str, Any]:
        async with self._stage.only(contender.name):
            return await contender.ask(do, sources=sources, **options)


def num_cores() -> int:
    """Cores that we may use."""
    return len(os.sched_getaffinity(0))
