"""Just enough HTTP/2 to see what a server does with a connection (RFC 9113, 4.1 and 6)."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
MAX_CONCURRENT_STREAMS = 3


@dataclass(frozen=True)
class Frame:
    """A frame of the connection."""

    kind: int
    flags: int
    payload: bytes

    @property
    def settings(self) -> dict[int, int]:
        """Of a SETTINGS frame."""
        return dict(struct.iter_unpack(">HI", self.payload))


class Connection:
    """A client that says nothing of itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, kind: int, payload: bytes = b"", flags: int = 0) -> None:
        header = struct.pack(">I", len(payload))[1:] + bytes((kind, flags, 0, 0, 0, 0))
        self._writer.write(header + payload)

    async def frames(self) -> AsyncIterator[Frame]:
        """Until the server closes the connection."""
        async with asyncio.timeout(30):
            while True:
                try:
                    header = await self._reader.readexactly(9)
                    payload = await self._reader.readexactly(int.from_bytes(header[:3]))
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                yield Frame(header[3], header[4], payload)

    async def next(self, kind: int) -> Frame:
        """The next frame of a kind that is no acknowledgement."""
        async for frame in self.frames():
            if frame.kind == kind and not frame.flags & ACK:
                return frame
        raise AssertionError(f"the connection was closed before a frame of the kind {kind}")


@asynccontextmanager
async def connect(port: int) -> AsyncIterator[Connection]:
    """A connection whose first words have been exchanged."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE)
    connection = Connection(reader, writer)
    connection.send(SETTINGS)
    try:
        yield connection
    finally:
        writer.close()
