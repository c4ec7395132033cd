"""Callers of a server, ours or a peer's, in a process of their own.

A request of a translation is {"texts": [...]} and the fields of DecodingOptions. Messages are made
before the clock starts, and the stubs are called as they are: the less the client does, the more is
the servers'.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    common_pb2,
    translation_pb2,
    translation_pb2_grpc,
)
from bench.contenders.protocol import serve, timed
from bench.load import run_open_loop

TIMEOUT_SECONDS = 600.0
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)

Request = translation_pb2.TranslateRequest
Response = translation_pb2.TranslateResponse
ClassifyRequest = classification_pb2.ClassifyRequest


class Seen(NamedTuple):
    """When the first word and the whole answer came, by the loop's clock, and the best texts."""

    first_at: float
    last_at: float
    texts: list[str]


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._channels: dict[str, grpc.aio.Channel] = {}

    def closed(
        self, target: str, requests: list[dict[str, Any]], num_callers: int
    ) -> dict[str, Any]:
        """So many callers share the requests."""
        messages = list(map(_message, requests))
        return self._loop.run_until_complete(self._closed(target, messages, num_callers))

    def open(
        self, target: str, requests: list[dict[str, Any]], arrivals: list[float], stream: bool
    ) -> dict[str, Any]:
        """Each request at its time; `stream` asks for words as they come."""
        messages = list(map(_message, requests))
        return self._loop.run_until_complete(self._open(target, messages, arrivals, stream))

    def classify(self, target: str, pictures: list[str], num_callers: int) -> dict[str, Any]:
        """So many callers share the pictures, which are paths, one a call."""
        messages = [_picture_message(Path(path)) for path in pictures]
        return self._loop.run_until_complete(self._classify(target, messages, num_callers))

    def forget(self, target: str) -> dict[str, Any]:
        """Close the connection to a server that is about to end."""
        if channel := self._channels.pop(target, None):
            self._loop.run_until_complete(channel.close())
        return {}

    async def _closed(
        self, target: str, messages: Sequence[Request], num_callers: int
    ) -> dict[str, Any]:
        stub = translation_pb2_grpc.TranslationServiceStub(await self._channel(target))
        pending = iter(enumerate(messages))
        latencies = [0.0] * len(messages)
        texts: list[list[str]] = [[] for _ in messages]

        async def caller() -> None:
            for index, message in pending:
                begun = time.perf_counter()
                response = await stub.Translate(message, timeout=TIMEOUT_SECONDS)
                latencies[index] = time.perf_counter() - begun
                texts[index] = _best_texts(response)

        with timed() as times:
            await asyncio.gather(*(caller() for _ in range(num_callers)))
        return {**times, "latencies": latencies, "texts": texts}

    async def _classify(
        self, target: str, messages: Sequence[ClassifyRequest], num_callers: int
    ) -> dict[str, Any]:
        stub = classification_pb2_grpc.ClassificationServiceStub(await self._channel(target))
        pending = iter(enumerate(messages))
        labels = [0] * len(messages)

        async def caller() -> None:
            for index, message in pending:
                response = await stub.Classify(message, timeout=TIMEOUT_SECONDS)
                labels[index] = response.results[0].labels[0].index

        with timed() as times:
            await asyncio.gather(*(caller() for _ in range(num_callers)))
        return {**times, "labels": labels}

    async def _open(
        self, target: str, messages: Sequence[Request], arrivals: Sequence[float], stream: bool
    ) -> dict[str, Any]:
        stub = translation_pb2_grpc.TranslationServiceStub(await self._channel(target))
        ask = _streamed if stream else _whole
        calls = [partial(ask, stub, message) for message in messages]
        answers = await run_open_loop(calls, arrivals)
        return {
            "latencies": [seen.last_at - due for due, seen in answers],
            "first_token": [seen.first_at - due for due, seen in answers],
            "texts": [seen.texts for _, seen in answers],
        }

    async def _channel(self, target: str) -> grpc.aio.Channel:
        """A connection that is ready."""
        channel = self._channels.get(target)
        if channel is None:
            channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
            self._channels[target] = channel
        await channel.channel_ready()
        return channel


async def _whole(stub: Any, message: Request) -> Seen:
    response = await stub.Translate(message, timeout=TIMEOUT_SECONDS)
    now = asyncio.get_running_loop().time()
    return Seen(now, now, _best_texts(response))


async def _streamed(stub: Any, message: Request) -> Seen:
    loop = asyncio.get_running_loop()
    first_at = 0.0
    results = []
    request = translation_pb2.StreamTranslateRequest(request=message)
    async for response in stub.StreamTranslate(request, timeout=TIMEOUT_SECONDS):
        first_at = first_at or loop.time()
        if response.HasField("finished"):
            results.append(response.finished.result)
    return Seen(first_at, loop.time(), _best_texts(Response(results=results)))


def _message(request: dict[str, Any]) -> Request:
    options = dict(request)
    texts = options.pop("texts")
    return Request(
        contents=texts,
        options=common_pb2.DecodingOptions(
            early_stopping=common_pb2.EARLY_STOPPING_ALL_FINISHED, **options
        ),
        segmentation=translation_pb2.SEGMENTATION_NONE,
    )


def _picture_message(path: Path) -> ClassifyRequest:
    image = classification_pb2.Image(content=path.read_bytes())
    return ClassifyRequest(images=[image], top_k=1)


def _best_texts(response: Response) -> list[str]:
    """The best hypothesis of each text. Raises RuntimeError if one could not be translated."""
    for result in response.results:
        if result.status.code:
            raise RuntimeError(result.status.message)
    return [result.hypotheses[0].text for result in response.results]


if __name__ == "__main__":
    contender = Contender()
    serve(
        closed=contender.closed,
        open=contender.open,
        classify=contender.classify,
        forget=contender.forget,
    )
