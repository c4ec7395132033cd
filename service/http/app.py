"""The HTTP side: metrics, health, and the calls of the API as JSON of the same messages.

Knows no engine: it is given the functions that gRPC answers with.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from attendant.v1 import classification_pb2, translation_pb2
from attendant.v1.classification_pb2 import ClassifyRequest
from attendant.v1.translation_pb2 import TranslateRequest
from service.access import Access
from service.callers import PRIORITY_HEADER, current_caller, current_priority, read_priority
from service.errors import (
    AttendantError,
    InternalError,
    InvalidArgument,
    InvalidOption,
    Unauthenticated,
    UndecodableMessage,
)
from service.http.bodies import Bodies
from service.http.errors import error_response, response_of_http_exception
from service.http.json_requests import JsonRequests, Request
from service.lifecycle import Lifecycle, Phase
from service.logs import REQUEST_ID_HEADER, current_request_id, request_id_or_new
from service.metrics import CONTENT_TYPE, HTTP_CODES, HTTP_ROUTES, Metrics
from service.timeline import Fact, Timeline, begin_timeline
from service.tracing import Span, Tracing

logger = logging.getLogger(__name__)

Translate = Callable[[TranslateRequest], Awaitable[translation_pb2.TranslateResponse]]
Classify = Callable[[ClassifyRequest], Awaitable[classification_pb2.ClassifyResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The code, nginx's, of calls whose callers left before they were answered; nobody is sent it.
_HUNG_UP = 499
_UNAUTHORIZED = 401

_CALLS = "/v1/"

# For probes, which have neither tokens nor certificates.
_OPEN_PATHS = ("/healthz", "/readyz")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpApi:
    """The routes, and what they answer with."""

    translate: Translate
    classify: Classify
    is_ready: Callable[[], bool]
    lifecycle: Lifecycle
    metrics: Metrics
    access: Access
    tracing: Tracing
    open_metrics: bool
    bodies: Bodies
    json_requests: JsonRequests

    def application(self) -> web.Application:
        """The aiohttp application, all routes in it."""
        for route in (each for each in HTTP_ROUTES if each.startswith(_CALLS)):
            for code in HTTP_CODES:
                self.metrics.http_requests.labels(route, code)
        application = web.Application(middlewares=[self._around_call])
        application.add_routes(
            [
                web.get("/metrics", self._serve_metrics),
                web.get("/healthz", self._serve_healthz),
                web.get("/readyz", self._serve_readyz),
                web.post("/v1/translate", self._serve_translate),
                web.post("/v1/classify", self._serve_classify),
            ]
        )
        return application

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _serve_readyz(self, request: web.Request) -> web.Response:
        if self.is_ready():
            return web.json_response({"status": "ready"})
        phase = self.lifecycle.phase
        status = "no model can be called" if phase is Phase.SERVING else phase.value
        return web.json_response({"status": status}, status=503)

    async def _serve_translate(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        with self.lifecycle.call():
            message = await self._message(request, body, TranslateRequest())
            return _json_response(await self.translate(message))

    async def _serve_classify(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        with self.lifecycle.call():
            if _is_json(request, body):
                message = await self._message(request, body, ClassifyRequest())
            else:
                message = _classify_request(request, body)
            return _json_response(await self.classify(message))

    async def _body(self, request: web.Request) -> bytes:
        """No call yet: while it comes, nobody waits for it at the end."""
        self.lifecycle.check()
        return await self.bodies.read(request)

    async def _message(self, request: web.Request, body: bytes, message: Request) -> Request:
        _check_json(request, body, message)
        return await self.json_requests.parse(body, message)

    @web.middleware
    async def _around_call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Request id, errors as JSON, one log line."""
        request_id = request_id_or_new(request.headers.get(REQUEST_ID_HEADER))
        current_request_id.set(request_id)
        timeline = begin_timeline()
        span = self._begin_span(request, timeline)
        status = _HUNG_UP
        try:
            response = await self._answer(request, handler)
            status = response.status
            response.headers[REQUEST_ID_HEADER] = request_id
            if request.content.exception() is not None:
                await _hang_up(request, response)
            return response
        finally:
            self._account(request, status, timeline, span)

    def _begin_span(self, request: web.Request, timeline: Timeline) -> Span:
        """Nobody wants to see that of a probe or a scrape."""
        if not _is_call(request):
            return Span()
        headers = {key.lower(): value for key, value in request.headers.items()}
        return self.tracing.begin(f"{request.method} {_route(request)}", headers, timeline)

    def _account(
        self,
        request: web.Request,
        status: int,
        timeline: Timeline,
        span: Span,
    ) -> None:
        timeline.end()
        method, route = request.method, _route(request)
        self.metrics.http_requests.labels(route, status).inc()
        timeline.facts |= {"method": f"{method} {route}", "status": str(status)}
        attributes: dict[str, Fact] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        self.tracing.end(span, timeline, attributes, error=str(status) if status >= 500 else "")
        logger.log(
            # Strangers may not fill the log.
            logging.INFO if _is_call(request) and status != _UNAUTHORIZED else logging.DEBUG,
            "%s %s %d in %.1f ms",
            *(method, route, status, (timeline.ended - timeline.begun) * 1000),
            extra={"timeline": timeline},
        )

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._identify(request)
            return await handler(request)
        except AttendantError as error:
            return error_response(error)
        except web.HTTPException as error:
            return response_of_http_exception(error)
        except Exception:
            logger.exception("%s failed", _route(request))
            return error_response(InternalError())

    def _identify(self, request: web.Request) -> None:
        """Learn who calls, and how urgent it is.

        Raises Unauthenticated, wherever it matters, and InvalidArgument before a body is read.
        """
        if request.path in _OPEN_PATHS or (request.path == "/metrics" and self.open_metrics):
            return
        token = self.access.check_token(request.headers.get("Authorization"))
        certificate = request.get_extra_info("peercert")
        if self.access.needs_certificate and not certificate:
            raise Unauthenticated("expected a client certificate")
        name = _certificate_name(certificate) if certificate else ""
        headers = {key.lower(): value for key, value in request.headers.items()}
        current_caller.set(self.access.name_caller(token, name, headers))
        current_priority.set(read_priority(headers.get(PRIORITY_HEADER)))


