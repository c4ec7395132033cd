"""Every error a call or one of its texts and images can end with.

    AttendantError
    ├── InvalidArgument      what was sent is wrong, and a retry cannot help
    ├── Unauthenticated      the server does not know who calls
    ├── NotFound             no such model, version or language pair
    ├── ResourceExhausted    the server is full, or the message too large
    ├── Unavailable          not reachable, starting or draining
    ├── DeadlineExceeded     the answer did not come in time
    ├── Cancelled            the call was cancelled
    └── InternalError        the server's own fault

Knows how errors are written on the wire (google.rpc.Status); does not know when to retry.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

STATUS_DETAILS_KEY = "grpc-status-details-bin"
RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field, named by its path: `contents[3]`, `options.beam_size`."""

    field: str
    description: str


class AttendantError(Exception):
    """A call, or one text or image of it, failed.

    `status` is the gRPC status name, `reason` the server's closed-list reason ("" where something
    else than the server answered), `retry_after_seconds` when a retry may succeed, None if unknown.
    """

    status: str = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        status: str | None = None,
        reason: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status or type(self).status
        self.message = message
        self.reason = reason
        self.field_violations = field_violations
        self.retry_after_seconds = retry_after_seconds
        self.request_id = ""

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.status}{reason}: {self.message}"


class InvalidArgument(AttendantError):
    """What was sent is wrong, and a retry cannot help."""

    status = "INVALID_ARGUMENT"


class Unauthenticated(AttendantError):
    """The server wants a token or a certificate that it knows."""

    status = "UNAUTHENTICATED"


class NotFound(AttendantError):
    """There is no such model, version or language pair."""

    status = "NOT_FOUND"


class ResourceExhausted(AttendantError):
    """The server's queue is full, the deadline cannot be met, or a message is too large."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(AttendantError):
    """The server cannot be reached, is starting or is draining."""

    status = "UNAVAILABLE"


class DeadlineExceeded(AttendantError):
    """The answer did not come in time."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(AttendantError):
    """The call was cancelled."""

    status = "CANCELLED"


class InternalError(AttendantError):
    """The server failed; its log holds the reason under the request id."""

    status = "INTERNAL"


_CLASSES: dict[str, type[AttendantError]] = {
    error.status: error
    for error in (
        InvalidArgument,
        Unauthenticated,
        NotFound,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        InternalError,
    )
}


class FailedCall(Protocol):
    """What grpc's and grpc.aio's errors have in common, which grpc.RpcError does not declare."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Metadata | None: ...


def trailers_of(failure: grpc.RpcError) -> dict[str, str | bytes]:
    """The trailing metadata of a failed call."""
    return dict(cast(FailedCall, failure).trailing_metadata() or ())


def error_from_call(failure: grpc.RpcError, request_id: str) -> AttendantError:
    """The error of a whole call, with whatever details its trailers carry."""
    call = cast(FailedCall, failure)
    error = _error(call.code().name, call.details() or "", _details(trailers_of(failure)))
    error.request_id = request_id
    return error


def error_from_status(status: status_pb2.Status) -> AttendantError | None:
    """The error of one text or image; None if it succeeded."""
    if status.code == code_pb2.OK:
        return None
    return _error(_code_name(status.code), status.message, status.details)


def _code_name(code: int) -> str:
    return str(code_pb2.Code.Name(code)) if code in code_pb2.Code.values() else "UNKNOWN"


def _details(trailers: dict[str, str | bytes]) -> Iterable[Any]:
    """The packed details of a call; none where they are absent or a proxy has mangled them."""
    encoded = trailers.get(STATUS_DETAILS_KEY, b"")
    if not isinstance(encoded, bytes):
        return ()
    try:
        return cast(Iterable[Any], status_pb2.Status.FromString(encoded).details)
    except DecodeError:
        return ()


def _error(status: str, message: str, details: Iterable[Any]) -> AttendantError:
    reason = ""
    violations: list[FieldViolation] = []
    retry_after_seconds: float | None = None
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request):
            violations += [
                FieldViolation(violation.field, violation.description)
                for violation in bad_request.field_violations
            ]
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return _CLASSES.get(status, AttendantError)(
        message,
        status=status,
        reason=reason,
        field_violations=tuple(violations),
        retry_after_seconds=retry_after_seconds,
    )
