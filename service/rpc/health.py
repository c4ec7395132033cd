"""grpc.health.v1.Health: Check and Watch, for the server ("") and each service by its full name.

Our own, because grpcio-health-checking's Watch forgets all watchers of a service when one of them
leaves (read in its 1.81), and because watchers must leave for a drain to end.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import NotFound

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Every service is NOT_SERVING until `set` says otherwise."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._serving = dict.fromkeys(("", *services), False)
        self._leaving = False
        self._closed = False
        self._changed = asyncio.Event()

    def set(self, serving: Mapping[str, bool]) -> None:
        """Tell every watcher what has changed."""
        if not self._leaving:
            self._serving.update(serving)
            self._wake_watchers()

    def leave(self) -> None:
        """All NOT_SERVING, for good. Watches go on: who finds his ended would ask again."""
        self.set(dict.fromkeys(self._serving, False))
        self._leaving = True

    def close(self) -> None:
        """End every Watch, after it has told that all is NOT_SERVING."""
        self.leave()
        self._closed = True
        self._wake_watchers()

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service now."""
        if request.service not in self._serving:
            known = ", ".join(filter(None, self._serving))
            raise NotFound(f"no service {request.service}; there are: {known}")
        return self._response(request.service)

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one service now and whenever it changes; SERVICE_UNKNOWN for no service."""
        last: health_pb2.HealthCheckResponse | None = None
        while True:
            changed = self._changed
            response = self._response(request.service)
            if response != last:
                yield response
                last = response
            elif self._closed:
                return
            else:
                await changed.wait()

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        serving = self._serving.get(service)
        if serving is None:
            return _Status(status=_Status.SERVICE_UNKNOWN)
        return _Status(status=_Status.SERVING if serving else _Status.NOT_SERVING)

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
