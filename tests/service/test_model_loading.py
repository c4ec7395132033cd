"""When models are loaded and when they leave: first use, memory, new versions under load."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attendant.v1 import model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc
from service.bundle import Bundle
from service.errors import BundleError, ModelUnavailable
from service.metrics import Metrics
from service.model import ModelState
from service.repository import ModelRepository
from service.server import Server
from service.settings import Settings
from tests.service.conftest import open_channel, samples, total, write_translator
from tests.service.fakes import FakeTranslator

REAL_MODEL = Path(__file__).parents[2] / "models" / "captions-en-de" / "1"


class Loader:
    """Makes fake engines; counts them, fails for some, and waits where it is told to."""

    def __init__(self, metrics: Metrics) -> None:
        self.loaded: list[str] = []
        self.broken: set[str] = set()
        self.may_load = threading.Event()
        self.may_load.set()
        self._metrics = metrics

    def __call__(self, bundle: Bundle) -> FakeTranslator:
        name = f"{bundle.name}/{bundle.version}"
        assert self.may_load.wait(timeout=30)
        self.loaded.append(name)
        if name in self.broken:
            raise BundleError("expected what it says, found something else")
        return FakeTranslator(bundle, metrics=self._metrics)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics.create()


@pytest.fixture
def loader(metrics: Metrics) -> Loader:
    return Loader(metrics)


@pytest.fixture
def repository(tmp_path: Path, metrics: Metrics, loader: Loader) -> Callable[..., ModelRepository]:
    def make(**given: Any) -> ModelRepository:
        return ModelRepository(tmp_path, factory=loader, metrics=metrics, **given)

    return make


Make = Callable[..., ModelRepository]


def states(models: ModelRepository) -> dict[str, str]:
    return {model.full_name: model.state.value for model in models.models}


async def version_that_answers(models: ModelRepository, name: str = "") -> str:
    async with models.translation(name, "", "") as (engine, _):
        return engine.model_name


async def test_at_the_start_the_highest_version_of_each_model_is_loaded(
    tmp_path: Path, repository: Make
) -> None:
    for name, version in (("a", 1), ("a", 2), ("b", 7)):
        write_translator(tmp_path, name, version)
    models = repository()
    await models.rescan()
    assert states(models) == {"a/2": "ready", "a/1": "unloaded", "b/7": "ready"}
    assert await version_that_answers(models, "a/1") == "a/1"
    assert await version_that_answers(models, "a") == "a/2"
    assert states(models)["a/1"] == "ready"
    await models.rescan()
    assert states(models)["a/1"] == "ready", "looking again unloads nobody"


async def test_the_first_of_many_callers_loads_a_model_once_for_all(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path, "a", 1)
    write_translator(tmp_path, "a", 2)
    models = repository(load_models="first-use")
    await models.rescan()
    assert (states(models), loader.loaded) == ({"a/2": "unloaded", "a/1": "unloaded"}, [])
    assert models.serves("translation"), "ready: the first call is answered"
    answers = await asyncio.gather(*(version_that_answers(models) for _ in range(20)))
    assert (set(answers), loader.loaded) == ({"a/2"}, ["a/2"])


async def test_a_caller_who_leaves_does_not_take_the_loading_with_it(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path)
    models = repository(load_models="first-use")
    await models.rescan()
    loader.may_load.clear()
    impatient = asyncio.create_task(version_that_answers(models))
    patient = asyncio.create_task(version_that_answers(models))
    while models.get("en-de").state is not ModelState.LOADING:
        await asyncio.sleep(0)
    impatient.cancel()
    loader.may_load.set()
    assert await patient == "en-de/1"
    assert impatient.cancelled()
    assert loader.loaded == ["en-de/1"]


async def test_where_the_highest_version_fails_on_first_use_the_next_one_answers(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path, version=1)
    write_translator(tmp_path, version=2)
    loader.broken = {"en-de/2"}
    models = repository(load_models="first-use")
    await models.rescan()
    assert await version_that_answers(models) == "en-de/1"
    with pytest.raises(ModelUnavailable, match="en-de/2 is failed expected what it says"):
        await version_that_answers(models, "en-de/2")


def bundle_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "fp32").iterdir())


async def test_the_least_recently_used_model_leaves_when_memory_is_full(
    tmp_path: Path, repository: Make, loader: Loader, metrics: Metrics
) -> None:
    sizes = [bundle_bytes(write_translator(tmp_path, name)) for name in "abc"]
    models = repository(max_bytes=sum(sizes[:2]))
    await models.rescan()
    assert states(models) == {"a/1": "ready", "b/1": "ready", "c/1": "unloaded"}
    await version_that_answers(models, "a")
    assert await version_that_answers(models, "c") == "c/1"
    assert states(models) == {"a/1": "ready", "b/1": "unloaded", "c/1": "ready"}
    loaded = {labels["model"] for labels, _ in samples(metrics, "attendant_model_info")}
    assert loaded == {"a/1", "c/1"}
    assert await version_that_answers(models, "b") == "b/1"
    assert states(models)["a/1"] == "unloaded"
    await models.rescan()
    assert sorted(loader.loaded[:2]) == ["a/1", "b/1"]
    assert loader.loaded[2:] == ["c/1", "b/1"], "looking again loads nobody"


async def test_a_model_leaves_only_after_its_last_call(
    tmp_path: Path, repository: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.repository.PATIENCE_SECONDS", 0.01)
    for name in "ab":
        write_translator(tmp_path, name)
    models = repository(max_bytes=bundle_bytes(tmp_path / "a" / "1"))
    await models.rescan()
    async with models.translation("a", "", "") as (engine, _):
        waiting = asyncio.create_task(version_that_answers(models, "b"))
        while models.get("a").state is not ModelState.UNLOADED:
            await asyncio.sleep(0)
        assert isinstance(engine, FakeTranslator)
        assert not engine.stopped
        assert not waiting.done()
    assert await waiting == "b/1"
    assert engine.stopped


async def test_models_that_share_too_little_memory_take_turns(
    tmp_path: Path, repository: Make
) -> None:
    """Each was unloaded for the other before its own caller came to use it, for ever."""
    for name in "abc":
        write_translator(tmp_path, name)
    models = repository(load_models="first-use", max_bytes=bundle_bytes(tmp_path / "a" / "1"))
    await models.rescan()

    async def call(name: str) -> str:
        async with models.translation(name, "", "") as (engine, _):
            assert isinstance(engine, FakeTranslator)
            await asyncio.sleep(0)
            assert not engine.stopped
            return engine.model_name

    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(call(name) for name in "abc" * 10))
    assert answers == [f"{name}/1" for name in "abc" * 10]
    assert list(states(models).values()).count("ready") == 1


async def test_a_caller_who_leaves_as_the_engine_comes_does_not_hold_it(
    tmp_path: Path, repository: Make
) -> None:
    write_translator(tmp_path)
    models = repository(load_models="first-use")
    await models.rescan()
    model = models.get("en-de")
    caller = asyncio.create_task(version_that_answers(models))
    while model.loaded is None:
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert model.loaded.is_idle
    await models.close()


async def test_a_model_larger_than_all_memory_is_refused_with_both_sizes(
    tmp_path: Path, repository: Make
) -> None:
    size = bundle_bytes(write_translator(tmp_path))
    models = repository(max_bytes=size - 1)
    await models.rescan()
    with pytest.raises(ModelUnavailable, match=f"at most {size - 1} bytes.*found {size}"):
        await version_that_answers(models)


async def test_a_new_version_takes_over_and_the_old_one_ends_its_calls(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path, version=1)
    models = repository()
    await models.rescan()
    loader.may_load.clear()
    write_translator(tmp_path, version=2)
    async with models.translation("", "", "") as (old, _):
        rescan = asyncio.create_task(models.rescan())
        while len(models.models) < 2:
            await asyncio.sleep(0)
        assert states(models)["en-de/2"] == "loading"
        assert await version_that_answers(models) == "en-de/1", "it is not there yet"
        loader.may_load.set()
        await rescan
        assert await version_that_answers(models) == "en-de/2"
        assert isinstance(old, FakeTranslator)
        assert not old.stopped
    while not old.stopped:
        await asyncio.sleep(0)
    assert states(models) == {"en-de/2": "ready", "en-de/1": "unloaded"}


async def test_a_broken_new_version_takes_no_memory_from_the_one_that_serves(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    """There is not room for both: the old one used to leave before the new one was looked at."""
    size = bundle_bytes(write_translator(tmp_path, version=1))
    models = repository(max_bytes=size)
    await models.rescan()
    (write_translator(tmp_path, version=2) / "source.spm").write_bytes(b"half")
    for _ in range(2):
        await models.rescan()
        assert states(models) == {"en-de/2": "failed", "en-de/1": "ready"}
    assert loader.loaded == ["en-de/1"]


async def test_looking_again_loads_nobody_for_those_who_name_a_version(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    for version in (1, 2):
        write_translator(tmp_path, version=version)
    models = repository(load_models="first-use")
    await models.rescan()
    await version_that_answers(models, "en-de/1")
    await models.rescan()
    assert states(models) == {"en-de/2": "unloaded", "en-de/1": "ready"}


async def test_a_refused_replacement_brings_no_older_version_back(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path, version=1)
    folder = write_translator(tmp_path, version=2)
    models = repository()
    await models.rescan()
    (folder / "bundle.json").write_text("{}")
    await models.rescan()
    assert states(models) == {"en-de/2": "degraded", "en-de/1": "unloaded"}


async def test_an_engine_that_can_no_longer_serve_is_told_of_and_loaded_anew(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path)
    told: list[dict[str, str]] = []
    models = repository(on_change=lambda: told.append(states(models)))
    await models.rescan()
    async with models.translation("", "", "") as (engine, _):
        assert isinstance(engine, FakeTranslator)
    engine.failed = "its decode threads have died"
    engine.on_change()
    assert told[-1] == {"en-de/1": "failed"}
    assert not models.serves("translation")
    assert models.get("en-de").state_message == "its decode threads have died"
    with pytest.raises(ModelUnavailable, match="decode threads have died"):
        await version_that_answers(models)
    await models.rescan()
    assert told[-1] == {"en-de/1": "ready"}
    assert loader.loaded == ["en-de/1", "en-de/1"]


async def test_only_plain_integers_are_versions(tmp_path: Path, repository: Make) -> None:
    """007 beside 7 used to replace each other for ever."""
    write_translator(tmp_path, version=7)
    shutil.copytree(tmp_path / "en-de" / "7", tmp_path / "en-de" / "007")
    shutil.copytree(tmp_path / "en-de" / "7", tmp_path / "en-de" / "latest")
    models = repository()
    async with asyncio.timeout(30):
        await models.rescan()
    assert states(models) == {"en-de/7": "ready"}


async def test_closing_ends_the_load_that_runs_and_begins_no_other(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    for name in "abc":
        write_translator(tmp_path, name)
    models = repository()
    loader.may_load.clear()
    rescan = asyncio.create_task(models.rescan())
    while len(models.models) < 3:
        await asyncio.sleep(0)
    closing = asyncio.create_task(models.close())
    await asyncio.sleep(0)
    loader.may_load.set()
    await asyncio.gather(closing, rescan)
    assert len(loader.loaded) <= 1


async def test_whoever_listens_hears_of_every_change(tmp_path: Path, loader: Loader) -> None:
    write_translator(tmp_path)
    heard: list[bool] = []
    models = ModelRepository(
        tmp_path,
        factory=loader,
        metrics=Metrics.create(),
        load_models="first-use",
        on_change=lambda: heard.append(models.serves("translation")),
    )
    await models.rescan()
    loader.broken = {"en-de/1"}
    with pytest.raises(ModelUnavailable):
        await version_that_answers(models)
    assert heard == [False]


async def test_a_broken_new_version_is_refused_and_the_old_one_goes_on(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    write_translator(tmp_path, version=1)
    models = repository(load_models="first-use")
    await models.rescan()
    assert await version_that_answers(models) == "en-de/1"
    write_translator(tmp_path, version=2)
    loader.broken = {"en-de/2"}
    await models.rescan()
    assert states(models) == {"en-de/2": "failed", "en-de/1": "ready"}
    assert await version_that_answers(models) == "en-de/1"
    loader.broken = set()
    await models.rescan()
    assert await version_that_answers(models) == "en-de/2"


async def test_when_the_serving_version_is_removed_the_one_before_is_loaded_again(
    tmp_path: Path, repository: Make
) -> None:
    write_translator(tmp_path, version=1)
    newer = write_translator(tmp_path, version=2)
    models = repository()
    await models.rescan()
    shutil.rmtree(newer)
    await models.rescan()
    assert states(models) == {"en-de/1": "ready"}
    assert await version_that_answers(models) == "en-de/1"


async def test_a_model_removed_while_it_is_loaded_does_not_come_back(
    tmp_path: Path, repository: Make, loader: Loader
) -> None:
    folder = write_translator(tmp_path)
    models = repository(load_models="first-use")
    await models.rescan()
    loader.may_load.clear()
    model = models.get("en-de")
    calling = asyncio.create_task(version_that_answers(models))
    while model.state is not ModelState.LOADING:
        await asyncio.sleep(0)
    shutil.rmtree(folder)
    await models.rescan()
    loader.may_load.set()
    with pytest.raises(Exception, match="no translation model"):
        await calling
    await models.close()
    assert model.engine is None


async def test_real_models_are_switched_under_load_and_nobody_notices(tmp_path: Path) -> None:
    """Callers never pause while version 2 comes, and while a version 3 is refused."""
    folder = tmp_path / "real" / "captions-en-de"
    shutil.copytree(REAL_MODEL, folder / "1")
    request = translation_pb2.TranslateRequest(contents=["A man is riding a horse."])
    versions: list[str] = []
    texts: set[str] = set()
    stop = asyncio.Event()

    server = Server(Settings(models=folder.parent, grpc_port=0, http_port=0))
    await server.start()

    async def call_until_told(stub: Any) -> None:
        while not stop.is_set():
            response = await stub.Translate(request)
            versions.append(response.model_version)
            texts.add(response.results[0].hypotheses[0].text)

    async def wait_for_calls(count: int) -> None:
        target = len(versions) + count
        while len(versions) < target:
            await asyncio.sleep(0.01)

    async with open_channel(server) as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        callers = [asyncio.create_task(call_until_told(stub)) for _ in range(4)]
        await wait_for_calls(8)
        shutil.copytree(folder / "1", folder / "2")
        await server.reload()
        await wait_for_calls(8)
        shutil.copytree(folder / "1", folder / "3")
        (folder / "3" / "source.spm").write_bytes(b"half")
        await server.reload()
        await wait_for_calls(8)
        stop.set()
        await asyncio.gather(*callers)
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        listed = (await models.ListModels(model_pb2.ListModelsRequest())).models
    assert [(model.version, model.state) for model in listed] == [
        ("3", model_pb2.MODEL_STATE_FAILED),
        ("2", model_pb2.MODEL_STATE_READY),
        ("1", model_pb2.MODEL_STATE_UNLOADED),
    ]
    assert "expected sha256" in listed[0].state_message
    assert set(versions) == {"1", "2"}
    assert "1" not in versions[-8:]
    assert len(texts) == 1
    assert total(server.metrics, "attendant_rows_running") == 0
    await server.drain()
