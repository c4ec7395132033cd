"""Calls as bytes over gRPC, without retries, and what became of each; as cheap as may be."""

import time
from dataclasses import dataclass
from typing import Any

import grpc.aio

from attendant.errors import error_from_call

TRANSLATE = "/attendant.v1.TranslationService/Translate"
STREAM = "/attendant.v1.TranslationService/StreamTranslate"
CLASSIFY = "/attendant.v1.ClassificationService/Classify"
# The limit of our server; gRPC's own is 4 MiB.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", 1 << 26),
    ("grpc.max_receive_message_length", 1 << 26),
    ("grpc.use_local_subchannel_pool", 1),  # a channel is a connection
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. Times are those of the monotonic clock, in seconds."""

    code: str  # gRPC's name
    begun: float
    seconds: float
    content: bytes = b""  # the response, where it is OK
    reason: str = ""  # the server's own, where it gave one
    message: str = ""

    @property
    def ended(self) -> float:
        """When the caller knew."""
        return self.begun + self.seconds

    @property
    def label(self) -> str:
        """Code and reason."""
        return f"{self.code} {self.reason}".rstrip()

    @property
    def is_server_gone(self) -> bool:
        """Whether gRPC, or the server, says that the server is leaving or has left.

        gRPC resets what reaches a server while its port closes: CANCELLED with no other text.
        """
        return self.code == "UNAVAILABLE" or (self.code, self.message) == ("CANCELLED", "CANCELLED")


def open_channel(target: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


def unary(channel: grpc.aio.Channel, path: str) -> Any:
    """A method that takes bytes and returns bytes."""
    return channel.unary_unary(path)


async def call(rpc: Any, request: bytes, timeout_seconds: float) -> Outcome:
    """One call; failing is an outcome."""
    begun = time.monotonic()
    try:
        content = await rpc(request, timeout=timeout_seconds)
    except grpc.aio.AioRpcError as failure:
        return failed(failure, begun)
    return Outcome("OK", begun, time.monotonic() - begun, content)


async def whole_stream(
    rpc: Any, request: bytes, timeout_seconds: float
) -> tuple[Outcome, list[bytes]]:
    """A call that is answered with a stream, and all messages of that."""
    begun = time.monotonic()
    messages: list[bytes] = []
    try:
        messages.extend([message async for message in rpc(request, timeout=timeout_seconds)])
    except grpc.aio.AioRpcError as failure:
        return failed(failure, begun), messages
    return Outcome("OK", begun, time.monotonic() - begun), messages


def failed(failure: grpc.aio.AioRpcError, begun: float) -> Outcome:
    """The outcome of a call that failed."""
    seconds = time.monotonic() - begun
    error = error_from_call(failure, "")
    return Outcome(error.status, begun, seconds, reason=error.reason, message=error.message)
