"""Connections that do nothing, that do not read what they asked for, and that talk rubbish."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from attendant.v1.translation_pb2 import StreamTranslateRequest
from bench.server import RunningServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

AT_ONCE = 200  # connections being opened
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
NO_WINDOW = b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x04" + bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE 0
HALF_HELLO = bytes.fromhex("16 0301 0200 01 0001fc 0303") + bytes(32)
MANY_TEXTS = 1000  # of a request whose answer nobody reads


@asynccontextmanager
async def crowd(
    server: RunningServer, num_idle: int, num_rude: int, seed: int
) -> AsyncIterator[None]:
    """All at once, connected for as long as the block lasts."""
    rng = random.Random(seed)
    grpc_port, http_port = server.grpc_port, urlsplit(server.http_target).port
    assert http_port is not None
    gate = asyncio.Semaphore(AT_ONCE)
    opened: list[Streams] = []

    async def connect(port: int, act: Callable[[Streams], Awaitable[None]]) -> None:
        async with gate:
            streams = await asyncio.open_connection("localhost", port, limit=1)
            opened.append(streams)
            with suppress(ConnectionError):  # rubbish is hung up on
                await act(streams)

    rude = [
        *((grpc_port, act) for act in (_noise(rng), _half_hello, _broken_frames(rng), no_reading)),
        *((http_port, act) for act in (_noise(rng), _half_hello, _half_head, _no_reading_http)),
    ]
    idle = [(grpc_port if n % 2 else http_port, _nothing) for n in range(num_idle)]
    try:
        await asyncio.gather(*(connect(*one) for one in [*idle, *(rude * num_rude)]))
        yield
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def _nothing(streams: Streams) -> None:
    """Connect alone."""


def _noise(rng: random.Random) -> Callable[[Streams], Awaitable[None]]:
    async def act(streams: Streams) -> None:
        await _send(streams, rng.randbytes(rng.randint(1, 2000)))

    return act


def _broken_frames(rng: random.Random) -> Callable[[Streams], Awaitable[None]]:
    """A good beginning of HTTP/2."""

    async def act(streams: Streams) -> None:
        await _send(streams, PREFACE + EMPTY_SETTINGS + rng.randbytes(rng.randint(9, 2000)))

    return act


async def _half_hello(streams: Streams) -> None:
    """Of TLS."""
    await _send(streams, HALF_HELLO)


async def _half_head(streams: Streams) -> None:
    """Of HTTP, as slowloris does it."""
    await _send(streams, b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n")


async def _no_reading_http(streams: Streams) -> None:
    """Ask for more than the system buffers, and never read."""
    body = json.dumps({"contents": [" " * 1000] * MANY_TEXTS}).encode()
    head = f"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    await _send(streams, head.encode() + body)


async def no_reading(streams: Streams) -> None:
    """Begin a stream of translations and open no window for it: what comes back has to wait."""
    message = StreamTranslateRequest()
    message.request.contents.extend(["A man is riding a horse on the beach."] * 20)
    content = message.SerializeToString()
    body = b"\0" + len(content).to_bytes(4, "big") + content
    await _send(streams, PREFACE + NO_WINDOW + _headers() + _frame(0, 1, body))


def _headers() -> bytes:
    """HEADERS of stream 1, literal fields without indexing (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/attendant.v1.TranslationService/StreamTranslate",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\0" + b"".join(bytes([len(word)]) + word.encode() for word in pair)
        for pair in fields.items()
    )
    return _frame(1, 4, block)


def _frame(kind: int, flags: int, content: bytes) -> bytes:
    """Of stream 1 (RFC 9113, 4.1)."""
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + b"\0\0\0\x01" + content


async def _send(streams: Streams, content: bytes) -> None:
    _, writer = streams
    writer.write(content)
    await asyncio.sleep(0)
