"""The life of a real process: start, drain, second signal, reload."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from tests.service.conftest import image_file, write_classifier, write_translator

ROOT = Path(__file__).resolve().parents[2]
LOSSY = "tests.service.lossy_server"


@dataclass
class Running:
    """A server process; its log so far is `lines`."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]]

    async def logged(self, words: str) -> dict[str, Any]:
        """The next log line with these words in it."""
        assert self.process.stderr is not None
        while line := await asyncio.wait_for(self.process.stderr.readline(), 30):
            self.lines.append(json.loads(line))
            if words in self.lines[-1]["message"]:
                return self.lines[-1]
        raise AssertionError(f"the process ended without saying {words}: {self.lines}")

    async def rest(self) -> int:
        """Exit status, once it has ended."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(json.loads(line))
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def running(
    models: Path, *flags: str, module: str = "tests.service.slow_server"
) -> AsyncIterator[tuple[Running, grpc.aio.Channel]]:
    """A ready process and a channel to it."""
    ports = ("--grpc-port", "0", "--http-port", "0", "--models", str(models), "--log-format=json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *ports, *flags),
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stderr=asyncio.subprocess.PIPE,
    )
    server = Running(process, [])
    try:
        port = (await server.logged("listening"))["message"].split("gRPC port ")[1].split(",")[0]
        while (await server.logged("ready"))["message"] != "ready":
            pass  # a model is, not all of them
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield server, channel
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def translate(channel: grpc.aio.Channel, text: str, model: str = "") -> Any:
    stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    return stub.Translate(translation_pb2.TranslateRequest(contents=[text], model=model))


async def start_waiting(channel: grpc.aio.Channel) -> Any:
    """A stream that has begun and waits."""
    stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    request = translation_pb2.TranslateRequest(contents=["WAIT"])
    call = stub.StreamTranslate(translation_pb2.StreamTranslateRequest(request=request))
    assert (await call.read()).partial.text_delta == "WAIT "
    return call


def http_port(server: Running) -> str:
    (line,) = (line["message"] for line in server.lines if "HTTP port" in line["message"])
    return str(line.split("HTTP port ")[1])


async def get(port: str, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get(path) as response,
    ):
        return response.status, await response.text()


async def post(port: str, text: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.post("/v1/translate", json={"contents": [text]}) as response,
    ):
        return response.status, await response.text()


async def until_running(port: str, count: int) -> None:
    """Until so many calls have reached the engine."""
    async with asyncio.timeout(30):
        while (
            f'sequences_running{{model="en-de/1"}} {count}.0'
            not in (await get(port, "/metrics"))[1]
        ):
            await asyncio.sleep(0.01)


async def watch_health(channel: grpc.aio.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    return watch


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_translator(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_lets_running_calls_finish_and_refuses_new_ones(
    models: Path, number: signal.Signals
) -> None:
    async with running(models) as (server, channel):
        call, watch = await start_waiting(channel), await watch_health(channel)
        server.process.send_signal(number)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await translate(channel, "late")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert b"DRAINING" in dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
        server.process.send_signal(signal.SIGUSR1)
        assert (await call.read()).finished.result.hypotheses[0].text == "WAIT"
        assert (await call.read()).summary.model == "en-de"
        assert await call.read() is grpc.aio.EOF
        assert await server.rest() == 0
        assert server.lines[-1]["message"] == "stopped"


async def test_a_pause_takes_calls_while_health_says_that_the_server_leaves(models: Path) -> None:
    async with running(models, "--drain-pause-seconds", "1") as (server, channel):
        watch = await watch_health(channel)
        started = monotonic()
        server.process.terminate()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await get(http_port(server), "/readyz") == (503, '{"status": "leaving"}')
        codes = [grpc.StatusCode.OK]
        while codes[-1] is grpc.StatusCode.OK:
            codes.append(await translate(channel, "late").code())
            if codes[-1] is grpc.StatusCode.OK:
                await server.logged("Translate")  # a full pipe would stop the server
        # The latter is what gRPC says itself, of a call that comes in just while it stops.
        assert codes[-1] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert len(codes) > 10
        assert monotonic() - started >= 1
        assert await server.rest() == 0


async def test_a_drain_ends_after_drain_seconds_and_says_so_to_who_still_waits(
    models: Path,
) -> None:
    async with running(models, "--drain-seconds", "0.1") as (server, channel):
        calls = [await start_waiting(channel), translate(channel, "WAIT")]
        by_http = asyncio.create_task(post(http_port(server), "WAIT"))
        await until_running(http_port(server), 3)
        server.process.terminate()
        for answer in (calls[0].read(), calls[1]):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await answer
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "took too long" in str(ended.value.details())
            assert b"DRAINING" in dict(ended.value.trailing_metadata())["grpc-status-details-bin"]
        status, body = await by_http
        assert status == 503
        assert "DRAINING" in body
        assert await server.rest() == 0
        assert any("3 calls did not finish" in line["message"] for line in server.lines)


async def test_a_second_signal_exits_at_once(models: Path) -> None:
    async with running(models) as (server, channel):
        call = await start_waiting(channel)
        server.process.terminate()
        await server.logged("draining")
        server.process.terminate()
        assert await server.rest() == 128 + signal.SIGTERM
        call.cancel()


def classify(channel: grpc.aio.Channel) -> Any:
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
    image = classification_pb2.Image(content=image_file())
    return stub.Classify(classification_pb2.ClassifyRequest(images=[image]))


async def test_a_server_that_is_to_end_with_its_gpu_tells_everybody_and_exits_with_75(
    models: Path,
) -> None:
    write_classifier(models)
    flags = ("--exit-on-device-loss", "--drain-pause-seconds", "60")
    async with running(models, *flags, module=LOSSY) as (server, channel):
        calls = [await start_waiting(channel), translate(channel, "WAIT")]
        await until_running(http_port(server), 2)
        started = monotonic()
        for answer in (classify(channel), calls[0].read(), calls[1]):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await answer
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert b"DRAINING" in dict(ended.value.trailing_metadata())["grpc-status-details-bin"]
        assert await server.rest() == 75
        assert monotonic() - started < 20  # neither the pause nor the drain was waited for
        assert any("the GPU was lost: CUDA failure 700" in line["message"] for line in server.lines)


async def test_a_server_that_outlives_its_gpu_says_so_and_exits_with_0_when_told(
    models: Path,
) -> None:
    write_classifier(models)
    async with running(models, module=LOSSY) as (server, channel):
        assert (await classify(channel)).results[0].labels[0].label == "red"
        stub: Any = model_pb2_grpc.ModelServiceStub(channel)
        model = (await stub.GetModel(model_pb2.GetModelRequest(name="colours"))).model
        assert (model.state, model.device) == (model_pb2.MODEL_STATE_DEGRADED, "cpu")
        assert "the GPU was lost: CUDA failure 700" in model.state_message
        metrics = (await get(http_port(server), "/metrics"))[1]
        assert "attendant_device_losses_total 1.0" in metrics
        assert 'attendant_model_info{device="cpu",model="colours/1"' in metrics
        assert 'attendant_model_info{device="cuda"' not in metrics
        assert 'attendant_model_degraded{model="colours/1"} 1.0' in metrics
        server.process.terminate()
        assert await server.rest() == 0
        assert server.lines[-1]["message"] == "stopped"


async def test_sighup_rescans_the_models(models: Path) -> None:
    async with running(models) as (server, channel):
        write_translator(models, version=2)
        server.process.send_signal(signal.SIGHUP)
        await server.logged("en-de/2 is ready")
        assert (await translate(channel, "x")).model_version == "2"


async def test_log_lines_carry_the_request_id_and_never_texts(models: Path) -> None:
    async with running(models) as (server, channel):
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["confidential", "BUG"])
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Translate(request, metadata=(("x-request-id", "r-9"),))
        assert (await server.logged("failed"))["request_id"] == "r-9"
        server.process.terminate()
        assert await server.rest() == 0
        assert "confidential" not in json.dumps(server.lines)
        assert "RuntimeError" in json.dumps(server.lines)


async def test_a_taken_port_is_an_error_that_says_so(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "--models", str(models)),
            *("--grpc-port", port, "--http-port", "0"),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in stderr.decode()
        assert "settings: {" in stderr.decode()


async def test_polling_finds_a_new_version_and_the_settings_decide_who_is_loaded(
    tmp_path: Path,
) -> None:
    size = sum(path.stat().st_size for path in (write_translator(tmp_path, "a") / "fp32").iterdir())
    write_translator(tmp_path, "b")
    flags = ("--poll-models-seconds", "0.05", "--default-models", "b")
    memory = ("--load-models", "first-use", "--model-memory", str(size))
    async with running(tmp_path, *flags, *memory) as (server, channel):
        assert not any("is ready: " in line["message"] for line in server.lines)
        assert (await translate(channel, "x")).model == "b"
        write_translator(tmp_path, "b", version=2)
        await server.logged("model b/2 is ready")
        response = await translate(channel, "x")
        assert (response.model, response.model_version) == ("b", "2")
        await translate(channel, "x", model="a")
        await server.logged("model b/2 is unloaded")
