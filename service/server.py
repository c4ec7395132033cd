"""The life of the process: bind, load, serve, drain."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, NoReturn

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.access import Access
from service.bundle import Bundle
from service.certificates import CertificateFiles
from service.classification.engine import ClassificationEngine
from service.classification.pixels import PixelBudget, pixels_at_a_time
from service.cores import num_cores
from service.devices import DEVICES, Devices
from service.gpus import Gpus
from service.http.app import HttpApi, HttpServer
from service.http.bodies import Bodies
from service.http.json_requests import JsonRequests
from service.lifecycle import Lifecycle, Phase
from service.memory import keep_giving_back, keep_imported
from service.metrics import Metrics
from service.model import Engine, EngineFactory
from service.repository import ModelRepository
from service.rpc import health
from service.rpc.classification import ClassificationServicer
from service.rpc.interceptors import CallInterceptor
from service.rpc.models import ModelServicer
from service.rpc.open_inference import grpc_predict_v2_pb2
from service.rpc.open_inference.servicer import OpenInferenceServicer
from service.rpc.reflection import add_reflection
from service.rpc.translation import TranslationServicer
from service.rpc.transport import listen, options_of
from service.runtime import RUNTIME_VERSION, providers
from service.settings import Settings
from service.tracing import Tracing
from service.translation.engine import TranslationEngine
from service.translation.workers import num_decode_workers

logger = logging.getLogger(__name__)

TRANSLATION_SERVICE = translation_pb2.DESCRIPTOR.services_by_name["TranslationService"].full_name
CLASSIFICATION_SERVICE = classification_pb2.DESCRIPTOR.services_by_name[
    "ClassificationService"
].full_name
MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
SERVICES = (TRANSLATION_SERVICE, CLASSIFICATION_SERVICE, MODEL_SERVICE)

# What reflection describes.
_DESCRIBED: tuple[Any, ...] = (
    translation_pb2.DESCRIPTOR,
    classification_pb2.DESCRIPTOR,
    model_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    grpc_predict_v2_pb2.DESCRIPTOR,
)

# Exit status after the loss of a GPU with `exit_on_device_loss`: sysexits.h's EX_TEMPFAIL.
EXIT_DEVICE_LOST = 75

# After the drain: how long gRPC may take to hang up on what did not finish.
_HANG_UP_SECONDS = 0.5


def engine_factory(
    settings: Settings, metrics: Metrics, devices: Devices = DEVICES
) -> EngineFactory:
    """Makes the engine that a bundle's task needs."""
    budget = PixelBudget(pixels_at_a_time(settings))

    def make(bundle: Bundle) -> Engine:
        if bundle.task == "translation":
            return TranslationEngine(bundle, settings=settings, metrics=metrics, devices=devices)
        return ClassificationEngine(
            bundle, settings=settings, metrics=metrics, devices=devices, budget=budget
        )

    return make


