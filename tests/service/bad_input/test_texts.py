"""Bad texts, options and names: the documented error, and nobody else notices."""

import re
from typing import Any

import pytest

from attendant.v1.common_pb2 import DecodingOptions
from attendant.v1.translation_pb2 import SEGMENTATION_NONE
from tests.service.bad_input.calling import Failure, failure_of, refusal, texts
from tests.service.bad_input.conftest import (
    GOOD,
    MAX_TEXT_BYTES,
    Callers,
    Company,
    answered_meanwhile,
    named,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")
every_way = pytest.mark.parametrize("way", ["grpc", "stream", "http"])

TWO_SENTENCES = "A dog runs. A cat sleeps."
NAN, INFINITY = float("nan"), float("inf")


@every_way
@pytest.mark.parametrize(
    ("text", "options", "reason", "message"),
    named(
        {
            "too long": (
                "x" * (MAX_TEXT_BYTES + 1),
                {},
                "TEXT_TOO_LONG",
                "text has 1000001 bytes, the limit is 1000000",
            ),
            "too long in UTF-8 alone": (
                "é" * 500_001,
                {},
                "TEXT_TOO_LONG",
                "text has 1000002 bytes, the limit is 1000000",
            ),
            "n-best of several sentences": (
                TWO_SENTENCES,
                {"num_hypotheses": 2},
                "INVALID_OPTION",
                "num_hypotheses is 2, but the text is decoded as 2 sequences",
            ),
        }
    ),
)
async def test_a_bad_text_fails_alone(
    callers: Callers,
    company: Company,
    way: str,
    text: str,
    options: dict[str, Any],
    reason: str,
    message: str,
) -> None:
    options = options | {"return_scores": True}
    expected = [
        (await callers["grpc"].translate(texts(good, options=options))).results[0] for good in GOOD
    ]
    async with company():
        request = texts(GOOD[0], text, GOOD[1], options=options)
        first, bad, last = (await callers[way].translate(request)).results
    failure = failure_of(bad.status)
    assert failure == Failure("INVALID_ARGUMENT", reason, "contents[1]")
    assert message in failure.message
    assert not bad.hypotheses
    assert [first, last] == expected


@every_way
@pytest.mark.parametrize(
    "text",
    ["", "\r\n\t \u3000", "\x00", "\x01\x02\x7f\x9f", "\x00\x1b", "\u200b\ufeff\u202e"],
    ids=ascii,
)
async def test_a_text_without_a_visible_character_comes_back_as_it_is(
    callers: Callers, alone: dict[Any, Any], way: str, text: str
) -> None:
    request = texts(GOOD[0], text, GOOD[1], options={"return_scores": True})
    first, same, last = (await callers[way].translate(request)).results
    assert (same.status.code, same.num_sequences) == (0, 0)
    assert [hypothesis.text for hypothesis in same.hypotheses] == [text]
    assert [first, last] == [alone[text] for text in GOOD]


def option(name: str, value: Any, message: str, **others: Any) -> Any:
    request = texts("A dog.", options=DecodingOptions(**{name: value}, **others))
    return request, "INVALID_ARGUMENT", "INVALID_OPTION", f"options.{name}", message


@every_way
@pytest.mark.parametrize(
    ("request_", "status", "reason", "field", "message"),
    named(
        {
            "no contents": (
                texts(),
                *("INVALID_ARGUMENT", "INVALID_REQUEST", "contents"),
                "contents has 0 items, expected 1 to 1024",
            ),
            "too many contents": (
                texts(*["A dog."] * 1025),
                *("INVALID_ARGUMENT", "INVALID_REQUEST", "contents"),
                "contents has 1025 items, expected 1 to 1024",
            ),
            "unknown model": (
                texts("A dog.", model="captions-en-fr"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "captions-en-fr; there are: captions-en-de/1",
            ),
            "unknown version": (
                texts("A dog.", model="captions-en-de/99"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "captions-en-de/99; there are: captions-en-de/1",
            ),
            "a version that is no number": (
                texts("A dog.", model="captions-en-de/../1"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "captions-en-de/1",
            ),
            "a name of a megabyte": (
                texts("A dog.", model="m" * 1_000_000),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "characters)",
            ),
            "a model of another task": (
                texts("A dog.", model="cifar10"),
                *("NOT_FOUND", "MODEL_NOT_FOUND", ""),
                "captions-en-de/1",
            ),
            "unknown pair": (
                texts("A dog.", source_language_code="de", target_language_code="en"),
                *("NOT_FOUND", "LANGUAGE_PAIR_NOT_FOUND", ""),
                "no model for de to en; there are: en to de (captions-en-de)",
            ),
            "beam 0": option("beam_size", 0, "beam_size is 0, expected 1 to 32"),
            "beam -1": option("beam_size", -1, "beam_size is -1, expected 1 to 32"),
            "beam 1000": option("beam_size", 1000, "beam_size is 1000, expected 1 to 32"),
            "more hypotheses than beams": option(
                "num_hypotheses", 3, "num_hypotheses is 3, expected 1 to beam_size 2", beam_size=2
            ),
            "no hypotheses": option("num_hypotheses", 0, "num_hypotheses is 0, expected 1 to"),
            "penalty 0": option("repetition_penalty", 0, "is 0.0, expected more than 0"),
            "penalty -1": option("repetition_penalty", -1, "is -1.0, expected more than 0"),
            "penalty NaN": option("repetition_penalty", NAN, "is nan, expected"),
            "penalty infinite": option("repetition_penalty", INFINITY, "is inf, expected"),
            "length penalty NaN": option("length_penalty", NAN, "is nan, expected a finite number"),
            "length penalty infinite": option("length_penalty", -INFINITY, "is -inf, expected"),
            "no target": option("max_target_tokens", 0, "is 0, expected 1 to "),
            "too long a target": option("max_target_tokens", 100_000, "is 100000, expected 1 to "),
            "more at least than at most": option(
                "min_target_tokens", 9, "is 9, expected 0 to 8", max_target_tokens=8
            ),
            "n-gram -1": option("no_repeat_ngram_size", -1, "is -1, expected 0 to "),
            "early stopping 9": option("early_stopping", 9, "is 9, expected 0 to 3"),
            "segmentation 9": (
                texts("A dog.", segmentation=9),
                *("INVALID_ARGUMENT", "INVALID_OPTION", "segmentation"),
                "segmentation is 9, expected 0 to 2",
            ),
        }
    ),
)
async def test_what_is_wrong_with_a_call_fails_it_and_nobody_else(
    callers: Callers,
    company: Company,
    way: str,
    request_: Any,
    status: str,
    reason: str,
    field: str,
    message: str,
) -> None:
    if reason == "INVALID_OPTION" or way != "grpc":
        failure = await refusal(callers[way].translate(request_))
    else:  # company costs time: once for each kind of failure
        async with company():
            failure = await refusal(callers[way].translate(request_))
    assert failure == Failure(status, reason, field)
    assert message in failure.message
    assert len(failure.message) < 2000


async def test_a_megabyte_of_one_word_stalls_nobody(callers: Callers, company: Company) -> None:
    """It is more than the queue takes, as its message says; until then others are answered."""
    options = DecodingOptions(beam_size=1, max_target_tokens=1)
    async with company():
        call = callers["grpc"].translate(texts("x" * MAX_TEXT_BYTES, "A dog.", options=options))
        long, fine = (await answered_meanwhile(callers, call)).results
    assert failure_of(long.status) == Failure("INVALID_ARGUMENT", "TEXT_TOO_LONG", "contents[0]")
    assert re.search(r"text has \d{4,} sequences, the queue takes 4096", long.status.message)
    assert fine.hypotheses


async def test_a_hundred_thousand_words_are_all_translated(callers: Callers) -> None:
    text = "dog " * 100_000
    options = DecodingOptions(beam_size=1, max_target_tokens=1)
    call = callers["grpc"].translate(texts(text, options=options, segmentation=SEGMENTATION_NONE))
    (result,) = (await answered_meanwhile(callers, call)).results
    assert result.status.code == 0
    assert result.source_tokens >= 100_000
    assert 100 < result.num_sequences < 4096
    assert result.hypotheses[0].target_tokens == result.num_sequences
