"""So many at once, and the others in the order of their places. Lives on the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.waiting import Line, Place


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    place: Place
    turn: asyncio.Future[None]


class Turns:
    """A semaphore whose waiters stand in a line."""

    def __init__(self, count: int) -> None:
        self._num_free = count
        self._line: Line[_Waiting] = Line()

    @asynccontextmanager
    async def turn(self, place: Place) -> AsyncIterator[None]:
        """Wait for a turn and have it; who is cancelled while it waits never had one."""
        if self._num_free and not self._line:
            self._num_free -= 1
        else:
            await self._wait(_Waiting(place, asyncio.get_running_loop().create_future()))
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, waiting: _Waiting) -> None:
        self._line.add([waiting])
        try:
            await waiting.turn
        except asyncio.CancelledError:
            self._line.remove([waiting])
            if not waiting.turn.cancelled():  # its turn came first
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._line:
            turn = self._line.take(1)[0].turn
            if not turn.done():  # else its caller has left, and will find that it had no turn
                turn.set_result(None)
                return
        self._num_free += 1