class HttpServer:
    """A running application on a port of its own."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self.port: int = runner.addresses[0][1]

    @classmethod
    async def start(
        cls,
        application: web.Application,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext | None = None,
    ) -> Self:
        """Listen, with TLS if there is a context for it. Raises OSError if the port is taken."""
        # A caller who hangs up ends its call; aiohttp lets it run on unless told.
        runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        return cls(runner)

    async def stop(self) -> None:
        """Close the port and hang up."""
        await self._runner.cleanup()


def _route(request: web.Request) -> str:
    """What a log may say of the path: a route's own. Another path is the caller's words."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(no such path)"


def _is_call(request: web.Request) -> bool:
    return request.path.startswith(_CALLS)


def _certificate_name(certificate: Any) -> str:
    """The common name of a verified certificate, as the ssl module has it, or its first other."""
    subject = [pair for group in certificate.get("subject", ()) for pair in group]
    names = [value for key, value in subject if key == "commonName"]
    names += [value for _, value in certificate.get("subjectAltName", ())]
    return str(names[0]) if names else ""


async def _hang_up(request: web.Request, response: web.StreamResponse) -> None:
    """Answer and close: what is left of a broken body cannot be skipped, and aiohttp would try."""
    response.force_close()
    await response.prepare(request)
    await response.write_eof()
    request.protocol.force_close()


def _is_json(request: web.Request, body: bytes) -> bool:
    """Whether the body is a message, by its type or else its first byte; if not, an image file.

    curl calls whatever it sends a form, so the Content-Type alone does not always tell.
    """
    if request.content_type.startswith("image/"):
        return False
    return request.content_type == "application/json" or _first_byte(body) in (b"{", b"")


def _first_byte(body: bytes) -> bytes:
    """The first that is no white space, not looked for beyond the first 1024."""
    return body[:1024].lstrip()[:1]


def _check_json(request: web.Request, body: bytes, message: Message) -> None:
    """Raises UndecodableMessage and InvalidArgument."""
    _check_parameters(request, ())
    if _first_byte(body) != b"{":
        found = repr(body[:20].decode(errors="replace")) if body else "no bytes"
        raise UndecodableMessage(
            f"the body is no JSON of {message.DESCRIPTOR.name}: expected an object, found {found}"
        )


def _check_parameters(request: web.Request, known: Sequence[str]) -> None:
    if unknown := sorted(set(request.query) - set(known)):
        raise InvalidArgument(
            f"unknown parameters {', '.join(unknown)}, expected {', '.join(known) or 'none'}"
        )
    if repeated := [name for name in known if len(request.query.getall(name, [])) > 1]:
        raise InvalidArgument(f"parameters {', '.join(repeated)} are given more than once")


def _classify_request(request: web.Request, body: bytes) -> ClassifyRequest:
    """A raw image, its options in the query."""
    _check_parameters(request, ("model", "top_k"))
    if request.content_type == "multipart/form-data":
        raise UndecodableMessage(
            "the body is multipart/form-data, expected the bytes of an image (curl --data-binary)"
        )
    image = classification_pb2.Image(content=body)
    message = ClassifyRequest(images=[image], model=request.query.get("model", ""))
    if top_k := request.query.get("top_k"):
        if not (top_k.isascii() and top_k.isdigit() and len(top_k) < 10):
            raise InvalidOption(f"top_k is {top_k!r}, expected an integer", field="top_k")
        message.top_k = int(top_k)
    return message


def _json_response(message: Message) -> web.Response:
    text = json_format.MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=None,
        ensure_ascii=False,
    )
    return web.Response(text=text, content_type="application/json")
