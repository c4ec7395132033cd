"""Settings of connections: each is observed from the other end."""

import asyncio
from time import monotonic
from typing import Any

import grpc
import grpc.aio
import pytest

from attendant.v1 import translation_pb2, translation_pb2_grpc
from tests.service.conftest import StartServer, open_channel, total
from tests.service.fakes import FakeTranslator
from tests.service.http2 import (
    ACK,
    GOAWAY,
    MAX_CONCURRENT_STREAMS,
    PING,
    SETTINGS,
    connect,
)


def translate(channel: grpc.aio.Channel, text: str, **options: Any) -> Any:
    stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    return stub.Translate(translation_pb2.TranslateRequest(contents=[text]), **options)


async def until_closed(channel: grpc.aio.Channel) -> float:
    """Seconds until the server has asked for another connection."""
    started = monotonic()
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    async with asyncio.timeout(30):
        await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    return monotonic() - started


async def test_an_old_connection_is_ended_and_its_call_may_finish(
    start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    async with (
        start_server(max_connection_age_seconds=0.3) as server,
        open_channel(server) as channel,
    ):
        await translate(channel, "x")
        call = translate(channel, "WAIT")
        await asyncio.wait_for(fakes["en-de"].started.wait(), 30)
        assert await until_closed(channel) < 10
        await translate(channel, "y")  # over another connection
        fakes["en-de"].release.set()
        assert (await call).results[0].hypotheses[0].text == "WAIT"


async def test_the_grace_of_an_old_connection_ends(
    start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    settings = {"max_connection_age_seconds": 0.2, "max_connection_age_grace_seconds": 0.2}
    async with start_server(**settings) as server, open_channel(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await translate(channel, "WAIT", timeout=30)
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(fakes["en-de"].left.wait(), 30)


async def test_an_idle_connection_is_closed_and_one_with_a_call_is_not(
    start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    async with (
        start_server(max_connection_idle_seconds=0.3) as server,
        open_channel(server) as idle,
        open_channel(server) as busy,
    ):
        await translate(busy, "x")
        call = translate(busy, "WAIT")
        await asyncio.wait_for(fakes["en-de"].started.wait(), 30)
        await translate(idle, "x")
        assert 0.2 < await until_closed(idle) < 10
        assert busy.get_state() is grpc.ChannelConnectivity.READY
        fakes["en-de"].release.set()
        assert (await call).results


async def test_a_silent_connection_is_asked_for_a_sign_of_life_and_closed_without_one(
    start_server: StartServer,
) -> None:
    settings = {"keepalive_seconds": 0.2, "keepalive_timeout_seconds": 0.3}
    async with (
        start_server(**settings) as server,
        connect(server.grpc_port) as alive,
        connect(server.grpc_port) as dead,
    ):
        for _ in range(4):  # as often as it takes
            ping = await alive.next(PING)
            alive.send(PING, ping.payload, ACK)
        await dead.next(PING)
        assert [frame async for frame in dead.frames() if frame.kind == PING] == []
        assert len((await alive.next(PING)).payload) == 8


async def test_a_connection_whose_caller_pings_too_often_is_closed(
    start_server: StartServer,
) -> None:
    async with start_server() as server, connect(server.grpc_port) as connection:
        for number in range(10):
            connection.send(PING, bytes((number,) * 8))
        said = [frame.payload async for frame in connection.frames() if frame.kind == GOAWAY]
        # Closed it is; its last words may be lost with what it had not read of ours.
        assert all(b"too_many_pings" in payload for payload in said)


async def test_how_often_a_caller_may_ping_is_a_setting(start_server: StartServer) -> None:
    async with (
        start_server(min_ping_seconds=0) as server,
        connect(server.grpc_port) as connection,
    ):
        pings = [bytes((number,) * 8) for number in range(100)]
        for ping in pings:
            connection.send(PING, ping)
        answered = []
        async for frame in connection.frames():
            assert frame.kind != GOAWAY
            if frame.kind == PING and frame.flags & ACK:
                answered.append(frame.payload)
            if len(answered) == len(pings):
                break
        assert answered == pings


async def test_calls_over_the_limit_of_a_connection_wait_for_their_turn(
    start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    async with (
        start_server(max_concurrent_streams=1) as server,
        open_channel(server) as channel,
        connect(server.grpc_port) as connection,
    ):
        announced = (await connection.next(SETTINGS)).settings
        assert announced[MAX_CONCURRENT_STREAMS] == 1
        await translate(channel, "x")
        running = translate(channel, "WAIT")
        await asyncio.wait_for(fakes["en-de"].started.wait(), 30)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await translate(channel, "y", timeout=0.2)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert total(server.metrics, "grpc_server_started_total") == 2
        fakes["en-de"].release.set()
        assert (await running).results
        assert (await translate(channel, "z")).results
