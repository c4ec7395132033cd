"""Requests that are no messages, JSON of the wrong shape, and bodies over the limit."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc.aio
import pytest

from attendant.v1.classification_pb2 import ClassifyResponse
from attendant.v1.translation_pb2 import TranslateResponse
from service.lifecycle import Phase
from service.server import Server
from tests.service.bad_input.calling import Failure, failure_of_grpc, refusal, texts
from tests.service.bad_input.conftest import GOOD, SHIP, Callers, Company, answered_meanwhile, named

pytestmark = pytest.mark.asyncio(loop_scope="package")

JSON = "application/json"
UNDECODABLE = Failure("INVALID_ARGUMENT", "UNDECODABLE_MESSAGE")
MEBIBYTE = 1 << 20
LIMIT = 64 * MEBIBYTE


@pytest.mark.parametrize(
    ("method", "request_"),
    named(
        {
            "a text": ("TranslationService/Translate", b"\n\x02\xff\xfe"),
            "half a character": ("TranslationService/Translate", b"\n\x03\xed\xa0\x80"),
            "a model's name": ("TranslationService/Translate", b"\n\x01a\x12\x01\xff"),
            "a text of a stream": ("TranslationService/StreamTranslate", b"\n\x04\n\x02\xff\xfe"),
            "a classifier's name": ("ClassificationService/Classify", b"\x12\x01\xff"),
            "a name to look up": ("ModelService/GetModel", b"\n\x01\xff"),
            "no protobuf": ("TranslationService/Translate", b"\x0a\xff\xff\xff"),
            "a message cut off": ("ClassificationService/Classify", b"\n\x10\n\x0eabc"),
        }
    ),
)
async def test_bytes_that_are_no_message_are_undecodable(
    callers: Callers, company: Company, method: str, request_: bytes
) -> None:
    path = f"/attendant.v1.{method}"
    channel = callers["grpc"].channel
    is_stream = method.endswith("StreamTranslate")
    async with company():
        if is_stream:
            call = channel.unary_stream(path)(request_).read()
        else:
            call = channel.unary_unary(path)(request_)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    failure = failure_of_grpc(caught.value)
    assert failure == UNDECODABLE
    name = method.partition("/")[2]
    assert f"the {len(request_)} bytes are no request of {name}" in failure.message
    assert "UTF-8" in failure.message


@pytest.mark.parametrize(
    ("body", "message"),
    named(
        {
            "no UTF-8": (b'{"contents": ["\xff\xfe"]}', "can't decode byte 0xff in position 15"),
            "half a character": (b'{"contents": ["a\\ud800"]}', "surrogate at TranslateRequest."),
            "UTF-16": ('{"contents": ["a"]}'.encode("utf-16"), "expected an object, found"),
            "nothing": (b"", "expected an object, found no bytes"),
            "null": (b"null", "expected an object, found 'null'"),
            "a list": (b'["A dog."]', "expected an object, found '[\"A dog.\"]'"),
            "cut off": (b'{"contents": ["A dog."', "line 1 column"),
            "too deep": (b'{"contents": ' + b"[" * 100_000, "recursion"),
            "a key twice": (
                b'{"contents": [], "contents": ["b"]}',
                "key 'contents' comes twice",
            ),
            "one text": (b'{"contents": "A dog."}', "contents must be in []"),
            "a number for a text": (b'{"contents": [3]}', "contents"),
            "null for a text": (b'{"contents": [null]}', "TranslateRequest.contents[0]"),
            "unknown field": (b'{"content": ["A dog."]}', 'no field named "content"'),
            "unknown option": (b'{"options": {"beams": 4}}', 'no field named "beams"'),
            "NaN as a number": (b'{"options": {"length_penalty": NaN}}', "quoted"),
            "no float": (b'{"options": {"length_penalty": 1e39}}', "too large"),
            "no int32": (b'{"options": {"beam_size": 2147483648}}', "out of range: 2147483648"),
            "half a beam": (b'{"options": {"beam_size": 2.5}}', "2.5"),
            "a word for a number": (b'{"options": {"beam_size": "two"}}', "two"),
            "half a character for a number": (
                b'{"options": {"length_penalty": "\\ud800"}}',
                "float: \\ud800 at",
            ),
            "a boolean for a number": (b'{"options": {"beam_size": true}}', "True"),
            "5 000 digits": (b'{"options": {"beam_size": ' + b"9" * 5000 + b"}}", "5000 digits"),
            "no such constant": (b'{"segmentation": "WORDS"}', "WORDS"),
        }
    ),
)
async def test_json_of_another_shape_is_undecodable(
    callers: Callers, body: bytes, message: str
) -> None:
    call = callers["http"].post("/v1/translate", body, TranslateResponse(), JSON)
    failure = await refusal(call)
    assert failure == UNDECODABLE
    assert "the body is no JSON of TranslateRequest: " in failure.message
    assert message in failure.message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("option", ["length_penalty", "repetition_penalty"])
async def test_a_number_that_is_none_is_an_invalid_option_in_json_too(
    callers: Callers, option: str, value: str
) -> None:
    body = f'{{"contents": ["A dog."], "options": {{"{option}": "{value}"}}}}'.encode()
    call = callers["http"].post("/v1/translate", body, TranslateResponse(), JSON)
    assert await refusal(call) == Failure("INVALID_ARGUMENT", "INVALID_OPTION", f"options.{option}")


async def test_json_of_very_many_texts_stalls_nobody(callers: Callers) -> None:
    body = b'{"contents": [%s]}' % b",".join([b"{}"] * 1_000_000)
    call = callers["http"].post("/v1/translate", body, TranslateResponse(), JSON)
    failure = await answered_meanwhile(callers, refusal(call))
    assert failure == Failure("INVALID_ARGUMENT", "INVALID_REQUEST", "contents")
    assert failure.message == "contents has 1000000 items, expected 1 to 1024"


@pytest.mark.parametrize(
    "body",
    [
        b'{"contents": ["a"], "segmentation": "\\ud800"}',
        b'{"contents": ["a"], "segmentation": 1e400}',
        b'{"contents": ["a"], "options": "\\ud800"}',
        b"{%s}" % b",".join([b'"%d": 0' % number for number in range(10**5)] + [b'"99999": 0']),
    ],
    ids=["half a constant", "an endless one", "half an object", "a double among many keys"],
)
async def test_odd_json_is_undecodable_and_soon(callers: Callers, body: bytes) -> None:
    """Regression: INTERNAL, and minutes for the double key."""
    async with asyncio.timeout(20):
        call = callers["http"].post("/v1/translate", body, TranslateResponse(), JSON)
        assert await refusal(call) == UNDECODABLE


async def test_null_is_an_option_that_is_not_set(callers: Callers, alone: dict[Any, Any]) -> None:
    body = b'{"contents": ["%s"], "options": {"beam_size": null, "return_scores": true}}'
    response = await callers["http"].post(
        "/v1/translate", body % GOOD[0].encode(), TranslateResponse(), JSON
    )
    assert list(response.results) == [alone[GOOD[0]]]


@pytest.mark.parametrize(
    ("query", "body", "content_type", "reason", "message"),
    named(
        {
            "a form": ("", b"--x\r\n", "multipart/form-data; boundary=x", None, "--data-binary"),
            "nothing": ("", b"", "application/octet-stream", None, "found no bytes"),
            "broken JSON": ("", b"{", JSON, None, "no JSON of ClassifyRequest: "),
            "no base64": ("", b'{"images": [{"content": "abcde"}]}', JSON, None, "base64"),
            "null for an image": ("", b'{"images": [null]}', JSON, None, "images[0]"),
            "a parameter": ("?k=1", SHIP, "image/jpeg", "INVALID_REQUEST", "expected model, top_k"),
            "a parameter beside JSON": (
                "?top_k=1",
                b"{}",
                JSON,
                "INVALID_REQUEST",
                "expected none",
            ),
            "a word for a number": (
                "?top_k=x",
                SHIP,
                "image/jpeg",
                "INVALID_OPTION",
                "top_k is 'x'",
            ),
        }
    ),
)
async def test_a_body_that_is_no_classification_is_refused(
    callers: Callers, query: str, body: bytes, content_type: str, reason: str | None, message: str
) -> None:
    call = callers["http"].post(f"/v1/classify{query}", body, ClassifyResponse(), content_type)
    failure = await refusal(call)
    assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", reason or UNDECODABLE.reason)
    assert message in failure.message


@pytest.mark.parametrize("body", [b"", b"{}", b'{"images": []}', b" {"])
async def test_what_is_called_an_image_is_an_image(callers: Callers, body: bytes) -> None:
    response = await callers["http"].post("/v1/classify", body, ClassifyResponse(), "image/png")
    assert response.results[0].status.message.startswith("expected a JPEG, PNG, WebP")


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "application/octet-stream", "text/plain"]
)
async def test_an_image_is_known_by_its_bytes_whatever_its_type(
    callers: Callers, alone: dict[Any, Any], content_type: str
) -> None:
    """The first of these is what curl says of all it sends."""
    response = await callers["http"].post("/v1/classify", SHIP, ClassifyResponse(), content_type)
    assert list(response.results) == [alone[SHIP]]


async def test_a_body_that_is_not_compressed_as_it_says_is_refused_quietly(
    callers: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    session: aiohttp.ClientSession = callers["http"].session
    for body, code in ((b"no gzip", 400), (gzip.compress(SHIP), 200)):
        headers = {"Content-Encoding": "gzip", "Content-Type": "image/jpeg"}
        async with session.post("/v1/classify", data=body, headers=headers) as response:
            found = await response.json()
            assert response.status == code
        if code == 400:
            assert found["error"]["details"][0]["reason"] == "UNDECODABLE_MESSAGE"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_message_of_65_mebibytes_is_refused(callers: Callers, company: Company) -> None:
    request = texts("x" * (65 * MEBIBYTE))
    async with company():
        failure = await refusal(callers["grpc"].translate(request))
    assert failure == Failure("RESOURCE_EXHAUSTED")  # by gRPC itself
    assert f"({request.ByteSize()} vs. {LIMIT})" in failure.message


async def test_a_body_of_65_mebibytes_is_refused(callers: Callers, company: Company) -> None:
    body = bytes(65 * MEBIBYTE)
    async with company():
        failure = await refusal(
            callers["http"].post("/v1/classify", body, ClassifyResponse(), "image/png")
        )
    assert failure == Failure("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert failure.message == f"the body has {len(body)} bytes, the limit is {LIMIT}"


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_body_that_does_not_say_its_size_is_refused_at_the_limit(
    callers: Callers, compressed: bool
) -> None:
    """The compressed one is a bomb: a thousandth of it is sent."""

    async def body() -> AsyncIterator[bytes]:
        if compressed:
            yield gzip.compress(bytes(65 * MEBIBYTE), 1)
        else:
            for _ in range(65):
                yield bytes(MEBIBYTE)

    headers = {"Content-Encoding": "gzip"} if compressed else {}
    session: aiohttp.ClientSession = callers["http"].session
    async with session.post("/v1/translate", data=body(), headers=headers) as response:
        assert response.status == 413
        error = (await response.json())["error"]
    assert error["details"][0]["reason"] == "MESSAGE_TOO_LARGE"
    assert error["message"] == f"the body has more bytes than the limit of {LIMIT}"


async def test_a_call_that_comes_while_the_server_drains_is_not_read(
    real_server: Server, callers: Callers
) -> None:
    """Its body would never end."""
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    session: aiohttp.ClientSession = callers["http"].session
    phase, real_server.lifecycle.phase = real_server.lifecycle.phase, Phase.DRAINING
    try:
        async with asyncio.timeout(30), session.post("/v1/translate", data=body()) as response:
            assert response.status == 503
            assert (await response.json())["error"]["details"][0]["reason"] == "DRAINING"
    finally:
        real_server.lifecycle.phase = phase
        never.set()
