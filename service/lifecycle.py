"""Whether the process is starting, serving or draining, and how many calls it is in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from service.errors import Draining


class Phase(Enum):
    """The life of a server, in this order."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """One a process; lives on the event loop."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self._num_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call. Raises Draining if it comes too late."""
        if self.phase is Phase.DRAINING:
            raise Draining("the server is shutting down")
        self._num_calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_calls -= 1
            if self._num_calls == 0:
                self._idle.set()

    async def wait_idle(self, max_seconds: float) -> int:
        """Wait for the running calls, so long at most -> how many still run."""
        try:
            async with asyncio.timeout(max_seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._num_calls
