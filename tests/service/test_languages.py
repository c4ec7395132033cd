"""Which languages a request means: of one model, among several, and what callers are told."""

from pathlib import Path

import grpc.aio
import pytest

from attendant.v1 import model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc
from service.bundle import TranslationCard, read_card
from service.errors import AttendantError, BundleError, InvalidArgument, LanguagePairNotFound
from service.languages import MAX_NAMED, choose_direction, sample_directions
from tests.service.conftest import StartServer, open_channel, write_multilingual, write_translator
from tests.service.fakes import FakeTranslator

CODES = ("en", "de", "de-AT", "zh-Hans", "zh-Hant", "sr-Cyrl")
MANY = tuple(f"{first}{second}" for first in "abcdefghij" for second in "abcdefghijklmnopqrst")


@pytest.fixture
def card(tmp_path: Path) -> TranslationCard:
    """A model that has to be told both languages."""
    return card_in(write_multilingual(tmp_path, *CODES))


def card_in(folder: Path) -> TranslationCard:
    card = read_card(folder)
    assert isinstance(card, TranslationCard)
    return card


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("en", "de", ("en", "de")),
        ("EN", "DE-at", ("en", "de-AT")),
        ("en-Latn-GB", "de-CH", ("en", "de")),
        ("en", "de-AT-1996", ("en", "de-AT")),
        ("en", "zh-Hant-TW", ("en", "zh-Hant")),
        ("zh-hans_own", "EN_OWN", ("zh-Hans", "en")),
        ("sr", "en", ("sr-Cyrl", "en")),  # it has no other Serbian
        ("zh-Hans", "zh-Hant", ("zh-Hans", "zh-Hant")),
        ("de", "de-AT", ("de", "de-AT")),
    ],
)
def test_codes_and_the_models_own_names_lead_to_its_languages(
    card: TranslationCard, source: str, target: str, expected: tuple[str, str]
) -> None:
    direction = choose_direction(card, source, target)
    assert (direction.source.code, direction.target.code) == expected
    assert direction.target.token == 3 + CODES.index(expected[1])


