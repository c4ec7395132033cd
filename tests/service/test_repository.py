"""The models folder: versions, languages, broken bundles, reloading."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.bundle import Bundle
from service.errors import (
    InvalidArgument,
    LanguagePairNotFound,
    ModelNotFound,
    ModelUnavailable,
    Starting,
)
from service.metrics import Metrics
from service.model import ModelState
from service.repository import ModelRepository
from tests.service.conftest import samples, write_translator
from tests.service.fakes import FakeTranslator


def repository(folder: Path, metrics: Metrics | None = None, **given: Any) -> ModelRepository:
    metrics = metrics or Metrics.create()

    def make(bundle: Bundle) -> FakeTranslator:
        return FakeTranslator(bundle, metrics=metrics)

    return ModelRepository(folder, factory=make, metrics=metrics, **given)


async def chosen(
    models: ModelRepository, name: str = "", source: str = "", target: str = ""
) -> str:
    async with models.translation(name, source, target) as (engine, _):
        return engine.model_name


async def test_the_highest_ready_version_serves_unless_one_is_asked_for(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        write_translator(tmp_path, version=version)
    models = repository(tmp_path)
    await models.rescan()
    assert await chosen(models) == await chosen(models, "en-de") == "en-de/10"
    assert await chosen(models, "en-de/2") == "en-de/2"
    with pytest.raises(ModelNotFound, match="no translation model en-de/3; there are: en-de/10"):
        await chosen(models, "en-de/3")


async def test_a_broken_bundle_fails_alone_and_says_why(tmp_path: Path) -> None:
    write_translator(tmp_path, version=1)
    (write_translator(tmp_path, version=2) / "source.spm").write_bytes(b"changed")
    (write_translator(tmp_path, name="junk") / "bundle.json").write_text("{")
    models = repository(tmp_path)
    await models.rescan()
    states = {model.full_name: (model.state, model.state_message) for model in models.models}
    assert states["en-de/1"] == (ModelState.READY, "")
    assert states["en-de/2"][0] is states["junk/1"][0] is ModelState.FAILED
    assert "expected sha256" in states["en-de/2"][1]
    assert await chosen(models, "en-de") == "en-de/1"
    with pytest.raises(ModelUnavailable, match="expected JSON"):
        await chosen(models, "junk")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("en", "de", "a"),
        ("EN-gb", "de", "british"),
        ("en-US", "de", "a"),
        ("en-Latn-US", "de-AT", "a"),
        ("", "fr", "french"),
        ("en", "", "a"),
        ("", "", "a"),
    ],
)
async def test_language_codes_fall_back_and_the_nearest_model_wins(
    tmp_path: Path, source: str, target: str, expected: str
) -> None:
    for name, pair in {
        "b": ("en", "de"),
        "a": ("en", "de"),
        "british": ("en-GB", "de"),
        "french": ("en", "fr"),
    }.items():
        write_translator(tmp_path, name, pairs=(pair,))
    models = repository(tmp_path)
    await models.rescan()
    assert await chosen(models, "", source, target) == f"{expected}/1"
    with pytest.raises(LanguagePairNotFound, match=r"en to de \(a\)"):
        await chosen(models, "", "eng", "de")


async def test_a_setting_names_the_preferred_of_several_models(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_translator(tmp_path, name)
    models = repository(tmp_path, default_models=("c", "b"))
    await models.rescan()
    assert await chosen(models) == "b/1"
    assert await chosen(models, "a") == "a/1"


async def test_a_model_of_several_languages_wants_one_named(tmp_path: Path) -> None:
    write_translator(tmp_path, pairs=(("en", "de"), ("en", "fr")))
    models = repository(tmp_path)
    await models.rescan()
    assert await chosen(models, "", "", "fr") == "en-de/1"
    with pytest.raises(InvalidArgument, match="several target languages"):
        await chosen(models)


async def test_before_the_first_scan_everything_is_starting(tmp_path: Path) -> None:
    models = repository(tmp_path)
    with pytest.raises(Starting):
        await chosen(models)
    await models.rescan()
    with pytest.raises(ModelNotFound, match="there are: none"):
        await chosen(models)


async def test_a_rescan_adds_replaces_repairs_and_removes(tmp_path: Path) -> None:
    metrics = Metrics.create()
    changed = write_translator(tmp_path, "changed")
    gone = write_translator(tmp_path, "gone")
    broken = write_translator(tmp_path, "broken")
    card = (broken / "bundle.json").read_text()
    (broken / "bundle.json").write_text("{}")
    models = repository(tmp_path, metrics)
    await models.rescan()
    engines = {model.name: model.engine for model in models.models}
    content = json.loads((changed / "bundle.json").read_text())
    content["provenance"]["recipe"] = "another"
    (changed / "bundle.json").write_text(json.dumps(content))
    (broken / "bundle.json").write_text(card)
    shutil.rmtree(gone)
    write_translator(tmp_path, "new")
    await models.rescan()
    assert [model.name for model in models.models] == ["broken", "changed", "new"]
    assert all(model.state is ModelState.READY for model in models.models)
    assert models.get("changed").engine is not engines["changed"]
    await models.close()
    stopped = [engines["gone"], engines["changed"]]
    assert all(isinstance(engine, FakeTranslator) and engine.stopped for engine in stopped)
    assert not list(samples(metrics, "attendant_model_info"))


async def test_a_broken_successor_leaves_what_serves_in_place_and_is_named(tmp_path: Path) -> None:
    folder = write_translator(tmp_path)
    card = (folder / "bundle.json").read_text()
    models = repository(tmp_path)
    await models.rescan()
    serving = models.get("en-de")
    (folder / "bundle.json").write_text("{}")
    await models.rescan()
    assert serving.state is ModelState.DEGRADED
    assert "to be replaced, but: " in serving.state_message
    assert await chosen(models) == "en-de/1"
    (folder / "bundle.json").write_text(card)
    await models.rescan()
    assert models.get("en-de").state is ModelState.READY


async def test_a_model_whose_card_is_missing_for_a_moment_goes_on(tmp_path: Path) -> None:
    """A copy over a folder removes bundle.json before it writes the new one."""
    folder = write_translator(tmp_path)
    models = repository(tmp_path)
    await models.rescan()
    engine = models.get("en-de").engine
    (folder / "bundle.json").unlink()
    await models.rescan()
    assert models.get("en-de").engine is engine
    assert await chosen(models) == "en-de/1"


async def test_no_engine_is_stopped_under_a_call(tmp_path: Path) -> None:
    folder = write_translator(tmp_path)
    models = repository(tmp_path)
    await models.rescan()
    async with models.translation("", "", "") as (engine, _):
        shutil.rmtree(folder)
        await models.rescan()
        await asyncio.sleep(0)
        assert isinstance(engine, FakeTranslator)
        assert not engine.stopped
    await models.close()
    assert engine.stopped
