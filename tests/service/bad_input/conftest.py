"""One real server over the default models for all of this folder."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.server import Server
from service.settings import Settings
from tests.service.bad_input.calling import images, open_callers, texts
from tests.service.conftest import samples, total

ROOT = Path(__file__).resolve().parents[3]
SHIP = (ROOT / "examples" / "ship.jpg").read_bytes()
AIRPLANE = (ROOT / "examples" / "airplane.jpg").read_bytes()
GOOD = ("A man is riding a horse on the beach.", "Two dogs are running through the snow.")

# Far over the default of 65 536, so that a megabyte gets as far as it can.
MAX_TEXT_BYTES = 1_000_000

GAUGES = ("requests_waiting", "rows_running", "sequences_running")

Callers = dict[str, Any]
Company = Callable[[], AbstractAsyncContextManager[None]]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def real_server() -> AsyncIterator[Server]:
    """Its one decode worker has everybody in one batch."""
    settings = Settings(
        models=ROOT / "models",
        grpc_port=0,
        http_port=0,
        drain_seconds=5.0,
        decode_workers=1,
        max_text_bytes=MAX_TEXT_BYTES,
    )
    server = Server(settings)
    await server.start()
    yield server
    await server.drain()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def callers(real_server: Server) -> AsyncIterator[Callers]:
    async with open_callers(real_server) as opened:
        yield opened


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def alone(callers: Callers) -> dict[Any, Any]:
    """What each good text and image gets from a server that has nothing else to do."""
    found: dict[Any, Any] = {}
    options = {"return_scores": True}
    for text in GOOD:
        response = await callers["grpc"].translate(texts(text, options=options))
        (found[text],) = response.results
    for image in (SHIP, AIRPLANE):
        (found[image],) = (await callers["grpc"].classify(images(image))).results
    return found


@pytest_asyncio.fixture(loop_scope="package")
async def company(
    real_server: Server, callers: Callers, alone: dict[Any, Any]
) -> AsyncIterator[Company]:
    """Other calls, begun before the block and in the same batch, which must not notice it."""

    def begun() -> float:
        return total(real_server.metrics, "attendant_queue_seconds_count")

    @asynccontextmanager
    async def others() -> AsyncIterator[None]:
        before = begun()
        translated = asyncio.create_task(
            callers["grpc"].translate(texts(*GOOD * 3, options={"return_scores": True}))
        )
        classified = asyncio.create_task(callers["grpc"].classify(images(*[SHIP, AIRPLANE] * 4)))
        await until(lambda: begun() > before)
        yield
        assert list((await translated).results) == [alone[text] for text in GOOD * 3]
        assert list((await classified).results) == [alone[SHIP], alone[AIRPLANE]] * 4

    yield others
    await until(lambda: is_at_rest(real_server))


@pytest_asyncio.fixture(scope="module", loop_scope="package", autouse=True)
async def served(real_server: Server, alone: dict[Any, Any], callers: Callers) -> Any:
    """After each file of tests the server rests, and still answers as before."""
    yield
    await until(lambda: is_at_rest(real_server))
    response = await callers["http"].translate(texts(GOOD[0], options={"return_scores": True}))
    assert list(response.results) == [alone[GOOD[0]]]
    assert list((await callers["raw"].classify(images(SHIP))).results) == [alone[SHIP]]


def is_at_rest(server: Server) -> bool:
    found = [samples(server.metrics, f"attendant_{name}") for name in GAUGES]
    return all(value == 0 for gauge in found for _, value in gauge)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def named(cases: dict[str, Any]) -> Any:
    """A table of cases as parameters, by name."""
    return [pytest.param(*case, id=name) for name, case in cases.items()]


async def answered_meanwhile(callers: Callers, call: Any) -> Any:
    """The outcome of a call that takes long, in which time many health checks are answered.

    Where it holds the event loop it is three or four: before it begins and behind it.
    """
    health: Any = health_pb2_grpc.HealthStub(callers["grpc"].channel)
    running = asyncio.create_task(call)
    num_answered = 0
    while not running.done():
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        num_answered += 1
        await asyncio.sleep(0.002)
    assert num_answered >= 10
    return await running
