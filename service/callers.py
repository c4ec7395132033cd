"""Who makes the call that is served, and how urgent it is.

gRPC and HTTP set both before a call reaches an engine.
"""

from contextvars import ContextVar
from enum import Enum

from service.errors import InvalidArgument

PRIORITY_HEADER = "attendant-priority"  # gRPC metadata and HTTP alike


class Priority(Enum):
    """Whether somebody waits for the answer. Bulk calls give way, and are never starved."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


# The name of the caller's token, else of its client certificate, else what the metadata key of the
# setting `caller_metadata` says; empty where there is none of them.
current_caller: ContextVar[str] = ContextVar("caller", default="")
current_priority: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


def read_priority(said: str | None) -> Priority:
    """What a caller says in its metadata. Raises InvalidArgument for what is no priority."""
    if not said:
        return Priority.INTERACTIVE
    try:
        return Priority(said)
    except ValueError:
        expected = " or ".join(one.value for one in Priority)
        raise InvalidArgument(
            f"{PRIORITY_HEADER} is {said[:40]!r}, expected {expected}", field=PRIORITY_HEADER
        ) from None
