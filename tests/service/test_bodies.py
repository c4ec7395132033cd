"""Bodies of HTTP requests that come slowly or not at all hold up neither others nor the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attendant.v1.translation_pb2 import TranslateRequest
from service.errors import InvalidArgument, ResourceExhausted
from service.http import json_requests
from service.http.bodies import BODIES_IN_MEMORY, Bodies
from service.http.json_requests import INLINE_BYTES, JsonRequests
from service.server import Server
from tests.service.conftest import StartServer, open_channel

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


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Bodies]:
    """Those of the servers that are started."""
    found: list[Bodies] = []

    def make(**given: Any) -> Bodies:
        found.append(Bodies(**given))
        return found[-1]

    monkeypatch.setattr("service.server.Bodies", make)
    return found


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
    start_server: StartServer, made: list[Bodies]
) -> None:
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
    start_server: StartServer, made: list[Bodies]
) -> None:
    async with start_server(drain_seconds=600.0) as server, sending(server, WHOLE[:10]):
        await until(lambda: made[0].num_bytes == 10)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.drain()


async def test_streams_and_messages_that_do_not_come_do_not_hold_up_the_end_either(
    start_server: StartServer,
) -> None:
    """Regression: whoever looked at the API by reflection cost all of drain_seconds."""
    async with start_server(drain_seconds=600.0) as server, open_channel(server) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        reflection = stub.ServerReflectionInfo()
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await reflection.read()).list_services_response.service
        half = channel.stream_unary("/attendant.v1.TranslationService/Translate")()
        await half.wait_for_connection()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.drain()


async def test_json_whose_caller_has_left_is_not_parsed() -> None:
    """Regression: texts waited for a thread that it had."""
    requests = JsonRequests(max_bytes=10**7)
    long = json.dumps({"contents": [{}] * 10**5}).encode()
    short = json.dumps({"contents": ["a man"]}).encode().ljust(INLINE_BYTES + 1)
    messages = [TranslateRequest() for _ in range(3)]
    tasks = [
        asyncio.create_task(requests.parse(body, message))
        for body, message in zip((long, short, short), messages, strict=True)
    ]
    await asyncio.sleep(0)
    tasks[1].cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    requests.close()
    assert isinstance(ended[0], InvalidArgument)
    assert isinstance(ended[1], asyncio.CancelledError)
    assert [list(message.contents) for message in messages] == [[], [], ["a man"]]


async def test_json_beyond_what_may_wait_is_refused() -> None:
    body = json.dumps({"contents": ["a man"]}).encode().ljust(INLINE_BYTES + 1)
    requests = JsonRequests(max_bytes=len(body))
    many = [
        requests.parse(body, TranslateRequest()) for _ in range(json_requests.BODIES_IN_MEMORY + 2)
    ]
    ended = await asyncio.gather(*many, return_exceptions=True)
    requests.close()
    refused = [one for one in ended if isinstance(one, ResourceExhausted)]
    assert len(refused) == 2
    assert refused[0].retry_after_seconds == 1.0
