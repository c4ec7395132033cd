"""What is asked, and what is answered to whoever asks alone."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from google.rpc import code_pb2

from attendant.v1.common_pb2 import DecodingOptions
from attendant.v1.translation_pb2 import (
    TranslateRequest,
    TranslateResponse,
    TranslationResult,
)
from bench.sentences import Sentences
from bench.torture.calls import TRANSLATE, Outcome, call, open_channel, unary

PATIENCE_SECONDS = 120.0  # of a slow machine's callers

Answer = tuple[str, ...]


class Question(NamedTuple):
    """One call."""

    texts: tuple[str, ...]
    beam_size: int = 1

    def message(self) -> TranslateRequest:
        """As protobuf."""
        return TranslateRequest(
            contents=self.texts, options=DecodingOptions(beam_size=self.beam_size)
        )

    def request(self) -> bytes:
        """As bytes."""
        return self.message().SerializeToString()


def sentences() -> tuple[str, ...]:
    """Sixty-four of our own."""
    own = Sentences.read(None, None)
    return (*own.timed, *own.tuning)


def big_questions(count: int, seed: int) -> list[Question]:
    """Sixteen of the longer sentences each, four beams: some ten to a hundred calls a second."""
    rng = random.Random(seed)
    long_ones = sorted(sentences(), key=len)[-16:]
    return [Question(tuple(rng.choices(long_ones, k=16)), 4) for _ in range(count)]


def small_questions(count: int, seed: int) -> list[Question]:
    """One to three sentences each, greedy or four beams."""
    rng = random.Random(seed)
    return [
        Question(tuple(rng.choices(sentences(), k=rng.randint(1, 3))), rng.choice((1, 4)))
        for _ in range(count)
    ]


def answer_of(content: bytes) -> Answer:
    """What a response says of each text."""
    return tuple(map(text_of, TranslateResponse.FromString(content).results))


def text_of(result: TranslationResult) -> str:
    """The best hypothesis, or the name of the status in its place."""
    if result.status.code:
        return f"({code_pb2.Code.Name(result.status.code)})"
    return result.hypotheses[0].text


async def answers_alone(target: str, questions: Iterable[Question]) -> dict[Question, Answer]:
    """Ask one after the other. Raises RuntimeError where one is not answered."""
    found: dict[Question, Answer] = {}
    async with open_channel(target) as channel:
        rpc = unary(channel, TRANSLATE)
        for question in questions:
            outcome = await call(rpc, question.request(), PATIENCE_SECONDS)
            if outcome.code != "OK":
                raise RuntimeError(f"asked alone: {outcome.label}: {outcome.message}")
            found[question] = answer_of(outcome.content)
    return found


async def ask_all(target: str, questions: Sequence[Question]) -> list[Outcome]:
    """All at once, on one connection."""
    async with open_channel(target) as channel:
        rpc = unary(channel, TRANSLATE)
        calls = (call(rpc, one.request(), PATIENCE_SECONDS) for one in questions)
        return list(await asyncio.gather(*calls))


def told(
    questions: Sequence[Question], outcomes: Sequence[Outcome]
) -> list[tuple[Question, Answer]]:
    """What each was answered; status and reason where a call failed."""
    return [
        (question, answer_of(one.content) if one.code == "OK" else (one.label,))
        for question, one in zip(questions, outcomes, strict=True)
    ]


def wrong_answers(
    answered: Sequence[tuple[Question, Answer]], alone: dict[Question, Answer]
) -> list[str]:
    """Those that differ from what was answered alone."""
    return [
        f"{answer} instead of {alone[question]}"
        for question, answer in answered
        if answer != alone[question]
    ]