@pytest.mark.parametrize(
    ("source", "target", "message", "side"),
    [
        ("en", "zh", "zh may be any of several, name one: zh-Hans, zh-Hant", "target"),
        ("en", "", "many has several target languages, name one: de, de-AT, sr-Cyrl", "target"),
        ("", "en", "many has several source languages, name one: de, de-AT, sr-Cyrl", "source"),
    ],
)
def test_a_choice_that_is_open_is_the_callers(
    card: TranslationCard, source: str, target: str, message: str, side: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        choose_direction(card, source, target)
    assert caught.value.message.startswith(message)
    assert caught.value.field == f"{side}_language_code"


@pytest.mark.parametrize(
    ("source", "target"),
    [("en", "fr"), ("fr", "en"), ("en", "en"), ("en-US", "en-GB"), ("en", "zh-TW"), ("en", "d")],
)
def test_a_direction_that_the_model_lacks_is_not_found(
    card: TranslationCard, source: str, target: str
) -> None:
    with pytest.raises(LanguagePairNotFound, match=f"no model for {source} to {target}; there are"):
        choose_direction(card, source, target)


def test_what_there_is_begins_with_what_is_like_what_was_asked(card: TranslationCard) -> None:
    with pytest.raises(LanguagePairNotFound) as caught:
        choose_direction(card, "fr", "zh-TW")
    assert caught.value.message.endswith(
        "to any of zh-Hans, zh-Hant, de, de-AT, en, sr-Cyrl (many)"
    )


def test_of_two_languages_the_other_one_is_meant(tmp_path: Path) -> None:
    card = card_in(write_multilingual(tmp_path, "en", "de"))
    for source, target in (("en", ""), ("", "de")):
        assert choose_direction(card, source, target).pair.model_dump() == {
            "source": "en",
            "target": "de",
        }


def test_a_model_that_need_not_be_told_the_source_takes_any(tmp_path: Path) -> None:
    card = card_in(write_multilingual(tmp_path, *CODES, told="target"))
    assert choose_direction(card, "", "de").target.code == "de"
    assert choose_direction(card, "", "en").source.code != "en"
    with pytest.raises(InvalidArgument, match="several target languages"):
        choose_direction(card, "en", "")


def test_a_model_of_one_language_says_what_it_is_given(tmp_path: Path) -> None:
    """It summarises, for example."""
    card = card_in(write_translator(tmp_path, pairs=(("en", "en"),)))
    assert choose_direction(card, "", "").pair == card.language_pairs[0]
    assert choose_direction(card, "en-GB", "en").target.code == "en"


@pytest.mark.parametrize(("source", "target"), [("xx", "yy"), ("aa", ""), ("", ""), ("aa", "aa")])
def test_a_message_names_a_few_of_two_hundred_languages(
    tmp_path: Path, source: str, target: str
) -> None:
    card = card_in(write_multilingual(tmp_path, *MANY))
    with pytest.raises(AttendantError, match=f"and {len(MANY) - MAX_NAMED}|and {199 - MAX_NAMED}"):
        choose_direction(card, source, target)
    with pytest.raises(AttendantError) as caught:
        choose_direction(card, source, target)
    assert len(caught.value.message) < 500


def test_samples_are_english_into_every_language_in_turn(card: TranslationCard) -> None:
    directions = sample_directions(card, 6)
    assert {one.source.code for one in directions} == {"en"}
    assert [one.target.code for one in directions] == [*CODES[1:], "de"]


@pytest.mark.parametrize(
    ("tokens", "languages", "message"),
    [
        ({"forced_bos": "target_language"}, None, "expected languages, for tokens name a target_l"),
        ({"source": ["source_language"]}, None, "expected one text in the template of sources"),
        ({"source": ["text", "text", 1]}, None, "expected one text in the template .* found 2"),
        ({"source": ["text", 8]}, None, "token 8 is outside the source's 8"),
        ({"decoder_start": 8}, None, "token 8 is outside vocab_size 8"),
        ({}, [("en", 3), ("en", 4)], "expected each language once in sources, found en twice"),
        ({}, [("en", 3)], "expected two languages at least, found en alone"),
        (
            {"decoder_start": "target_language"},
            [("en", 3), ("de", None)],
            "expected a token for each target_language, found none for de",
        ),
        ({"forced_bos": "target_language"}, [("en", 3), ("de", 8)], "token 8 is outside vocab_si"),
        ({"source": ["source_language", "text"]}, [("en", 9), ("de", 3)], "token 9 is outside the"),
    ],
)
def test_a_card_whose_languages_contradict_its_tokens_is_refused(
    tmp_path: Path,
    tokens: dict[str, object],
    languages: list[tuple[str, int | None]] | None,
    message: str,
) -> None:
    both = [{"code": code, "token": token} for code, token in languages or ()]
    folder = write_translator(
        tmp_path,
        pairs=() if languages else (("en", "de"),),
        tokens={"pad": 0, "eos": 1, "unk": 2, "decoder_start": 0, **tokens},
        languages={"sources": both, "targets": both} if languages else None,
    )
    with pytest.raises(BundleError, match=message):
        read_card(folder)


def test_a_card_has_pairs_or_languages(tmp_path: Path) -> None:
    languages = [{"code": "en"}, {"code": "de"}]
    both = write_translator(tmp_path, languages={"sources": languages, "targets": languages})
    with pytest.raises(BundleError, match="expected language_pairs or languages, found both"):
        read_card(both)


async def test_the_direction_reaches_the_engine_and_get_model_lists_the_languages(
    models: Path, start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    write_multilingual(models, *CODES)
    async with start_server() as server, open_channel(server) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        for fields in (
            {"source_language_code": "en_own", "target_language_code": "zh-Hant-HK"},
            {"source_language_code": "sr", "target_language_code": "de"},
        ):
            request = translation_pb2.TranslateRequest(contents=["Yes."], **fields)
            assert (await stub.Translate(request)).model == "many"
            events = stub.StreamTranslate(translation_pb2.StreamTranslateRequest(request=request))
            assert [event async for event in events]
        described = model_pb2_grpc.ModelServiceStub(channel)
        model = (await described.GetModel(model_pb2.GetModelRequest(name="many"))).model
    found = [(one.source.code, one.target.code) for one in fakes["many"].directions if one]
    assert found == [("en", "zh-Hant")] * 2 + [("sr-Cyrl", "de")] * 2
    assert not model.translation.language_pairs
    assert tuple(model.translation.source_language_codes) == CODES
    assert tuple(model.translation.target_language_codes) == CODES


async def test_a_pair_that_two_models_have_goes_to_the_one_that_a_request_names(
    models: Path, start_server: StartServer, fakes: dict[str, FakeTranslator]
) -> None:
    write_multilingual(models, *CODES)
    async with start_server() as server, open_channel(server) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["Yes."], target_language_code="de")
        request.source_language_code = "en"
        assert (await stub.Translate(request)).model == "en-de"
        request.model = "many"
        assert (await stub.Translate(request)).model == "many"
        request.target_language_code = ""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Translate(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "name one: de, de-AT, sr-Cyrl, zh-Hans, zh-Hant" in str(caught.value.details())
    (direction,) = fakes["en-de"].directions
    assert direction is not None
    assert direction.source.token is direction.target.token is None
