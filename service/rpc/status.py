"""An error of ours as google.rpc.Status, the same in gRPC, in JSON and beside a single result."""

from itertools import accumulate, takewhile
from urllib.parse import quote

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service.errors import ERROR_DOMAIN, AttendantError

# Trailers over 8 KiB are refused by many clients, and the message is in them twice. In gRPC's own
# all but printable ASCII is percent-encoded, three bytes for each.
_MAX_ENCODED_BYTES = 1500
_PLAIN = "".join(map(chr, range(ord(" "), ord("~") + 1))).replace("%", "")


def to_status(error: AttendantError, *, field: str | None = None) -> status_pb2.Status:
    """Status with ErrorInfo, and with BadRequest and RetryInfo where they apply.

    `field` is the path of the faulty item, for an error that does not know it.
    """
    message = shorten(error.message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)]
    if path := error.field or field:
        details.append(_bad_request(path, message, error.reason))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.status), message=message, details=map(_packed, details)
    )


def shorten(message: str) -> str:
    """The message as UTF-8 can have it, cut where it would grow over the limit of trailers."""
    message = message.encode(errors="backslashreplace").decode()  # JSON may have half a character
    if message.isascii() and message.isprintable() and "%" not in message:
        length = min(len(message), _MAX_ENCODED_BYTES)
    else:
        ends = accumulate(len(quote(one, safe=_PLAIN)) for one in message)
        length = sum(1 for _ in takewhile(lambda end: end <= _MAX_ENCODED_BYTES, ends))
    if length == len(message):
        return message
    return f"{message[:length]}... ({len(message)} characters)"


def _bad_request(path: str, message: str, reason: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=path, description=message, reason=reason
    )
    return error_details_pb2.BadRequest(field_violations=[violation])


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
