"""Around every call: who calls, request id, draining, errors as google.rpc details, metrics, one
log line.

Facts of grpc.aio that this works around: an exception of a handler or of a deserializer reaches the
caller as UNKNOWN with its text; an expired deadline arrives as CancelledError, like a caller's
leaving; a generator that is left while its message is being written is told only by the collector.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio

from service.access import Access
from service.callers import PRIORITY_HEADER, current_caller, current_priority, read_priority
from service.errors import (
    AttendantError,
    InternalError,
    ResourceExhausted,
    Unauthenticated,
    UndecodableMessage,
)
from service.lifecycle import Lifecycle
from service.logs import REQUEST_ID_HEADER, current_request_id, request_id_or_new
from service.metrics import Metrics
from service.rpc.status import shorten, to_status
from service.timeline import Fact, Timeline, begin_timeline
from service.tracing import Span, Tracing

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
# In quotes: generic in its type stubs alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FoundHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Trailers = tuple[tuple[str, str | bytes], ...]
Failure = tuple[grpc.StatusCode, str, Trailers]

# All others (health, reflection, whether a model is ready) neither delay a drain, nor are refused
# by it, nor fill the log.
_OWN_PACKAGE = "attendant."
_OWN_METHODS = ("inference.GRPCInferenceService/ModelInfer",)

# By OpenTelemetry's conventions for gRPC: those that make a server's span an error.
_OUR_FAULTS = (
    *("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
)

# For probes, which have no tokens.
_OPEN_SERVICE = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands in for a request that could not be decoded."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Method:
    """A method, by the labels of grpc_server_*."""

    call_type: str
    service: str
    name: str

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.call_type, self.service, self.name

    @property
    def is_own(self) -> bool:
        return self.service.startswith(_OWN_PACKAGE) or self.full_name in _OWN_METHODS

    @property
    def full_name(self) -> str:
        """ "PACKAGE.SERVICE/METHOD"."""
        return f"{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A method's handler, and that for callers who may not call it."""

    method: _Method
    handler: Handler
    refusing: Handler


