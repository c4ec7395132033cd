"""Bundles that are broken, half-written or of another kind: refused alone, and said so."""

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attendant.v1 import model_pb2, model_pb2_grpc
from service.server import CLASSIFICATION_SERVICE, TRANSLATION_SERVICE, Server
from service.settings import Settings
from tests.service.bad_input.broken import BROKEN, BROKEN_TRANSLATORS, Break, card_of, truncate
from tests.service.bad_input.calling import Failure, Grpc, images, refusal, texts
from tests.service.bad_input.conftest import GOOD, ROOT, SHIP, named
from tests.service.conftest import image_file, open_channel, write_card, write_classifier

SERVING = (model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_DEGRADED)


GREEN = image_file((0, 255, 0))


@asynccontextmanager
async def serving(models: Path) -> AsyncIterator[tuple[Server, Grpc]]:
    server = Server(Settings(models=models, grpc_port=0, http_port=0, drain_seconds=1.0))
    await server.start()
    try:
        async with open_channel(server) as channel:
            yield server, Grpc(channel)
    finally:
        await server.drain()


async def label(grpc: Grpc, model: str) -> str:
    (result,) = (await grpc.classify(images(GREEN, model=model))).results
    return result.labels[0].label


async def state(grpc: Grpc, name: str) -> Any:
    """What GetModel says, which must be what ListModels says."""
    stub: Any = model_pb2_grpc.ModelServiceStub(grpc.channel)
    model = (await stub.GetModel(model_pb2.GetModelRequest(name=name))).model
    models = (await stub.ListModels(model_pb2.ListModelsRequest())).models
    assert model in models
    return model


