"""Calls of every kind and end, so that every metric moves."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from tests.server_process import Ports

ROOT = Path(__file__).resolve().parents[2]
SHIP = (ROOT / "examples" / "ship.jpg").read_bytes()
TEXTS = ["A man is riding a horse on the beach.", "Two dogs.", "A woman in a red dress sits."]


def texts(*contents: str, beam_size: int = 1) -> translation_pb2.TranslateRequest:
    request = translation_pb2.TranslateRequest(contents=contents or TEXTS)
    request.options.beam_size = beam_size
    return request


async def call_all(channel: grpc.aio.Channel, session: aiohttp.ClientSession) -> None:
    """A round: answered, refused, too late, left, and wrong ones."""
    translation: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    classification: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
    images = classification_pb2.ClassifyRequest(images=[classification_pb2.Image(content=SHIP)] * 3)
    stream = translation_pb2.StreamTranslateRequest(request=texts())
    left = translation.Translate(texts(beam_size=4))
    calls = [
        translation.Translate(texts(), timeout=10),
        translation.Translate(texts(beam_size=4), timeout=10),
        translation.Translate(texts(*["Two dogs."] * 200), timeout=10),  # more than may wait
        translation.Translate(texts("Two dogs."), timeout=0.001),
        translation.Translate(translation_pb2.TranslateRequest()),
        translation.StreamTranslate(stream, timeout=10).read(),
        classification.Classify(images, timeout=10),
        left,
        session.post("/v1/translate", json={"contents": TEXTS}),
    ]
    asyncio.get_running_loop().call_later(0.005, left.cancel)
    await asyncio.gather(*map(end, calls))


async def end(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call


async def put_load(ports: Ports, seconds: float) -> None:
    """Rounds for so long."""
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
        aiohttp.ClientSession(f"http://127.0.0.1:{ports.http}") as session,
    ):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await call_all(channel, session)
