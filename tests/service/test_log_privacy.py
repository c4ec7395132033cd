"""What a log never holds, whatever is called and whatever goes wrong, at the level debug."""

import asyncio
import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.rpc.open_inference import grpc_predict_v2_pb2 as inference
from tests.service.conftest import write_translator
from tests.service.test_security import hash_line

ROOT = Path(__file__).resolve().parents[2]
SHIP = (ROOT / "examples" / "ship.jpg").read_bytes()

TOKEN = "a-token-that-opens"
WRONG = "a-token-that-does-not"
SECRET = "Zebrafinch"  # in every text, name and path that is sent
# The sentence comes back in German.
SENTENCE = f"A man named {SECRET} is riding a horse."
ANSWER = ("Mann", "Pferd")


async def end(call: Any) -> Any:
    """Whatever becomes of it."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error.code()


async def call_by_grpc(channel: grpc.aio.Channel, token: str) -> list[Any]:
    metadata = (
        ("authorization", f"Bearer {token}"),
        ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),
        ("tracestate", f"My {SECRET} is=1"),  # is none
    )
    given = {"metadata": metadata, "timeout": 30}
    translation: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    classification: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
    models: Any = model_pb2_grpc.ModelServiceStub(channel)
    texts, image = translation_pb2.TranslateRequest, classification_pb2.Image
    tensor = {"name": SECRET, "datatype": "BYTES", "shape": [1]}
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    unknown = inference.ModelInferRequest(model_name="captions-en-de", inputs=[tensor])
    raw = channel.unary_unary("/attendant.v1.TranslationService/Translate")
    stream = translation_pb2.StreamTranslateRequest(request=texts(contents=[SENTENCE]))
    calls = [
        translation.Translate(texts(contents=[SENTENCE]), **given),
        translation.Translate(texts(contents=[SENTENCE], model=SECRET), **given),
        translation.Translate(texts(contents=[SENTENCE] * 1025), **given),
        translation.Translate(texts(contents=[SECRET * 10000]), **given),
        translation.Translate(texts(contents=[SENTENCE], source_language_code=SECRET), **given),
        translation.StreamTranslate(stream, **given).read(),
        classification.Classify(
            classification_pb2.ClassifyRequest(images=[image(content=SHIP)]), **given
        ),
        classification.Classify(
            classification_pb2.ClassifyRequest(images=[image(content=SECRET.encode())]), **given
        ),
        models.GetModel(model_pb2.GetModelRequest(name=SECRET), **given),
        infer(unknown.SerializeToString(), **given),
        raw(b"\xff" + SENTENCE.encode(), **given),
        channel.unary_unary(f"/{SECRET}/{SECRET}")(b"", **given),
    ]
    return [await end(call) for call in calls]


async def call_by_http(url: str, token: str) -> list[int]:
    codes = []
    headers = {"Authorization": f"Bearer {token}"}
    json = {"contents": [SENTENCE]}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        for method, path, options in (
            ("POST", "/v1/translate", {"json": json}),
            ("POST", "/v1/translate", {"json": json | {"model": SECRET}}),
            ("POST", "/v1/translate", {"data": SENTENCE}),
            ("POST", f"/v1/translate?text={SECRET}", {"json": json}),
            ("POST", "/v1/classify", {"data": SHIP, "headers": {"Content-Type": "image/jpeg"}}),
            ("POST", "/v1/classify", {"data": SECRET}),
            ("GET", f"/v1/translate/{SECRET}", {}),
            ("GET", "/v1/translate", {}),
            ("GET", "/metrics", {}),
        ):
            async with session.request(method, path, **options) as response:
                await response.read()
                codes.append(response.status)
    return codes


async def send_rubbish(port: str) -> None:
    """Something that is neither HTTP nor HTTP/2, and a connection that breaks off."""
    for content in (f"{SECRET} {SECRET}\r\n\r\n".encode(), b"POST /v1/translate HTTP/1.1\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(content)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 30)
        writer.close()


async def start(*command: str) -> tuple[asyncio.subprocess.Process, str, str, list[str]]:
    """A ready server, its ports and what it said until then."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, "--grpc-port", "0", "--http-port", "0"),
        *("--log-level", "debug"),
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stderr is not None
    said: list[str] = []
    while not said or re.search(r"\] ready|\"ready\"", said[-1]) is None:
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert line, said
        said.append(line.decode())
    ports = re.search(r"gRPC port (\d+), HTTP port (\d+)", "".join(said))
    assert ports is not None
    return process, ports[1], ports[2], said


async def stop(process: asyncio.subprocess.Process) -> str:
    """Whatever it said since."""
    process.terminate()
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return errors.decode()


async def test_no_log_holds_what_callers_sent_or_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(hash_line(TOKEN, "alice"))
    process, grpc_port, http_port, before = await start(
        *("-m", "service", "--tokens", str(tmp_path / "tokens")),
        *("--otlp-endpoint", "http://localhost:1"),  # where nobody listens
    )
    options = [("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options) as channel:
        answers = await call_by_grpc(channel, TOKEN)
        refusals = await call_by_grpc(channel, WRONG)
    assert answers[0].results[0].hypotheses[0].text
    assert sum(isinstance(answer, grpc.StatusCode) for answer in answers) >= 6
    assert set(refusals[:-1]) == {grpc.StatusCode.UNAUTHENTICATED}
    url = f"http://127.0.0.1:{http_port}"
    assert set(await call_by_http(url, TOKEN)) == {200, 400, 404, 405}
    assert set(await call_by_http(url, WRONG)) == {401}
    await send_rubbish(http_port)
    await send_rubbish(grpc_port)
    log = await stop(process)

    assert log.count("Translate") >= 5
    assert "a caller's tracestate is not as W3C has it" in log
    assert "DEBUG" in log
    for secret in (SECRET, "horse", *ANSWER, TOKEN, WRONG, "alice"):
        assert secret not in "".join(before) + log
    assert base64.b64encode(SHIP[:30]).decode()[:20] not in log
    assert repr(SHIP[:8])[2:-1] not in log
    # The exporter of spans says where the operator's own collector is.
    ours = [line for line in log.splitlines() if "opentelemetry.exporter" not in line]
    assert "127.0.0.1" not in "".join(ours)


@pytest.mark.parametrize("flags", [(), ("--log-format", "json"), ("--log-contents",)])
async def test_a_bug_is_logged_without_what_its_exception_says(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    write_translator(tmp_path)
    process, grpc_port, http_port, _ = await start(
        "-m", "tests.service.slow_server", "--models", str(tmp_path), *flags
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["BUG"])
        assert await end(stub.Translate(request)) is grpc.StatusCode.INTERNAL
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session,
        session.post("/v1/translate", json={"contents": ["BUG"]}) as response,
    ):
        assert response.status == 500
    log = await stop(process)
    assert log.count("fakes.py") >= 2
    whole = "--log-contents" in flags
    assert log.count("RuntimeError:" if whole else "builtins.RuntimeError") == 2
    assert log.count("secret of the inside") == 2 * whole
