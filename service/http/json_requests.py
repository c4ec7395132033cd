"""Bodies of JSON -> messages: one long body at a time, off the event loop."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from service.errors import InvalidArgument, ResourceExhausted, UndecodableMessage
from service.rpc.conversion import MAX_CONTENTS, MAX_IMAGES, check_count

Request = TypeVar("Request", bound=Message)

# Longer JSON is parsed in a thread: this takes about 1 ms of the event loop.
INLINE_BYTES = 32 * 1024
BODIES_IN_MEMORY = 4  # of the largest size, that are parsed or wait for it
RETRY_SECONDS = 1.0

# Checked before a message is made, which takes a hundred times as long as to read the JSON.
_MAX_ITEMS: Final = {"contents": MAX_CONTENTS, "images": MAX_IMAGES}


class JsonRequests:
    """Parses them in a thread of its own: texts and images that are prepared wait for none."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_waiting = BODIES_IN_MEMORY * max_bytes
        self._num_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="json")

    async def parse(self, body: bytes, message: Request) -> Request:
        """The message, filled; a caller that leaves before its turn costs nothing.

        Raises UndecodableMessage, InvalidArgument, and ResourceExhausted where too much waits.
        """
        if len(body) <= INLINE_BYTES:
            return _parse(body, message)
        if self._num_bytes + len(body) > self._max_waiting:
            raise ResourceExhausted(
                f"{self._num_bytes} bytes of JSON wait to be parsed",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._num_bytes += len(body)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _parse, body, message)
        finally:
            self._num_bytes -= len(body)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _parse(body: bytes, message: Request) -> Request:
    name = message.DESCRIPTOR.name
    try:
        fields = json.loads(body.decode(), object_pairs_hook=_without_doubles)
        if isinstance(fields, dict):
            _check_items(fields)
        json_format.ParseDict(fields, message)
    except (InvalidArgument, MemoryError):
        raise
    except Exception as error:  # of values of the wrong kind json_format makes any
        reason = str(error).partition("\n")[0]  # what follows lists names in another spelling
        raise UndecodableMessage(f"the body is no JSON of {name}: {reason}") from error
    return message


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r:.100} comes twice")
        found[name] = value
    return found


def _check_items(fields: dict[str, Any]) -> None:
    for name, limit in _MAX_ITEMS.items():
        if isinstance(items := fields.get(name), list) and len(items) > limit:
            check_count(len(items), limit, name)