async def health(server: Server, grpc: Grpc) -> dict[str, bool]:
    stub: Any = health_pb2_grpc.HealthStub(grpc.channel)
    found = {}
    for name in ("", TRANSLATION_SERVICE, CLASSIFICATION_SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        found[name] = answer.status == health_pb2.HealthCheckResponse.SERVING
    url = f"http://127.0.0.1:{server.http_port}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == (200 if found[""] else 503)
    return found


def replace(folder: Path, good: Path) -> None:
    """As an operator would who copies over what is there."""
    shutil.rmtree(folder)
    shutil.copytree(good, folder)
    touch(folder)


def touch(folder: Path) -> None:
    """Another time of change, however fast the test is."""
    status = (folder / "bundle.json").stat()
    os.utime(folder / "bundle.json", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.mark.parametrize(("break_it", "message"), named(BROKEN))
async def test_a_broken_bundle_fails_alone_until_it_is_mended(
    tmp_path: Path, break_it: Break, message: str
) -> None:
    write_classifier(tmp_path / "models", "good")
    folder = write_classifier(tmp_path / "models", "broken")
    intact = shutil.copytree(folder, tmp_path / "intact")
    break_it(folder)
    async with serving(tmp_path / "models") as (server, grpc):
        for _ in range(2):  # at start, and when it is looked at again
            model = await state(grpc, "broken")
            assert model.state == model_pb2.MODEL_STATE_FAILED
            assert message in model.state_message
            failure = await refusal(grpc.classify(images(GREEN, model="broken")))
            assert failure.status in ("UNAVAILABLE", "NOT_FOUND")
            assert await label(grpc, "good") == await label(grpc, "") == "green"
            expected = {"": True, TRANSLATION_SERVICE: False, CLASSIFICATION_SERVICE: True}
            assert await health(server, grpc) == expected
            await server.reload()
        replace(folder, intact)
        await server.reload()
        assert (await state(grpc, "broken")).state == model_pb2.MODEL_STATE_READY
        assert await label(grpc, "broken") == "green"


@pytest.mark.parametrize(("break_it", "message"), named(BROKEN))
async def test_a_broken_successor_leaves_what_serves(
    tmp_path: Path, break_it: Break, message: str
) -> None:
    folder = write_classifier(tmp_path / "models", "broken")
    intact = shutil.copytree(folder, tmp_path / "intact")
    async with serving(tmp_path / "models") as (server, grpc):
        break_it(folder)
        touch(folder)
        await server.reload()
        assert (await state(grpc, "broken")).state in SERVING
        assert await label(grpc, "broken") == "green"
        assert (await health(server, grpc))[CLASSIFICATION_SERVICE]
        replace(folder, intact)
        write_card(folder, {**card_of(folder), "labels": ["a", "b", "c", "d"]})
        await server.reload()
        assert (await state(grpc, "broken")).state == model_pb2.MODEL_STATE_READY
        assert await label(grpc, "broken") == "b"


async def test_a_server_of_broken_bundles_alone_is_alive_and_not_ready(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "models", "broken")
    intact = shutil.copytree(folder, tmp_path / "intact")
    truncate(folder)
    async with serving(tmp_path / "models") as (server, grpc):
        assert not any((await health(server, grpc)).values())
        failure = await refusal(grpc.classify(images(GREEN)))
        assert failure == Failure("UNAVAILABLE", "MODEL_UNAVAILABLE")
        assert "broken/1" in failure.message
        replace(folder, intact)
        await server.reload()
        assert (await health(server, grpc))[""]
        assert await label(grpc, "") == "green"


async def test_a_folder_that_is_no_bundle_yet_is_passed_over(tmp_path: Path) -> None:
    """bundle.json is written last: without it a folder is one that is still being copied."""
    models = tmp_path / "models"
    write_classifier(models, "good")
    (models / "empty" / "1").mkdir(parents=True)
    half = write_classifier(models, "half")
    card = (half / "bundle.json").read_text()
    (half / "bundle.json").unlink()
    (models / "a-file").write_text("no folder")
    async with serving(models) as (server, grpc):
        assert await label(grpc, "") == "green"
        failure = await refusal(grpc.classify(images(GREEN, model="half")))
        assert failure == Failure("NOT_FOUND", "MODEL_NOT_FOUND")
        (half / "bundle.json").write_text(card)
        await server.reload()
        assert await label(grpc, "half") == "green"


def copy_translator(models: Path) -> Path:
    folder = models / "captions-en-de" / "1"
    shutil.copytree(ROOT / "models" / "captions-en-de" / "1", folder)
    return folder


@pytest.mark.parametrize(("break_it", "message"), named(BROKEN_TRANSLATORS))
async def test_a_broken_translator_fails_alone(
    tmp_path: Path, break_it: Break, message: str
) -> None:
    break_it(copy_translator(tmp_path))
    write_classifier(tmp_path)
    async with serving(tmp_path) as (_, grpc):
        model = await state(grpc, "captions-en-de/1")
        assert model.state == model_pb2.MODEL_STATE_FAILED
        assert message in model.state_message
        failure = await refusal(grpc.translate(texts(GOOD[0])))
        assert failure == Failure("UNAVAILABLE", "MODEL_UNAVAILABLE")
        assert await label(grpc, "") == "green"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
async def test_files_that_are_overwritten_in_place_disturb_nobody(tmp_path: Path) -> None:
    """ONNX Runtime maps weights from their file: cutting it off ended the process with SIGBUS."""
    folder = copy_translator(tmp_path)
    shutil.copytree(ROOT / "models" / "cifar10", tmp_path / "cifar10")
    async with serving(tmp_path) as (_, grpc):
        request = texts(GOOD[0], options={"return_scores": True})
        before = (
            (await grpc.translate(request)).results,
            (await grpc.classify(images(SHIP))).results,
        )
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        for path in (*folder.rglob("*.*"), *(tmp_path / "cifar10").rglob("*.*")):
            path.open("wb").close()
        after = (await grpc.translate(request)).results, (await grpc.classify(images(SHIP))).results
        assert list(map(list, after)) == list(map(list, before))


async def test_a_server_with_few_rows_serves_with_as_many_beams(tmp_path: Path) -> None:
    """It once refused its own default, and showed a limit of 32."""
    folder = copy_translator(tmp_path)
    settings = Settings(models=tmp_path, grpc_port=0, http_port=0, drain_seconds=1.0, max_rows=2)
    server = Server(settings)
    await server.start()
    try:
        async with open_channel(server) as channel:
            grpc = Grpc(channel)
            model = await state(grpc, folder.parent.name)
            assert model.state == model_pb2.MODEL_STATE_DEGRADED
            assert "is over the limit of 2" in model.state_message
            assert model.translation.limits.max_beam_size == 2
            assert model.translation.default_options.beam_size == 2
            default, asked = [
                (await grpc.translate(texts(GOOD[0], options=options))).results
                for options in ({}, {"beam_size": 2})
            ]
            assert list(default) == list(asked)
            failure = await refusal(grpc.translate(texts(GOOD[0], options={"beam_size": 3})))
            assert failure == Failure("INVALID_ARGUMENT", "INVALID_OPTION", "options.beam_size")
            assert failure.message == "beam_size is 3, expected 1 to 2"
    finally:
        await server.drain()
