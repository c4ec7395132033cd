"""Errors as JSON, in the shape that Google's APIs use, with HTTP's own code and Retry-After."""

import math
from typing import Any, Final

from aiohttp import web
from google.protobuf import json_format

from service.errors import AttendantError, InvalidArgument, NotFound
from service.rpc.status import to_status

_HTTP_CODES: Final = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}

_HTTP_CODES_OF_REASONS: Final = {"MESSAGE_TOO_LARGE": 413}

# What aiohttp itself refuses.
_ERRORS: Final = {404: NotFound}
_STATUS_NAMES: Final = {405: "UNIMPLEMENTED"}


def error_response(error: AttendantError) -> web.Response:
    """The response to a call that failed with an error of ours."""
    status = json_format.MessageToDict(to_status(error), preserving_proto_field_name=True)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == "UNAUTHENTICATED" else {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    details = status.get("details", [])
    code = _HTTP_CODES_OF_REASONS.get(error.reason, _HTTP_CODES[error.status])
    return _response(code, error.status, status["message"], details, headers)


def response_of_http_exception(error: web.HTTPException) -> web.Response:
    """The response to what is wrong as HTTP: path, method."""
    known = _ERRORS.get(error.status, InvalidArgument)(error.text or error.reason)
    details = json_format.MessageToDict(to_status(known), preserving_proto_field_name=True)
    name = _STATUS_NAMES.get(error.status, known.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return _response(error.status, name, known.message, details["details"], headers)


def _response(
    code: int, status: str, message: str, details: list[Any], headers: dict[str, str]
) -> web.Response:
    error = {"code": code, "status": status, "message": message, "details": details}
    return web.json_response({"error": error}, status=code, headers=headers)
