"""Batches for an engine that takes whole ones: by size or by delay, like options together.

A batch goes to a worker when it is full or its first member has waited long enough, and a worker
is free; until then it goes on growing. Knows no engine, and no gRPC; lives on one event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

Options = TypeVar("Options", bound=Hashable)
Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[Source, Result]):
    """One source, and who waits for its result."""

    source: Source
    due: float  # the loop's time at which it has waited long enough
    result: "asyncio.Future[Result]"


class Batcher(Generic[Options, Source, Result]):
    """Runs `run(options, sources)` on so many workers of an executor."""

    def __init__(
        self,
        run: Callable[[Options, Sequence[Source]], Sequence[Result]],
        executor: Executor,
        *,
        num_workers: int,
        max_batch_size: int,
        delay_seconds: float,
    ) -> None:
        self._run = run
        self._executor = executor
        self._num_free = num_workers
        self._max_batch_size = max_batch_size
        self._delay_seconds = delay_seconds
        self._groups: dict[Options, deque[Waiting[Source, Result]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, options: Options, source: Source) -> Result:
        """The result of one source. Raises what the engine raises for its batch."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._delay_seconds
        result: asyncio.Future[Result] = loop.create_future()
        waiting = Waiting(source, due, result)
        self._groups.setdefault(options, deque()).append(waiting)
        loop.call_at(due, self._dispatch)
        self._dispatch()
        return await result

    def _dispatch(self) -> None:
        """Start what can be started, whoever has waited longest first."""
        while self._num_free and (options := self._next_options()) is not None:
            group = self._groups[options]
            members = [group.popleft() for _ in range(min(len(group), self._max_batch_size))]
            if not group:
                del self._groups[options]
            self._num_free -= 1
            task = asyncio.create_task(self._run_batch(options, members))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next_options(self) -> Options | None:
        now = asyncio.get_running_loop().time()
        ready = [
            (group[0].due, options)
            for options, group in self._groups.items()
            if len(group) >= self._max_batch_size or group[0].due <= now
        ]
        return min(ready, key=lambda pair: pair[0])[1] if ready else None

    async def _run_batch(
        self, options: Options, members: Sequence[Waiting[Source, Result]]
    ) -> None:
        loop = asyncio.get_running_loop()
        sources = [waiting.source for waiting in members]
        try:
            results = await loop.run_in_executor(self._executor, self._run, options, sources)
        except Exception as error:
            for waiting in members:
                if not waiting.result.done():
                    waiting.result.set_exception(error)
        else:
            for waiting, result in zip(members, results, strict=True):
                if not waiting.result.done():
                    waiting.result.set_result(result)
        finally:
            self._num_free += 1
            self._dispatch()