class CallInterceptor(grpc.aio.ServerInterceptor):
    """One for the whole server."""

    def __init__(
        self, *, lifecycle: Lifecycle, metrics: Metrics, access: Access, tracing: Tracing
    ) -> None:
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._access = access
        self._tracing = tracing
        self._wrapped: dict[str, _Wrapped] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[FoundHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> FoundHandler:
        """Wrap a method's handler, once; None (no such method) is left to gRPC."""
        path = handler_call_details.method
        if path not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[path] = self._wrap(path, handler)
        wrapped = self._wrapped[path]
        try:
            self._check_token(wrapped.method, handler_call_details.invocation_metadata)
        except Unauthenticated:
            return wrapped.refusing
        return wrapped.handler

    def _check_token(self, method: _Method, metadata: Any) -> str:
        if method.service == _OPEN_SERVICE:
            return ""
        return self._access.check_token(_metadata_value(metadata, "authorization"))

    def _wrap(self, path: str, handler: Handler) -> _Wrapped:
        _, service, name = path.split("/")
        serialization = {
            "request_deserializer": tolerant(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            method = _Method("bidi_stream", service, name)
            make = grpc.stream_stream_rpc_method_handler
            behavior: Any = handler.stream_stream
            if not handler.request_streaming:
                method = _Method("server_stream", service, name)
                make = grpc.unary_stream_rpc_method_handler
                behavior = handler.unary_stream
            wrapped = make(self._streaming(method, behavior), **serialization)
        else:
            method = _Method("unary", service, name)
            wrapped = grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), **serialization
            )
        if method.is_own:  # else a rate would not see the first error of its kind
            for code in grpc.StatusCode:
                self._metrics.calls_handled.labels(*method.labels, code.name)
        # Whatever the method is: a stream's handler begins before the first message is read.
        refusing: Handler = grpc.stream_stream_rpc_method_handler(self._unary(method, _refuse))
        return _Wrapped(method, wrapped, refusing)

    def _unary(self, method: _Method, behavior: Any) -> Any:
        return partial(self._serve, method, behavior)

    def _streaming(self, method: _Method, behavior: Any) -> Any:
        async def write_all(request: Any, context: Context) -> None:
            responses = cast(AsyncGenerator[Any, None], behavior(request, context))
            async with aclosing(responses):
                async for response in responses:
                    await _write(context, response)

        return partial(self._serve, method, write_all)

    async def _serve(
        self,
        method: _Method,
        behavior: Callable[[Any, Context], Awaitable[Any]],
        request: Any,
        context: Context,
    ) -> Any:
        metadata = context.invocation_metadata()
        request_id = request_id_or_new(_metadata_value(metadata, REQUEST_ID_HEADER))
        current_request_id.set(request_id)  # a call has a task, and so a context, of its own
        trailers: Trailers = ((REQUEST_ID_HEADER, request_id),)
        context.set_trailing_metadata(trailers)
        self._metrics.calls_started.labels(*method.labels).inc()
        if method.is_own:
            self._lifecycle.begin_answer()
            end_answer: Any = self._end_answer
            context.add_done_callback(end_answer)
        timeline = begin_timeline()
        span = self._begin_span(method, metadata, timeline)
        code = "OK"
        try:
            try:
                self._identify(method, metadata, context)
                with self._lifecycle.call() if method.is_own else nullcontext():
                    if isinstance(request, _Undecodable):
                        raise UndecodableMessage(
                            f"the {request.num_bytes} bytes are no request of {method.name}: "
                            "no protobuf, or a string in it is not UTF-8"
                        )
                    return await behavior(request, context)
            except AttendantError as error:
                failure = _failure(error, trailers)
            except Exception:
                logger.exception("%s/%s failed", method.service, method.name)
                failure = _failure(InternalError(), trailers)
            # gRPC and what it raises here keep each other until Python's collector comes: neither
            # the request nor the error that was caught, which knows it, may be within their reach.
            del request
            code = failure[0].name
            await context.abort(*failure)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
            raise
        finally:
            self._account(method, code, timeline, span)

    def _end_answer(self, _: object) -> None:
        self._lifecycle.end_answer()

    def _identify(self, method: _Method, metadata: Any, context: Context) -> None:
        """Learn who calls, and how urgent it is. Raises Unauthenticated and InvalidArgument."""
        token = self._check_token(method, metadata)
        certificate = _certificate_name(context) if self._access.needs_certificate else ""
        name = self._access.name_caller(token, certificate, dict(metadata or ()))
        current_caller.set(name)
        if method.is_own:
            current_priority.set(read_priority(_metadata_value(metadata, PRIORITY_HEADER)))

    def _begin_span(self, method: _Method, metadata: Any, timeline: Timeline) -> Span:
        """Nobody wants to see that of a probe."""
        if not method.is_own:
            return Span()
        headers = {key: value for key, value in metadata or () if isinstance(value, str)}
        return self._tracing.begin(method.full_name, headers, timeline)

    def _account(self, method: _Method, code: str, timeline: Timeline, span: Span) -> None:
        timeline.end()
        seconds = timeline.ended - timeline.begun
        timeline.facts |= {"method": method.full_name, "status": code}
        attributes: dict[str, Fact] = {
            "rpc.system": "grpc",
            "rpc.service": method.service,
            "rpc.method": method.name,
            "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
        }
        error = code if code in _OUR_FAULTS else ""
        self._tracing.end(span, timeline, attributes, error=error)
        self._metrics.calls_handled.labels(*method.labels, code).inc()
        self._metrics.call_seconds.labels(*method.labels).observe(seconds)
        # Refusals are counted, not logged one by one: that would make an overload worse, and let
        # strangers fill the log.
        is_refused = (
            code == ResourceExhausted.status and not timeline.was_let_in
        ) or code == Unauthenticated.status
        is_news = method.is_own and not is_refused
        level = logging.INFO if is_news else logging.DEBUG
        logger.log(
            level,
            "%s %s in %.1f ms",
            *(method.full_name, code, seconds * 1000),
            extra={"timeline": timeline},
        )


async def _write(context: Context, response: Any) -> None:
    """Send one message. Raises CancelledError where the call has ended while it waited to be read.

    gRPC may tell of that by a write that fails, before it cancels the task.
    """
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


def _failure(error: AttendantError, trailers: Trailers) -> Failure:
    """What a call is aborted with."""
    details = to_status(error).SerializeToString()
    trailers += (("grpc-status-details-bin", details),)
    if error.pushback:
        trailers += (("grpc-retry-pushback-ms", str(_pushback_milliseconds(error))),)
    return grpc.StatusCode[error.status], shorten(error.message), trailers


def _pushback_milliseconds(error: AttendantError) -> int:
    """-1 tells gRPC's own retries that none can help."""
    if error.retry_after_seconds is None:
        return -1
    return max(round(error.retry_after_seconds * 1000), 1)


async def _refuse(request: Any, context: Context) -> Any:
    """For a token that became known between the two looks at it."""
    raise Unauthenticated("the token is not known")


def _certificate_name(context: Context) -> str:
    """The common name of the caller's verified certificate, or its first other name."""
    found = context.auth_context()
    names = [*found.get("x509_common_name", ()), *found.get("x509_subject_alternative_name", ())]
    return next((name.decode(errors="replace") for name in names if name), "")


def _metadata_value(metadata: Any, name: str) -> str | None:
    for key, value in metadata or ():
        if key == name:
            return value if isinstance(value, str) else None
    return None


def tolerant(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Decodes what can be; the interceptor refuses the rest, after looking at who calls."""

    def deserialize(content: bytes) -> Any:
        try:
            return deserializer(content) if deserializer is not None else content
        except Exception:  # protobuf's DecodeError; the caller is told, by name and size alone
            return _Undecodable(len(content))

    return deserialize
