"""HTTP gives what gRPC gives."""

import base64
from collections.abc import AsyncIterator

import aiohttp
import grpc.aio
import pytest
from google.protobuf import json_format

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.server import Server
from tests.service.conftest import StartServer, image_file


@pytest.fixture
async def http(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}") as session:
        yield session


async def test_a_translation_is_the_same_as_by_grpc(
    http: aiohttp.ClientSession, channel: grpc.aio.Channel
) -> None:
    body = {"contents": ["a man", "BAD"], "options": {"beam_size": 2, "return_scores": True}}
    async with http.post("/v1/translate", json=body) as response:
        assert response.status == 200
        found = await response.json()
    request = json_format.ParseDict(body, translation_pb2.TranslateRequest())
    expected = await translation_pb2_grpc.TranslationServiceStub(channel).Translate(request)
    assert found["results"][0]["hypotheses"][0]["text"] == "A MAN"
    assert "source_tokens" in found["results"][1]
    assert json_format.ParseDict(found, translation_pb2.TranslateResponse()) == expected


async def test_a_classification_is_the_same_as_by_grpc_as_json_and_as_a_raw_image(
    http: aiohttp.ClientSession, channel: grpc.aio.Channel
) -> None:
    image = image_file((0, 200, 0), kind="JPEG")
    request = classification_pb2.ClassifyRequest(
        images=[classification_pb2.Image(content=image)], top_k=2
    )
    stub = classification_pb2_grpc.ClassificationServiceStub(channel)
    expected = (await stub.Classify(request)).results
    body = {"images": [{"content": base64.b64encode(image).decode()}], "top_k": 2}
    async with http.post("/v1/classify", json=body) as response:
        as_json = json_format.ParseDict(
            await response.json(), classification_pb2.ClassifyResponse()
        )
    headers = {"Content-Type": "image/jpeg"}
    query = "/v1/classify?top_k=2&model=colours"
    async with http.post(query, data=image, headers=headers) as response:
        raw = json_format.ParseDict(await response.json(), classification_pb2.ClassifyResponse())
    assert list(as_json.results) == list(raw.results) == list(expected)
    assert raw.model == "colours"


@pytest.mark.parametrize(
    ("path", "body", "code", "status"),
    [
        ("/v1/translate", '{"contents": []}', 400, "INVALID_ARGUMENT"),
        ("/v1/translate", '{"content": ["x"]}', 400, "INVALID_ARGUMENT"),
        ("/v1/translate", "no json", 400, "INVALID_ARGUMENT"),
        ("/v1/translate", '{"contents": ["x"], "model": "m"}', 404, "NOT_FOUND"),
        ("/v1/translate", '{"contents": ["BUG"]}', 500, "INTERNAL"),
        ("/v1/classify?top_k=x", '{"images": []}', 400, "INVALID_ARGUMENT"),
        ("/v1/classify?top_k=1&top_k=2", "x", 400, "INVALID_ARGUMENT"),
        ("/v1/nothing", "{}", 404, "NOT_FOUND"),
        ("/healthz", "{}", 405, "UNIMPLEMENTED"),
    ],
)
async def test_errors_are_json_with_the_right_code(
    http: aiohttp.ClientSession, path: str, body: str, code: int, status: str
) -> None:
    async with http.post(path, data=body, headers={"x-request-id": "r1"}) as response:
        error = (await response.json())["error"]
        assert response.status == error["code"] == code
        assert error["status"] == status
        assert error["message"]
        assert error["details"][0]["domain"] == "attendant"
        assert "secret" not in await response.text()
        assert response.headers["x-request-id"] == "r1"


async def test_a_full_queue_has_retry_after_and_details(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/translate", json={"contents": ["FULL"]}) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
        details = (await response.json())["error"]["details"]
    assert details[0]["reason"] == "QUEUE_FULL"
    assert details[1]["retry_delay"] == "0.250s"


async def test_a_body_over_the_limit_is_413(start_server: StartServer) -> None:
    async with start_server(max_message_bytes=2048) as server:
        url = f"http://127.0.0.1:{server.http_port}/v1/translate"
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=b"x" * 4096) as response,
        ):
            assert response.status == 413
            assert (await response.json())["error"]["status"] == "RESOURCE_EXHAUSTED"


async def test_metrics_and_health_are_served(http: aiohttp.ClientSession) -> None:
    async with http.get("/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain")
    assert 'attendant_model_info{device="cpu",model="colours/1"' in text
    for path in ("/healthz", "/readyz"):
        async with http.get(path) as response:
            assert response.status == 200


async def test_a_server_is_alive_and_not_ready_while_it_drains(
    server: Server, http: aiohttp.ClientSession
) -> None:
    await server.lifecycle.wait_idle(0)
    server.lifecycle.phase = type(server.lifecycle.phase).DRAINING
    for path, code in (("/healthz", 200), ("/readyz", 503)):
        async with http.get(path) as response:
            assert response.status == code
    async with http.post("/v1/translate", json={"contents": ["x"]}) as response:
        assert response.status == 503
        assert (await response.json())["error"]["details"][0]["reason"] == "DRAINING"
