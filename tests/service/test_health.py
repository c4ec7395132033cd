"""grpc.health.v1 and server reflection."""

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from service.bundle import Bundle
from service.model import Engine
from service.rpc.reflection import SERVICE_NAMES
from service.server import CLASSIFICATION_SERVICE, SERVICES, TRANSLATION_SERVICE, Server
from tests.service.conftest import StartServer, open_channel, write_translator
from tests.service.fakes import FakeTranslator

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def check(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    status: int = (await stub(channel).Check(request)).status
    return status


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_every_service_is_serving_when_ready(channel: grpc.aio.Channel, service: str) -> None:
    assert await check(channel, service) == SERVING


async def test_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(channel, "nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_bound_server_is_not_serving_until_its_models_are_loaded(
    start_server: StartServer, server: Server
) -> None:
    starting = Server(server.settings)
    await starting.bind()
    async with open_channel(starting) as channel:
        assert await check(channel, "") == NOT_SERVING
        watch = stub(channel).Watch(health_pb2.HealthCheckRequest(service=CLASSIFICATION_SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        (server.settings.models / "en-de" / "1" / "bundle.json").unlink()
        await starting.load()
        assert (await watch.read()).status == SERVING
        assert await check(channel, TRANSLATION_SERVICE) == NOT_SERVING
        await starting.drain()


async def test_watchers_see_a_model_that_can_no_longer_serve(server: Server) -> None:
    async with open_channel(server) as channel:
        watch = stub(channel).Watch(health_pb2.HealthCheckRequest(service=TRANSLATION_SERVICE))
        assert (await watch.read()).status == SERVING
        async with server.repository.translation("", "", "") as (engine, _):
            engine.failed = "its decode threads have died"  # type: ignore[misc]
        engine.on_change()  # type: ignore[attr-defined]
        assert (await watch.read()).status == NOT_SERVING
        assert await check(channel, CLASSIFICATION_SERVICE) == SERVING


async def test_nothing_is_serving_until_each_model_is_verified_and_warm(
    start_server: StartServer, server: Server
) -> None:
    """Constructing an engine warms it up: here, two engines that take until they are let."""
    warm = {name: threading.Event() for name in ("fr-de", "en-de")}
    begun: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    starting: Server

    def make(bundle: Bundle) -> Engine:
        loop.call_soon_threadsafe(begun.put_nowait, bundle.name)
        assert warm[bundle.name].wait(30)
        return FakeTranslator(bundle, metrics=starting.metrics)  # type: ignore[return-value]

    write_translator(server.settings.models, "fr-de", pairs=(("fr", "de"),))
    (server.settings.models / "colours" / "1" / "bundle.json").unlink()
    starting = Server(server.settings, factory=make)
    await starting.bind()
    loading = asyncio.create_task(starting.load())
    async with open_channel(starting) as channel:
        for _ in range(2):
            name = await asyncio.wait_for(begun.get(), 30)
            for service in ("", *SERVICES):
                assert await check(channel, service) == NOT_SERVING
            warm[name].set()
        await loading
        assert await check(channel, TRANSLATION_SERVICE) == SERVING
        assert await check(channel, "") == SERVING
        await starting.drain()


async def test_watchers_see_the_drain_and_are_let_go(server: Server) -> None:
    async with open_channel(server) as channel:
        watches = [
            stub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
            for service in ("", TRANSLATION_SERVICE, TRANSLATION_SERVICE, "nothing")
        ]
        first = [(await watch.read()).status for watch in watches]
        assert first == [SERVING, SERVING, SERVING, UNKNOWN]
        watches[1].cancel()  # one watcher's leaving must not silence the other
        drained = asyncio.create_task(server.drain())
        assert (await watches[0].read()).status == NOT_SERVING
        assert (await watches[2].read()).status == NOT_SERVING
        for watch in (watches[0], watches[2], watches[3]):
            assert await watch.read() is grpc.aio.EOF
        await drained


@pytest.mark.parametrize("name", SERVICE_NAMES)
async def test_reflection_lists_the_services_and_describes_them(
    channel: grpc.aio.Channel, name: str
) -> None:
    call: Any = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response.service
    others = {"grpc.health.v1.Health", "inference.GRPCInferenceService", name}
    assert {*SERVICES, *others} <= {service.name for service in listed}
    for symbol in (*SERVICES, *others - {name}, "google.rpc.ErrorInfo"):
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
