"""Attendant as an application of Ray Serve: Ray places, scales and replaces the replicas, each of
which is our server without its gRPC port.

A call goes to the gRPC proxy of some node (`service.rpc.ray:add_services` tells it our methods), by
it to a replica, to the method here that has the RPC's name, and from there through the interceptor
and the servicers of every other server: in-flight batches, errors with reasons, logs and metrics
are the same. Proxies choose between replicas by the calls that run there, and prefer those which
have had the model that the metadata key `multiplexed_model_id` names; what a request itself says
decides which model answers. A replica loads what it is asked for, within `model_memory`.

Knows neither batching nor models. What goes through Ray and what does not: docs/deploy.md.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from service.errors import AttendantError
from service.logs import configure_logging
from service.rpc.ray import RayCallContext, RayCalls, registered
from service.server import CLASSIFICATION_SERVICE, MODEL_SERVICE, TRANSLATION_SERVICE, Server
from service.settings import Settings

logger = logging.getLogger(__name__)

_HEALTH_SERVICE = "grpc.health.v1.Health"

# Several replicas may share a node, and callers come by the proxy's port.
_DEFAULTS = {"http_port": 0}


class Attendant:
    """A replica: one server's models and engines, and a method for each call that it takes."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, settings: dict[str, Any]
    ) -> None:
        """Raises ValidationError for what is no setting; ready when the models are."""
        self._settings = Settings(**(_DEFAULTS | settings))
        configure_logging(
            self._settings.log_level,
            self._settings.log_format,
            contents=self._settings.log_contents,
        )
        self._server = Server(self._settings)
        self._server.metrics.add_process_collectors()
        self._calls = RayCalls(registered(self._server.add_services), self._server.interceptor)
        await self._server.bind_http()
        await self._server.load()
        logger.info("a replica is ready, HTTP port %d", self._server.http_port)

    async def __del__(self) -> None:
        """Ray calls this when the replica's calls have ended, or have had their time."""
        await self._server.drain()

    def check_health(self) -> None:
        """Ray asks for this, and replaces a replica that raises."""
        if not self._server.is_ready():
            raise RuntimeError("no model can serve")

    async def Translate(self, request: Any, grpc_context: RayCallContext) -> Any:
        """attendant.v1.TranslationService."""
        await self._announce(request)
        return await self._calls.answer(f"/{TRANSLATION_SERVICE}/Translate", request, grpc_context)

    async def StreamTranslate(
        self, request: Any, grpc_context: RayCallContext
    ) -> AsyncIterator[Any]:
        """attendant.v1.TranslationService."""
        await self._announce(getattr(request, "request", request))
        path = f"/{TRANSLATION_SERVICE}/StreamTranslate"
        async for response in self._calls.stream(path, request, grpc_context):
            yield response

    async def Classify(self, request: Any, grpc_context: RayCallContext) -> Any:
        """attendant.v1.ClassificationService."""
        await self._announce(request)
        path = f"/{CLASSIFICATION_SERVICE}/Classify"
        return await self._calls.answer(path, request, grpc_context)

    async def ListModels(self, request: Any, grpc_context: RayCallContext) -> Any:
        """attendant.v1.ModelService."""
        return await self._calls.answer(f"/{MODEL_SERVICE}/ListModels", request, grpc_context)

    async def GetModel(self, request: Any, grpc_context: RayCallContext) -> Any:
        """attendant.v1.ModelService."""
        return await self._calls.answer(f"/{MODEL_SERVICE}/GetModel", request, grpc_context)

    async def Check(self, request: Any, grpc_context: RayCallContext) -> Any:
        """grpc.health.v1.Health."""
        return await self._calls.answer(f"/{_HEALTH_SERVICE}/Check", request, grpc_context)

    async def _announce(self, request: Any) -> None:
        """Tell Ray's proxies that calls for this model are better sent here from now on."""
        name = getattr(request, "model", "")
        try:
            self._server.repository.get(name)
        except AttendantError:  # what is no model must not be remembered
            return
        await self._model(name)

    @serve.multiplexed(max_num_models_per_replica=-1)  # type: ignore[untyped-decorator]
    async def _model(self, name: str) -> str:
        """A name that Ray remembers; the repository loads it, and decides how long it stays."""
        return name


def application(settings: dict[str, Any]) -> serve.Application:
    """What `serve run` and `serve deploy` import; the arguments are our settings."""
    deployment: Any = serve.deployment(Attendant)
    bound: serve.Application = deployment.bind(settings)
    return bound
