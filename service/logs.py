"""Log lines, plain or JSON, each with the id of its request.

Never texts, images, tokens or addresses. What an exception says may quote them, so of a call that
failed by a bug its traceback is logged without its message, unless that is asked for.
"""

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

REQUEST_ID_HEADER = "x-request-id"

current_request_id: ContextVar[str] = ContextVar("request_id", default="-")

_ACCEPTABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def configure_logging(
    level: str, log_format: Literal["plain", "json"], *, contents: bool = False
) -> None:
    """Send everything from `level` on to standard error; with `contents`, callers' words, too."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonFormatter() if log_format == "json" else _PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
    if not contents:
        logging.getLogger("aiohttp.server").addFilter(_leave_out_contents)


def _leave_out_contents(record: logging.LogRecord) -> bool:
    """Of what is no HTTP, aiohttp logs the bytes and who sent them: only its kind is kept."""
    error = record.exc_info[0] if record.exc_info else None
    record.msg = "a request was not served"
    record.args = ()
    if error is not None:
        record.msg, record.args = "a request was not served: %s", (error.__name__,)
    record.exc_info = None
    return True


def log_failure(logger: logging.Logger, what: str, error: BaseException, *, whole: bool) -> None:
    """Log a bug that a call met: where it happened, and if `whole` what its exception says."""
    if whole:
        logger.error("%s failed", what, exc_info=error)
    else:
        logger.error("%s failed\n%s", what, "".join(_places(error)))


def _places(error: BaseException) -> Iterator[str]:
    """The traceback of an exception, after those that led to it, with its type for all it says."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        yield from _places(earlier)
        yield "\nwhich led to:\n\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}"


def request_id_or_new(given: str | None) -> str:
    """The caller's id if it is one printable word, else one of our own."""
    if given is not None and _ACCEPTABLE_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


class _PlainFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = current_request_id.get()
        return super().format(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": current_request_id.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