class Server:
    """Both ports and the models behind them. `start`, then `drain`; or `run` for all of it.

    `devices` are those that `factory` makes engines for.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics | None = None,
        factory: EngineFactory | None = None,
        devices: Devices = DEVICES,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics.create() if metrics is None else metrics
        self.lifecycle = Lifecycle()
        self.repository = ModelRepository(
            settings.models,
            factory=factory or engine_factory(settings, self.metrics, devices),
            metrics=self.metrics,
            default_models=settings.default_models,
            load_models=settings.load_models,
            max_bytes=settings.model_memory,
            choose_precision=lambda card: devices.place(settings, card)[1],
            on_change=self._tell_health,
        )
        self._devices = devices
        self._stop = asyncio.Event()
        self._json_requests = JsonRequests(max_bytes=settings.max_message_bytes)
        self._tracing = Tracing.of(settings.otlp_endpoint) if tracing is None else tracing
        self._access = Access.of(settings)
        self._certificates = CertificateFiles.of(settings)
        self.grpc_port = settings.grpc_port
        self.health_port = settings.health_port
        self.http_port = settings.http_port
        self._health = health.HealthServicer(SERVICES)
        self._translation = TranslationServicer(self.repository)
        self._classification = ClassificationServicer(self.repository)
        self.interceptor = CallInterceptor(
            lifecycle=self.lifecycle,
            metrics=self.metrics,
            access=self._access,
            tracing=self._tracing,
        )
        self._grpc: list[grpc.aio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._show_facts()

    async def start(self) -> None:
        """Bind both ports, then load the models; returns when they serve."""
        await self.bind()
        await self.load()

    async def bind(self) -> None:
        """Open both ports: alive, not ready. Raises OSError if one is taken."""
        await self.bind_http()
        await self._start_grpc()

    async def bind_http(self) -> None:
        """Open the HTTP port alone, where calls come another way. Raises OSError if it is taken."""
        self._loop = asyncio.get_running_loop()
        self._devices.watch(self._hear_of_loss)
        await self._start_http()
        self._spawn(keep_giving_back)

    def add_services(self, server: grpc.aio.Server) -> None:
        """Add our own services and health to a gRPC server, or to what takes its place."""
        translation_pb2_grpc.add_TranslationServiceServicer_to_server(self._translation, server)
        classification_pb2_grpc.add_ClassificationServiceServicer_to_server(
            self._classification, server
        )
        models = ModelServicer(self.repository, self.settings)
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    async def load(self) -> None:
        """Load the models, off the event loop, and become ready."""
        await self.repository.rescan()
        if self.lifecycle.phase is Phase.STARTING:
            self.lifecycle.phase = Phase.SERVING
            self._tell_health()
        if not self.is_ready():
            logger.warning("no model in %s can serve; not ready", self.settings.models)

    async def reload(self) -> None:
        """Look at the models folder again."""
        await self.repository.rescan()
        self._tell_health()

    def is_ready(self) -> bool:
        """Whether some model can be called."""
        return self.lifecycle.phase is Phase.SERVING and (
            self.repository.serves("translation") or self.repository.serves("classification")
        )

    async def drain(self) -> None:
        """Stop: health first, then new calls are refused, running ones finish, ports close.

        After the loss of a GPU that the server does not outlive, nobody waits for it.
        """
        was_serving = self.lifecycle.phase is Phase.SERVING
        self.lifecycle.phase = Phase.LEAVING
        self._health.leave()
        if was_serving and not self._ends_by_loss:
            await asyncio.sleep(self.settings.drain_pause_seconds)
        self.lifecycle.phase = Phase.DRAINING
        until = monotonic() + self.settings.drain_seconds
        await self._end_calls()
        self._health.close()
        self._devices.unwatch(self._hear_of_loss)
        for task in self._tasks:
            task.cancel()
        # A call is over for us when its answer goes to gRPC, which may have to send it for a while.
        # Nobody waits for others: streams of reflection, requests that do not come.
        await self.lifecycle.wait_sent(until - monotonic())
        await asyncio.gather(*(server.stop(_HANG_UP_SECONDS) for server in self._grpc))
        await self._http.stop()
        self._json_requests.close()
        await self.repository.close()
        await asyncio.to_thread(self._tracing.close)

    async def _end_calls(self) -> None:
        seconds = 0.0 if self._ends_by_loss else self.settings.drain_seconds
        num_left = await self.lifecycle.wait_idle(seconds)
        if num_left:
            logger.warning("%d calls did not finish in %.1f s", num_left, seconds)
            why = "its GPU was lost" if self._ends_by_loss else "the call took too long"
            self.lifecycle.end_calls(why)
            await self.lifecycle.wait_idle(_HANG_UP_SECONDS)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; a second one exits at once.

        Returns the exit status.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload))
        await self.bind()
        logger.info(
            "listening on %s, gRPC port %d, HTTP port %d%s%s",
            *(self.settings.host, self.grpc_port, self.http_port),
            ", with TLS" if self._certificates is not None else "",
            f"; health port {self.health_port}" if self.health_port is not None else "",
        )
        if self._access.tokens is not None and self._certificates is None:
            logger.warning("tokens without TLS: whoever hears the connections can read them")
        self._spawn(self._load_and_poll)
        await self._stop.wait()
        await self.drain()
        logger.info("stopped")
        return EXIT_DEVICE_LOST if self._ends_by_loss else 0

    @property
    def _ends_by_loss(self) -> bool:
        return self.settings.exit_on_device_loss and bool(self._devices.loss)

    def _hear_of_loss(self) -> None:
        """On any thread."""
        self._loop.call_soon_threadsafe(self._on_device_loss)

    def _on_device_loss(self) -> None:
        self.metrics.device_losses.inc()
        if self.settings.exit_on_device_loss:
            self._stop.set()

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            os._exit(128 + number)
        seconds = self.settings.drain_pause_seconds + self.settings.drain_seconds
        logger.info("%s: draining for %.1f s at most", number.name, seconds)
        self._stop.set()

    def _spawn(self, function: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.get_running_loop().create_task(function())
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the server failed", exc_info=error)

    async def _load_and_poll(self) -> None:
        await self.load()
        logger.info("ready" if self.is_ready() else "waiting for models")
        while self.settings.poll_models_seconds:
            await asyncio.sleep(self.settings.poll_models_seconds)
            try:
                await self.reload()
            except Exception:  # the next look may find the folder in a better state
                logger.exception("looking at the models failed")

    def _tell_health(self) -> None:
        if self.lifecycle.phase is not Phase.SERVING:
            return
        self._health.set(
            {
                "": self.is_ready(),
                TRANSLATION_SERVICE: self.repository.serves("translation"),
                CLASSIFICATION_SERVICE: self.repository.serves("classification"),
                MODEL_SERVICE: True,
            }
        )

    def _show_facts(self) -> None:
        """What /metrics says of runtime and GPUs."""
        labels = (num_decode_workers(self.settings), self.settings.image_threads or num_cores())
        self.metrics.runtime_info.labels(RUNTIME_VERSION, ",".join(providers()), *labels).set(1)
        if gpus := Gpus.find(self.metrics):
            self.metrics.observers.append(gpus.observe)

    async def _start_http(self) -> None:
        api = HttpApi(
            translate=self._translation.translate,
            classify=self._classification.classify,
            is_ready=self.is_ready,
            lifecycle=self.lifecycle,
            metrics=self.metrics,
            access=self._access,
            tracing=self._tracing,
            open_metrics=self.settings.open_metrics,
            bodies=Bodies(
                max_bytes=self.settings.max_message_bytes,
                max_seconds=self.settings.http_body_seconds,
            ),
            json_requests=self._json_requests,
        )
        application = api.application()
        context = self._certificates.http_context() if self._certificates is not None else None
        self._http = await HttpServer.start(
            application, self.settings.host, self.http_port, context=context
        )
        self.http_port = self._http.port

    async def _start_grpc(self) -> None:
        options = options_of(self.settings)
        server = grpc.aio.server(interceptors=[self.interceptor], options=options)
        self.add_services(server)
        OpenInferenceServicer(
            self.repository,
            self._translation,
            self._classification,
            is_ready=self.is_ready,
            lifecycle=self.lifecycle,
        ).add_to(server)
        add_reflection(server, _DESCRIBED)
        host = self.settings.host
        self.grpc_port = listen(server, host, self.grpc_port, self._certificates)
        self._grpc.append(server)
        if self.health_port is not None:
            probed = grpc.aio.server(interceptors=[self.interceptor], options=options)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, probed)
            self.health_port = listen(probed, host, self.health_port, None)
            self._grpc.append(probed)
        for one in self._grpc:
            await one.start()


def serve(settings: Settings) -> None:
    """Run a server until it is told to stop, or a GPU is lost."""
    logger.info("settings: %s", settings.model_dump_json())
    keep_imported()
    status = asyncio.run(_serve(settings))
    if DEVICES.loss:
        leave(status)


def leave(status: int) -> NoReturn:
    """End the process without freeing what lies on a lost GPU, which can hang or end in SIGABRT."""
    logging.shutdown()
    os._exit(status)


async def _serve(settings: Settings) -> int:
    server = Server(settings)
    server.metrics.add_process_collectors()
    return await server.run()
