"""Several languages in one batch: each answer is that of a model that knows its direction alone."""

import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.golden import golden_texts
from service.bundle import (
    Bundle,
    Direction,
    Language,
    LanguagePair,
    Languages,
    Tokens,
    TranslationCard,
)
from service.errors import InvalidArgument
from service.golden import GoldenTexts
from service.languages import choose_direction
from service.metrics import Metrics
from service.selftest.examination import Examination
from service.selftest.report import Verdict
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import DecodingOptions
from service.translation.results import TextFinished, TranslationResult

CODES = {"en": 301, "de": 302, "fr": 303, "pt": 304}  # any ids will do
NUM_CALLS = 80

# Where a model is told its languages: NLLB and M2M100, mBART, multilingual Marian.
TEMPLATES: dict[str, dict[str, Any]] = {
    "nllb": {"source": ("source_language", "text", 2), "forced_bos": "target_language"},
    "mbart": {"source": ("text", 2, "source_language"), "decoder_start": "target_language"},
    "marian": {"source": ("target_language", "text", 2)},
}


def multilingual(bundle: Bundle, template: dict[str, Any]) -> Bundle:
    """The default model, as if these ids were languages; it makes of them what it will."""
    languages = tuple(Language(code=code, token=token) for code, token in CODES.items())
    return with_card(
        bundle,
        tokens={**bundle.translation.tokens.model_dump(), **template},
        language_pairs=(),
        languages=Languages(sources=languages, targets=languages).model_dump(),
    )


def of_one_direction(bundle: Bundle, direction: Direction) -> Bundle:
    """The same with the ids of a direction in place of what depends on one."""
    tokens = bundle.translation.tokens
    front, back = tokens.frame(direction)
    fixed = Tokens(
        pad=tokens.pad,
        eos=tokens.eos,
        unk=tokens.unk,
        decoder_start=tokens.decoder_start_into(direction.target),
        forced_bos=tokens.forced_bos_into(direction.target),
        source=(*front, "text", *back),
    )
    pair = direction.pair.model_dump()
    return with_card(bundle, tokens=fixed.model_dump(), language_pairs=(pair,), languages=None)


def with_card(bundle: Bundle, **fields: Any) -> Bundle:
    """Validated, as a card from a file is."""
    card = bundle.translation.model_dump() | fields
    return replace(bundle, card=TranslationCard.model_validate(card))


def engine_of(bundle: Bundle) -> TranslationEngine:
    settings = Settings(device="cpu", precision="int8", decode_workers=1, max_rows=24)
    return TranslationEngine(bundle, settings=settings, metrics=Metrics.create())


def requests(
    bundle: Bundle, sentences: list[str]
) -> Iterator[tuple[str, Direction, DecodingOptions]]:
    rng = random.Random(5)
    for text in rng.sample([one for one in sentences if len(one) < 120], NUM_CALLS):
        source, target = rng.sample(list(CODES), 2)
        options = DecodingOptions(
            beam_size=rng.choice((1, 1, 2, 4)), max_target_tokens=16, return_scores=True
        )
        yield text, choose_direction(bundle.translation, source, target), options


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
async def test_neighbours_in_other_languages_change_nothing(
    bundle: Bundle, sentences: list[str], template: dict[str, Any]
) -> None:
    many = multilingual(bundle, template)
    asked = list(requests(many, sentences))
    engine = engine_of(many)
    engine.start()
    calls = (engine.translate([text], options, direction=way) for text, way, options in asked)
    together = [found.results[0] for found in await asyncio.gather(*calls)]
    streamed = [await last_of_stream(engine, *one) for one in asked[:8]]
    await engine.stop()
    assert streamed == together[:8]
    alone = await each_alone(many, asked)
    assert together == alone
    targets = {one.hypotheses[0].text for one in together}
    assert len(targets) > NUM_CALLS // 4  # not one answer to everything


async def last_of_stream(
    engine: TranslationEngine, text: str, direction: Direction, options: DecodingOptions
) -> TranslationResult:
    """The result that a stream ends with."""
    async for event in engine.stream([text], options, direction=direction):
        if isinstance(event, TextFinished):
            result = event.result
    return result


async def each_alone(
    many: Bundle, asked: list[tuple[str, Direction, DecodingOptions]]
) -> list[TranslationResult]:
    """One after the other, from engines that know one direction each."""
    found: dict[int, TranslationResult] = {}
    for direction in {way for _, way, _ in asked}:
        engine = engine_of(of_one_direction(many, direction))
        engine.start()
        for index, (text, way, options) in enumerate(asked):
            if way == direction:
                found[index] = (await engine.translate([text], options)).results[0]
        await engine.stop()
    return [found[index] for index in range(len(asked))]


async def test_a_target_matters(bundle: Bundle, sentences: list[str]) -> None:
    """Or else the test above could not tell one language from another."""
    for template in TEMPLATES.values():
        many = multilingual(bundle, template)
        engine = engine_of(many)
        engine.start()
        ways = [choose_direction(many.translation, "en", target) for target in ("de", "fr")]
        options = DecodingOptions(max_target_tokens=16)
        german, french = [
            await engine.translate(sentences[:20], options, direction=way) for way in ways
        ]
        await engine.stop()
        assert german.results != french.results


async def test_a_model_of_several_directions_has_to_be_told_one(bundle: Bundle) -> None:
    engine = engine_of(multilingual(bundle, TEMPLATES["nllb"]))
    engine.start()
    with pytest.raises(InvalidArgument, match="translates between several languages"):
        await engine.translate(["A dog."], engine.default_options)
    await engine.stop()


def test_golden_answers_are_given_in_several_languages(
    bundle: Bundle, sentences: list[str]
) -> None:
    many = multilingual(bundle, TEMPLATES["mbart"])
    golden = GoldenTexts.model_validate_json(golden_texts(many, sentences[:5]))
    targets = ("de", "fr", "pt", "de", "fr")
    assert golden.languages == tuple(LanguagePair(source="en", target=one) for one in targets)
    (first,) = golden_of(of_one_direction(many, many.translation.first_direction), sentences[:1])
    assert golden.answers["fp32"]["greedy"][0] == first


async def test_the_self_test_asks_in_the_languages_of_the_golden_answers(
    bundle: Bundle, sentences: list[str], tmp_path: Path
) -> None:
    many = multilingual(bundle, TEMPLATES["nllb"])
    content = await asyncio.to_thread(golden_texts, many, sentences[:4])
    golden = GoldenTexts.model_validate_json(content)
    turned = golden.model_copy(update={"languages": golden.languages[::-1]})
    folder = tmp_path / "1"
    shutil.copytree(bundle.folder, folder)
    card = many.translation.model_copy(update={"golden": "golden.json"})
    for written, verdict in ((golden, Verdict.PASSED), (turned, Verdict.FAILED)):
        (folder / "golden.json").write_text(written.model_dump_json())
        settings = Settings(device="cpu", precision="int8", decode_workers=1)
        examination = Examination(
            replace(many, folder=folder, card=card), settings, speed_seconds=0.01
        )
        assert (await examination.run()).verdict is verdict


def golden_of(bundle: Bundle, texts: list[str]) -> tuple[Any, ...]:
    golden = GoldenTexts.model_validate_json(golden_texts(bundle, texts))
    assert golden.languages == ()
    return golden.answers["fp32"]["greedy"]
