"""Callers of a stream who do not read it."""

import asyncio
from collections.abc import Callable

import pytest

from bench.torture import rude
from service.server import Server
from tests.service.conftest import total

TIMEOUT_SECONDS = 10


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not holds():
            await asyncio.sleep(0.001)


async def test_who_leaves_a_stream_that_it_does_not_read_is_cancelled(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: the write that failed was logged as our bug, and counted INTERNAL."""
    labels = {"grpc_method": "StreamTranslate"}
    streams = await asyncio.open_connection("127.0.0.1", server.grpc_port)
    await rude.no_reading(streams)
    await until(lambda: total(server.metrics, "grpc_server_started_total", **labels) == 1)
    streams[1].transport.abort()
    handled = "grpc_server_handled_total"
    await until(lambda: total(server.metrics, handled, **labels) == 1)
    assert total(server.metrics, handled, grpc_code="CANCELLED", **labels) == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
