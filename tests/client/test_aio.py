"""The asyncio client: what differs from the blocking one. They share all that reads and writes."""

import asyncio
from threading import Event
from typing import Any

import grpc
import pytest

from attendant import DeadlineExceeded, ResourceExhausted, TextDelta, Unavailable
from attendant.v1 import model_pb2
from tests.client.scripted import Failure


async def test_a_text_is_translated(script, async_client, translated):
    script.answers = [translated("Ein Mann.")]

    assert (await async_client.translate("A man.")).text == "Ein Mann."
    assert [item.text for item in await async_client.translate(["A man."])] == ["Ein Mann."]


async def test_a_stream_yields_its_events(script, async_client, streamed):
    script.answers = [streamed("Ein ", "Mann.")]

    events = [event async for event in async_client.translate_stream("A man.")]

    assert events[:2] == [TextDelta(0, "Ein "), TextDelta(0, "Mann.")]
    assert len(events) == 4


async def test_an_image_is_classified(script, async_client, classified, tmp_path):
    script.answers = [classified]
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"file")

    assert (await async_client.classify(path)).label.name == "cat"
    assert script.requests[0].images[0].content == b"file"


async def test_models_are_described(script, async_client, described):
    script.answers = [
        model_pb2.ListModelsResponse(models=[described]),
        model_pb2.GetModelResponse(model=described),
    ]

    [listed] = await async_client.models()

    assert await async_client.model("en-de") == listed


async def test_failures_are_tried_again_as_in_the_blocking_client(script, async_client, translated):
    script.answers = [
        Failure(grpc.StatusCode.UNAVAILABLE),
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms="1"),
        translated("x"),
    ]

    await async_client.translate("x")

    assert len(script.requests) == 3


async def test_a_full_server_that_forbids_it_is_not_tried_again(script, async_client):
    script.answers = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, pushback_ms="-1")]

    with pytest.raises(ResourceExhausted):
        await async_client.translate("x")

    assert len(script.requests) == 1


async def test_a_stream_is_not_tried_again_after_its_first_event(script, async_client, streamed):
    script.answers = [[streamed("Ja.")[0], Failure(grpc.StatusCode.UNAVAILABLE)]]

    with pytest.raises(Unavailable):
        _ = [event async for event in async_client.translate_stream("Yes.")]

    assert len(script.requests) == 1


async def test_a_call_ends_at_its_deadline(script, async_client):
    released = Event()
    script.answers = [lambda request, context: released.wait(10)]

    with pytest.raises(DeadlineExceeded):
        await async_client.health(timeout_seconds=0.1)

    released.set()


async def test_cancelling_the_task_cancels_the_call(script, async_client):
    arrived, cancelled = Event(), Event()

    def answer(request: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(cancelled.set)
        arrived.set()
        cancelled.wait(10)

    script.answers = [answer]
    call = asyncio.create_task(async_client.translate("x"))
    await asyncio.to_thread(arrived.wait, 10)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(cancelled.wait, 10)
