"""Bodies of HTTP requests that come slowly or not at all hold up neither others nor the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from service.http.bodies import BODIES_IN_MEMORY, Bodies
from service.server import Server
from tests.service.conftest import StartServer

LIMIT = 2048
WHOLE = json.dumps({"contents": ["a man"]}).encode().ljust(LIMIT)
PATIENCE_SECONDS = 30.0


@dataclass
class Sender:
    """A connection, and what has come back over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """The status, the headers and the JSON."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, json.loads(body)


@asynccontextmanager
async def sending(server: Server, content: bytes) -> AsyncIterator[Sender]:
    """A request of LIMIT bytes, of which these are on their way."""
    sender = Sender(*await asyncio.open_connection("127.0.0.1", server.http_port))
    try:
        head = f"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMIT}\r\n\r\n"
        await sender.send(head.encode() + content)
        yield sender
    finally:
        sender.writer.transport.abort()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0)


async def test_a_body_that_does_not_come_is_refused_after_a_while(
    start_server: StartServer,
) -> None:
    async with (
        start_server(http_body_seconds=0.2) as server,
        sending(server, WHOLE[:10]) as slow,
    ):
        status, _, answer = await slow.answer()
        assert status == 408
        assert answer["error"]["message"] == (
            "the body did not come within 0.2 s, only 10 bytes of it"
        )
        async with sending(server, WHOLE) as other:
            assert (await other.answer())[0] == 200


async def test_bodies_that_together_take_too_much_memory_give_way_the_oldest_first(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Bodies] = []

    def make(**given: Any) -> Bodies:
        made.append(Bodies(**given))
        return made[-1]

    monkeypatch.setattr("service.server.Bodies", make)
    async with start_server(max_message_bytes=LIMIT) as server, AsyncExitStack() as stack:
        senders: list[Sender] = []
        for number in range(1, BODIES_IN_MEMORY + 3):
            senders.append(await stack.enter_async_context(sending(server, WHOLE[:-1])))
            num_bytes = min(number, BODIES_IN_MEMORY) * (LIMIT - 1)
            await until(lambda all_come=num_bytes: made[0].num_bytes == all_come)
        for sender in senders[:2]:
            status, headers, answer = await sender.answer()
            assert (status, headers["retry-after"]) == (429, "1")
            assert "gave way to newer ones" in answer["error"]["message"]
        for sender in senders[2:]:
            await sender.send(WHOLE[-1:])
            assert (await sender.answer())[0] == 200
    assert made[0].num_bytes == 0


async def test_a_body_that_does_not_come_does_not_hold_up_the_end(
    start_server: StartServer,
) -> None:
    async with start_server(drain_seconds=600.0) as server, sending(server, WHOLE[:10]):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.drain()
