"""Log lines, plain or JSON, each with the id of its request; never texts or images."""

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from typing import Literal

REQUEST_ID_HEADER = "x-request-id"

current_request_id: ContextVar[str] = ContextVar("request_id", default="-")

_ACCEPTABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def configure_logging(level: str, log_format: Literal["plain", "json"]) -> None:
    """Send everything from `level` on to standard error."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_JsonFormatter() if log_format == "json" else _PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)


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
