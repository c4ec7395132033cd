"""Calls that Ray Serve's gRPC proxy takes and one of our replicas answers: the same services,
behind the same interceptor, with Ray's context in place of gRPC's.

Facts of Ray 2.60 that this works around: a method that raises loses its trailers, one that returns
keeps status, details and trailers of its context; a caller's deadline stays with the proxy, which
cancels the call when it is over.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2_grpc

from attendant.v1 import classification_pb2_grpc, model_pb2_grpc, translation_pb2_grpc
from service.rpc.health import SERVICE_NAME as HEALTH_SERVICE
from service.rpc.interceptors import CallInterceptor, Trailers, tolerant

# A watch is a call that never ends: a replica that is watched would never be idle. Clients that are
# told UNIMPLEMENTED go by their connections instead.
_LEFT_OUT = (f"/{HEALTH_SERVICE}/Watch",)

Handlers = dict[str, Any]  # "/PACKAGE.SERVICE/METHOD" -> grpc.RpcMethodHandler


class RayCallContext(Protocol):
    """What is used of ray.serve.grpc_util.RayServegRPCContext."""

    def auth_context(self) -> dict[str, Any]: ...
    def invocation_metadata(self) -> list[tuple[str, str | bytes]]: ...
    def set_code(self, code: grpc.StatusCode) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None: ...


def add_services(servicer: Any, server: Any) -> None:
    """Ray Serve's proxy calls this to learn which calls to route, and how to decode them.

    A request that cannot be decoded goes to a replica, too, where it is refused as everywhere.
    """
    for service, handlers in _by_service(registered(lambda to: _add_to(servicer, to))).items():
        for name, handler in handlers.items():
            handlers[name] = handler._replace(
                request_deserializer=tolerant(handler.request_deserializer)
            )
        generic = grpc.method_handlers_generic_handler(service, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(service, handlers)


def registered(add: Callable[[Any], None]) -> Handlers:
    """The handlers of the services that `add` adds to a server, without those left out here."""
    registry = _Registry({})
    add(registry)
    return {path: found for path, found in registry.handlers.items() if path not in _LEFT_OUT}


def _add_to(servicer: Any, server: Any) -> None:
    translation_pb2_grpc.add_TranslationServiceServicer_to_server(servicer, server)
    classification_pb2_grpc.add_ClassificationServiceServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def _by_service(handlers: Handlers) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = {}
    for path, handler in handlers.items():
        _, service, name = path.split("/")
        services.setdefault(service, {})[name] = handler
    return services


@dataclass(frozen=True, slots=True)
class _Registry:
    """Takes the place of a grpc.aio.Server where generated code registers its methods."""

    handlers: Handlers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """The older way, by which the same methods come."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for name, handler in handlers.items():
            self.handlers[f"/{service}/{name}"] = handler


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """What the interceptor reads of a grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: list[tuple[str, str | bytes]]


class _Aborted(Exception):
    """Ends a call; its context has the status."""


class _Context:
    """What the interceptor and the servicers use of a grpc.aio.ServicerContext."""

    def __init__(self, carried: RayCallContext) -> None:
        self._carried = carried
        self.responses: asyncio.Queue[Message | None] = asyncio.Queue()

    def auth_context(self) -> dict[str, Any]:
        return self._carried.auth_context()

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._carried.invocation_metadata()

    def add_done_callback(self, callback: Callable[["_Context"], None]) -> None:
        """Sending the answer is its carrier's to end."""
        callback(self)

    def time_remaining(self) -> None:
        """Unknown here."""

    def set_trailing_metadata(self, trailers: Trailers) -> None:
        self._carried.set_trailing_metadata(list(trailers))

    async def write(self, response: Message) -> None:
        self.responses.put_nowait(response)

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Trailers) -> None:
        self._carried.set_code(code)
        self._carried.set_details(details)
        self.set_trailing_metadata(trailers)
        raise _Aborted


class RayCalls:
    """Answers calls by their paths."""

    def __init__(self, handlers: Handlers, interceptor: CallInterceptor) -> None:
        self._handlers = handlers
        self._interceptor = interceptor

    async def answer(self, path: str, request: Any, carried: RayCallContext) -> Message:
        """A unary call; after an error an empty message, which gRPC drops."""
        context = _Context(carried)
        handler = await self._handler(path, context)
        try:
            response: Message = await handler.unary_unary(request, context)
        except _Aborted:
            return Empty()
        return response

    async def stream(
        self, path: str, request: Any, carried: RayCallContext
    ) -> AsyncIterator[Message]:
        """A call that streams; an error comes with an empty message, which says nothing."""
        context = _Context(carried)
        handler = await self._handler(path, context)
        calling = asyncio.ensure_future(handler.unary_stream(request, context))
        calling.add_done_callback(lambda _: context.responses.put_nowait(None))
        try:
            while (response := await context.responses.get()) is not None:
                yield response
            await calling
        except _Aborted:
            yield Empty()
        finally:
            calling.cancel()

    async def _handler(self, path: str, context: _Context) -> Any:
        async def find(_: object) -> Any:
            return self._handlers[path]

        details: Any = _CallDetails(path, context.invocation_metadata())
        return await self._interceptor.intercept_service(find, details)
