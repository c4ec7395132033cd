"""Collects what many callers submit one by one and runs it in batches.

Knows neither images nor ONNX Runtime: it is given the function to run. Everything but that function
happens on the event loop, so nothing here is locked.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from service.errors import Draining
from service.waiting import ANYWHERE, Line, Place

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer(Generic[Result]):
    """One item's result, how long its batch ran, and how many items that was."""

    result: Result
    run_seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    arrived: float
    answer: asyncio.Future[Answer[Result]]
    place: Place


class Batcher(Generic[Item, Result]):
    """Runs a batch when it is full, when its first item has waited `delay_seconds`, or at once if
    nothing more is announced: a lone caller never waits for company that does not come.

    Up to `num_runs` batches run at once. `run` is told whether its batch is alone: no other one
    runs, and nothing is left waiting for one. An exception among its results is that item's.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Sequence[Result | Exception]],
        *,
        max_size: int,
        delay_seconds: float,
        num_runs: int = 1,
    ) -> None:
        self._run = run
        self.max_size = max_size  # may be set at any time, on any thread
        self._delay_seconds = delay_seconds
        self._num_runs = num_runs
        self._waiting: Line[_Waiting[Item, Result]] = Line()
        self._num_announced = 0
        self._changed = asyncio.Event()
        self._threads = ThreadPoolExecutor(num_runs, thread_name_prefix="classify")
        self._running: set[asyncio.Task[None]] = set()
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._serving = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Refuse what still waits and end the threads after their present runs."""
        tasks = [*self._running, *([self._serving] if self._serving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _fail(self._waiting.take(len(self._waiting)), Draining("the model is being unloaded"))
        self._threads.shutdown(wait=False)

    def resize(self, *, max_size: int, num_runs: int) -> None:
        """Run other batches from now on; those that run end as they are."""
        self.max_size = max_size
        if num_runs != self._num_runs:
            self._num_runs = num_runs
            self._threads.shutdown(wait=False)
            self._threads = ThreadPoolExecutor(num_runs, thread_name_prefix="classify")
        self._changed.set()

    def announce(self) -> None:
        """Say that an item will be submitted soon; `retract` ends it, submitted or not."""
        self._num_announced += 1

    def retract(self) -> None:
        """The item that was announced is here, or will not come."""
        self._num_announced -= 1
        self._changed.set()

    async def submit(self, item: Item, place: Place = ANYWHERE) -> Answer[Result]:
        """The item's result. Whoever is cancelled here is left out of the next batch."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer[Result]] = loop.create_future()
        self._waiting.add([_Waiting(item, loop.time(), answer, place)])
        self._changed.set()
        return await answer

    async def _serve(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting and len(self._running) < self._num_runs:
                await self._wait_for_company()
                if batch := self._take():
                    alone = not self._running and not self._waiting
                    run = asyncio.create_task(self._run_batch(batch, alone))
                    self._running.add(run)
                    run.add_done_callback(self._ended)

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._running.discard(run)
        self._changed.set()

    async def _wait_for_company(self) -> None:
        deadline = next(iter(self._waiting)).arrived + self._delay_seconds
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._num_announced and len(self._waiting) < self.max_size:
                    self._changed.clear()
                    await self._changed.wait()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next batch, without those whose caller has left: what waits, shared by free runs."""
        share = math.ceil(len(self._waiting) / (self._num_runs - len(self._running)))
        batch: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < min(self.max_size, share):
            (waiting,) = self._waiting.take(1)
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _run_batch(self, batch: Sequence[_Waiting[Item, Result]], alone: bool) -> None:
        """Run it off the loop. Whatever fails is the batch's failure and never ends the serving."""
        items = [waiting.item for waiting in batch]
        started = perf_counter()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._threads, self._run, items, alone)
        except asyncio.CancelledError:
            _fail(batch, Draining("the model is being unloaded"))
            raise
        except Exception as error:
            _fail(batch, error)
            return
        seconds = perf_counter() - started
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _fail([waiting], result)
            elif not waiting.answer.done():
                waiting.answer.set_result(Answer(result, seconds, len(batch)))


def _fail(batch: Sequence[_Waiting[Item, Result]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
