"""Log lines, plain or JSON, each with the id of its request; JSON ones with that of its trace,
and at the end of a call (`extra={"timeline": ...}`) with where its time went.

Never texts, images, tokens or addresses. What an exception says may quote them, so of each only the
traceback and the type are logged, whoever logs it, unless more is asked for.
"""

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Literal

from service.timeline import Timeline

REQUEST_ID_HEADER = "x-request-id"

current_request_id: ContextVar[str] = ContextVar("request_id", default="-")
current_trace_id: ContextVar[str] = ContextVar("trace_id", default="")

_ACCEPTABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def configure_logging(
    level: str, log_format: Literal["plain", "json"], *, contents: bool = False
) -> None:
    """Send everything from `level` on to standard error; with `contents`, callers' words, too."""
    stream = logging.StreamHandler(sys.stderr)
    kind = _JsonFormatter if log_format == "json" else _PlainFormatter
    stream.setFormatter(kind(contents=contents))
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
    if not contents:
        logging.getLogger("aiohttp.server").addFilter(_leave_out_contents)
        logging.getLogger("opentelemetry.trace.span").addFilter(_leave_out_trace_state)


def _leave_out_contents(record: logging.LogRecord) -> bool:
    """Of what is no HTTP, aiohttp logs the bytes and who sent them: only its kind is kept.

    That is no error of ours, and strangers may not fill the log with it.
    """
    error = record.exc_info[0] if record.exc_info else None
    record.msg = "a request was not served"
    record.args = ()
    if error is not None:
        record.msg, record.args = "a request was not served: %s", (error.__name__,)
        if error.__module__ == "aiohttp.http_exceptions":
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    record.exc_info = None
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


def _leave_out_trace_state(record: logging.LogRecord) -> bool:
    """Of a tracestate that is not W3C's OpenTelemetry logs what it says."""
    if record.levelno >= logging.WARNING:
        record.msg, record.args = "a caller's tracestate is not as W3C has it", ()
    return True


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


def _moment(seconds: float) -> str:
    """RFC 3339, in local time, to the millisecond."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


class _Formatter(logging.Formatter):
    def __init__(self, *, contents: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")
        self._contents = contents

    def formatException(self, ei: Any) -> str:
        if self._contents:
            return super().formatException(ei)
        return "".join(_places(ei[1])) if ei[1] is not None else ""


class _PlainFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.request_id = current_request_id.get()
        return super().format(record)


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _moment(record.created),
            "level": record.levelname,
            "logger": record.name,
            "request_id": current_request_id.get(),
            "message": record.getMessage(),
        }
        if trace_id := current_trace_id.get():
            fields["trace_id"] = trace_id
        if isinstance(timeline := getattr(record, "timeline", None), Timeline):
            fields["call"] = timeline.summary()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
