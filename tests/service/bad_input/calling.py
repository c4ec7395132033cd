"""The ways to call a server, with one shape for what it refuses: gRPC, a gRPC stream, HTTP."""

import dataclasses
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from attendant.v1.classification_pb2 import ClassifyRequest, ClassifyResponse, Image
from attendant.v1.classification_pb2_grpc import ClassificationServiceStub
from attendant.v1.translation_pb2 import (
    StreamTranslateRequest,
    TranslateRequest,
    TranslateResponse,
)
from attendant.v1.translation_pb2_grpc import TranslationServiceStub
from service.server import Server
from tests.service.conftest import open_channel

Response = TypeVar("Response", bound=Message)

HTTP_CODES = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429}


@dataclass(frozen=True)
class Failure:
    """What is said of a call or of an item that failed."""

    status: str
    reason: str = ""
    field: str = ""
    message: str = dataclasses.field(default="", compare=False)


class Refused(Exception):
    """A call failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def failure_of(status: status_pb2.Status) -> Failure:
    """A google.rpc.Status and its details, which must be consistent."""
    information, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for packed in status.details:
        packed.Unpack(information) or packed.Unpack(request)
    assert information.domain == "attendant"
    path = ""
    if request.field_violations:
        (violation,) = request.field_violations
        assert (violation.description, violation.reason) == (status.message, information.reason)
        path = violation.field
    return Failure(code_pb2.Code.Name(status.code), information.reason, path, status.message)


class Grpc:
    """Unary calls through the generated stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.translation: Any = TranslationServiceStub(channel)
        self.classification: Any = ClassificationServiceStub(channel)

    async def translate(self, request: TranslateRequest) -> TranslateResponse:
        return await _answer(self.translation.Translate(request))

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        return await _answer(self.classification.Classify(request))


class GrpcStream(Grpc):
    """A stream, its finished results put together."""

    async def translate(self, request: TranslateRequest) -> TranslateResponse:
        call = self.translation.StreamTranslate(StreamTranslateRequest(request=request))
        finished = await _answer(_finished(call))
        return TranslateResponse(results=[finished[index] for index in range(len(finished))])


class Http:
    """The same messages as JSON."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def translate(self, request: TranslateRequest) -> TranslateResponse:
        return await self.post("/v1/translate", as_json(request), TranslateResponse())

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        return await self.post("/v1/classify", as_json(request), ClassifyResponse())

    async def post(
        self, path: str, body: bytes, response: Response, content_type: str = "application/json"
    ) -> Response:
        headers = {"Content-Type": content_type}
        async with self.session.post(path, data=io.BytesIO(body), headers=headers) as answer:
            found = await answer.json()
            if answer.status == 200:
                return json_format.ParseDict(found, response)
            error = found["error"]
            assert answer.status == error["code"]
            expected = 413 if "MESSAGE_TOO_LARGE" in str(error) else HTTP_CODES[error["status"]]
            assert answer.status == expected
        status = {"code": code_pb2.Code.Value(error["status"]), "message": error["message"]}
        details = {"details": error["details"]}
        raise Refused(failure_of(json_format.ParseDict(status | details, status_pb2.Status())))


class HttpRaw(Http):
    """Images one by one, each as the body of a request."""

    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        query = f"?model={request.model}"
        if request.HasField("top_k"):
            query += f"&top_k={request.top_k}"
        response = ClassifyResponse()
        for index, image in enumerate(request.images):
            alone = await self.post(
                f"/v1/classify{query}", image.content, ClassifyResponse(), "image/jpeg"
            )
            for packed in alone.results[0].status.details:  # images[0] of its own call
                packed.value = packed.value.replace(b"images[0]", b"images[%d]" % index)
            response.MergeFrom(alone)
        return response


@asynccontextmanager
async def open_callers(server: Server) -> AsyncIterator[dict[str, Any]]:
    """Every way to call this server, by name."""
    url = f"http://127.0.0.1:{server.http_port}"
    async with open_channel(server) as channel, aiohttp.ClientSession(url) as session:
        yield {
            "grpc": Grpc(channel),
            "stream": GrpcStream(channel),
            "http": Http(session),
            "raw": HttpRaw(session),
        }


def texts(*contents: str, **fields: Any) -> TranslateRequest:
    return TranslateRequest(contents=contents, **fields)


def images(*contents: bytes, **fields: Any) -> ClassifyRequest:
    return ClassifyRequest(images=[Image(content=content) for content in contents], **fields)


def as_json(message: Message) -> bytes:
    return json_format.MessageToJson(message, preserving_proto_field_name=True).encode()


async def refusal(call: Any) -> Failure:
    """Why this call fails, which it must."""
    try:
        await call
    except Refused as refused:
        return refused.failure
    raise AssertionError("the call did not fail")


async def _finished(call: Any) -> dict[int, Any]:
    events = [event async for event in call]
    assert events[-1].HasField("summary")
    finished = [event.finished for event in events if event.HasField("finished")]
    return {one.content_index: one.result for one in finished}


async def _answer(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise Refused(failure_of_grpc(error)) from error


def failure_of_grpc(error: grpc.aio.AioRpcError) -> Failure:
    trailers = dict(error.trailing_metadata())
    if "grpc-status-details-bin" not in trailers:  # gRPC itself refused it
        return Failure(error.code().name, message=str(error.details()))
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return failure_of(status)
