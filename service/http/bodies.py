"""Bodies of HTTP requests on their way in: each has so much time, all together so much memory."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from service.errors import MessageTooLarge, ResourceExhausted, UndecodableMessage

BODIES_IN_MEMORY = 8  # of the largest size, while they are not complete
RETRY_SECONDS = 1.0  # for who had to give way


@dataclass(slots=True, eq=False)
class _Arrival:
    """A body that has begun to come."""

    timeout: asyncio.Timeout
    num_bytes: int = 0


class Bodies:
    """Reads them; lives on the event loop."""

    def __init__(self, *, max_bytes: int, max_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._arrivals: dict[_Arrival, None] = {}  # that may go on, the oldest first
        self.num_bytes = 0  # that have come of these

    async def read(self, request: web.Request) -> bytes:
        """The whole body.

        Raises MessageTooLarge, UndecodableMessage, HTTPRequestTimeout for one that takes too long,
        and ResourceExhausted for the oldest where all together take too much memory: who sends
        no slower than others is not that one for long.
        """
        size = request.content_length
        if size is not None and size > self._max_bytes:
            raise MessageTooLarge(f"the body has {size} bytes, the limit is {self._max_bytes}")
        arrival = _Arrival(asyncio.timeout(self._max_seconds))
        self._arrivals[arrival] = None
        try:
            async with arrival.timeout:
                return await self._read(request, arrival)
        except TimeoutError:
            raise self._complaint(arrival) from None
        except web.RequestPayloadError as error:
            raise UndecodableMessage("the body is not encoded as its headers say") from error
        finally:
            self._forget(arrival)

    async def _read(self, request: web.Request, arrival: _Arrival) -> bytes:
        body = bytearray()
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > self._max_bytes:
                raise MessageTooLarge(
                    f"the body has more bytes than the limit of {self._max_bytes}"
                )
            if arrival not in self._arrivals:
                raise TimeoutError
            arrival.num_bytes += len(chunk)
            self.num_bytes += len(chunk)
            self._make_room()
        return bytes(body)

    def _make_room(self) -> None:
        while self.num_bytes > BODIES_IN_MEMORY * self._max_bytes:
            oldest = next(iter(self._arrivals))
            self._forget(oldest)
            oldest.timeout.reschedule(0)  # now

    def _forget(self, arrival: _Arrival) -> None:
        if arrival in self._arrivals:
            del self._arrivals[arrival]
            self.num_bytes -= arrival.num_bytes

    def _complaint(self, arrival: _Arrival) -> Exception:
        if arrival not in self._arrivals:
            return ResourceExhausted(
                f"the body, of which {arrival.num_bytes} bytes had come, gave way to newer ones",
                retry_after_seconds=RETRY_SECONDS,
            )
        return web.HTTPRequestTimeout(
            text=f"the body did not come within {self._max_seconds:g} s, "
            f"only {arrival.num_bytes} bytes of it"
        )
