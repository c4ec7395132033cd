"""What a caller says of itself reaches the engines, and decides who waits and who is refused."""

import asyncio
from typing import Any

import aiohttp
import grpc
import pytest

from service.callers import Priority, current_priority
from service.classification.turns import Turns
from service.waiting import Place
from tests.service.conftest import StartServer, image_file, open_channel, total
from tests.service.fakes import FakeTranslator
from tests.service.test_grpc_calls import (
    classification,
    details,
    failure,
    images,
    texts,
    trailers,
    translation,
)
from tests.service.test_open_inference import typed


class Listening(FakeTranslator):
    """Remembers how urgent its calls are."""

    async def _suffer(self, text: str) -> None:
        self.heard = [*getattr(self, "heard", ()), current_priority.get().value]


async def test_the_engine_learns_how_urgent_a_call_is(
    start_server: StartServer,
    fakes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.service.conftest.FakeTranslator", Listening)
    async with start_server() as server, open_channel(server) as channel:
        for said in ("bulk", "interactive", None):
            metadata = [("attendant-priority", said)] if said else []
            await translation(channel).Translate(texts("Hello."), metadata=metadata)
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            await infer(typed("Hello.").SerializeToString(), metadata=metadata)
            async with (
                aiohttp.ClientSession(f"http://localhost:{server.http_port}") as http,
                http.post(
                    "/v1/translate", json={"contents": ["Hello."]}, headers=dict(metadata)
                ) as response,
            ):
                assert response.status == 200
        expected = ["bulk"] * 3 + ["interactive"] * 6
        assert fakes["en-de"].heard == expected


async def test_what_is_no_priority_is_refused_with_what_there_is(start_server: StartServer) -> None:
    message = "attendant-priority is 'urgent', expected interactive or bulk"
    async with start_server() as server, open_channel(server) as channel:
        metadata = [("attendant-priority", "urgent")]
        error = await failure(translation(channel).Translate(texts("Hello."), metadata=metadata))
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, message)
        async with (
            aiohttp.ClientSession(f"http://localhost:{server.http_port}") as http,
            http.post(
                "/v1/translate", json={"contents": ["Hello."]}, headers=dict(metadata)
            ) as response,
        ):
            assert response.status == 400
            assert (await response.json())["error"]["message"] == message


async def test_a_named_caller_gets_its_share_of_a_queue_and_no_more(
    start_server: StartServer,
) -> None:
    given: dict[str, Any] = {"max_queued_images": 4, "caller_metadata": "x-team"}
    async with start_server(**given) as server, open_channel(server) as channel:
        three = images(*[image_file()] * 3)
        error = await failure(
            classification(channel).Classify(three, metadata=[("x-team", "blue")])
        )
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == (
            "0 images of 'blue' wait, 3 more would pass a caller's limit of 2"
        )
        assert details(error)["ErrorInfo"].reason == "CALLER_QUEUE_FULL"
        assert trailers(error)["grpc-retry-pushback-ms"] == "-1"
        two = images(*[image_file()] * 2)
        await classification(channel).Classify(two, metadata=[("x-team", "blue")])
        await classification(channel).Classify(three)
        rejected = "attendant_requests_rejected_total"
        assert total(server.metrics, rejected, reason="CALLER_QUEUE_FULL") == 1


async def test_turns_go_by_place_and_are_lost_by_nobody() -> None:
    turns = Turns(1)
    order: list[str] = []

    async def take(name: str, place: Place) -> None:
        async with turns.turn(place):
            order.append(name)
            await asyncio.sleep(0)

    bulk = Place(0.0, Priority.BULK)
    tasks = [
        asyncio.create_task(take(name, place))
        for name, place in (
            ("first", Place()),
            ("bulk", bulk),
            ("late", Place(9.0)),
            ("leaver", Place(2.0)),
            ("early", Place(1.0)),
        )
    ]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["first", "early", "late", "bulk"]


@pytest.mark.parametrize("ticks", range(4))
async def test_who_is_cancelled_in_the_moment_of_its_turn_passes_it_on(ticks: int) -> None:
    turns = Turns(1)
    held, release = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with turns.turn(Place()):
            held.set()
            await release.wait()

    async def take() -> None:
        async with turns.turn(Place()):
            pass

    holder, leaver = asyncio.create_task(hold()), asyncio.create_task(take())
    await held.wait()
    release.set()
    for _ in range(ticks):
        await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(holder, leaver, return_exceptions=True)
    async with asyncio.timeout(30):
        await take()
