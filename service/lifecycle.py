"""Whether the process is starting, serving or leaving, and which calls it is in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from service.errors import Draining


class Phase(Enum):
    """The life of a server, in this order."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"  # health says so, calls are still taken: load balancers have to notice
    DRAINING = "draining"  # new calls are refused, running ones may finish


class Lifecycle:
    """One a process; lives on the event loop."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._calls: set[asyncio.Task[object]] = set()
        self._ended: dict[asyncio.Task[object], str] = {}  # and why
        self._idle = asyncio.Event()
        self._idle.set()
        self._num_unsent = 0  # calls whose answers gRPC has not sent to the end
        self._all_sent = asyncio.Event()
        self._all_sent.set()

    def check(self) -> None:
        """Raises Draining if no new call may begin."""
        if self.phase is Phase.DRAINING:
            raise Draining("the server is shutting down")

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call, in a task of its own. Raises Draining if it comes or takes too late."""
        self.check()
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        self._idle.clear()
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise Draining(f"the server is shutting down, and {self._ended[task]}") from None
        finally:
            self._ended.pop(task, None)
            self._calls.discard(task)
            if not self._calls:
                self._idle.set()

    def end_calls(self, why: str) -> None:
        """Cancel what still runs; its callers are told that it is for draining, and why."""
        for task in self._calls:
            self._ended[task] = why
            task.cancel()

    def begin_answer(self) -> None:
        """A call has come; its answer may have to wait for a slow reader when the call is over."""
        self._num_unsent += 1
        self._all_sent.clear()

    def end_answer(self) -> None:
        """All of it was sent, or its caller has left."""
        self._num_unsent -= 1
        if not self._num_unsent:
            self._all_sent.set()

    async def wait_sent(self, max_seconds: float) -> None:
        """Wait until every answer was sent, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max_seconds):
                await self._all_sent.wait()

    async def wait_idle(self, max_seconds: float) -> int:
        """Wait for the running calls, so long at most -> how many still run."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max_seconds):
                await self._idle.wait()
        return len(self._calls)
