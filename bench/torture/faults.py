"""Faults put into a real server from outside, and what the documents say becomes of each."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import zip_longest
from pathlib import Path

from attendant import AsyncClient, NotFound, RetryPolicy
from attendant.errors import error_from_status
from attendant.v1.translation_pb2 import TranslateResponse
from bench.server import ROOT, RunningServer, running_server
from bench.torture import disk
from bench.torture.faulty_server import POISON
from bench.torture.lines import Line, Size, none_of
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Answer,
    Question,
    answers_alone,
    ask_all,
    sentences,
    small_questions,
    told,
    wrong_answers,
)
from bench.torture.scrape import scrape, until

NUM_QUESTIONS = 40
NO_RETRIES = RetryPolicy(max_attempts=1)
MODEL = "captions-en-de"
INTERNAL = "(INTERNAL)"
STARVED = "(UNAVAILABLE)"
MAX_ROUNDS_OF_FAMINE = 20


async def run(size: Size) -> list[Line]:
    """One server a fault."""
    questions = small_questions(NUM_QUESTIONS, size.seed)
    return [
        *await _failing_step(),
        *await _no_memory(questions),
        *await _famine(questions),
        *await _dead_threads(questions),
        *await _unreadable_bundles(questions),
        *await disk.run(questions),
    ]


def _faulty(fault: str, *flags: str) -> AbstractAsyncContextManager[RunningServer]:
    return running_server(*flags, module=("bench.torture.faulty_server", fault))


async def _failing_step() -> list[Line]:
    """One text of each call is what no step can be run with; calls of greedy and of beam search."""
    healthy = [Question((text,), beam) for text in sentences() for beam in (1, 4)]
    mixed = [Question((one.texts[0], POISON), one.beam_size) for one in healthy]
    async with _faulty("step") as server:
        alone = await answers_alone(server.target, healthy)
        outcomes = await ask_all(server.target, mixed)
    expected = {
        question: (*alone[one], INTERNAL) for question, one in zip(mixed, healthy, strict=True)
    }
    messages = {_message_of_last(one.content) for one in outcomes if one.code == "OK"}
    return [
        none_of(
            "a step that fails: calls where not the culprit alone is INTERNAL, the rest as alone",
            wrong_answers(told(mixed, outcomes), expected),
            len(mixed),
        ),
        Line(
            "the same: what the culprit is told",
            "; ".join(messages),
            "one fixed text",
            len(messages) == 1,
        ),
    ]


def _message_of_last(content: bytes) -> str:
    error = error_from_status(TranslateResponse.FromString(content).results[-1].status)
    return "" if error is None else error.message


async def _no_memory(questions: Sequence[Question]) -> list[Line]:
    """Steps over many rows find none for a while."""
    async with _faulty("memory") as server:
        alone = await answers_alone(server.target, questions)
        os.kill(server.pid, signal.SIGUSR1)
        outcomes = await ask_all(server.target, questions)
    wrong = wrong_answers(told(questions, outcomes), alone)
    lean = sum("no memory for" in line for line in server.log)
    return [
        none_of("allocations that fail: wrong answers", wrong, len(questions)),
        Line("the same: times that fewer rows ran from then on", str(lean), "at least 1", lean > 0),
    ]


async def _famine(questions: Sequence[Question]) -> list[Line]:
    """Neither encoder nor steps find any for a while, not even for one sentence."""
    async with _faulty("famine") as server:
        alone = await answers_alone(server.target, questions)
        os.kill(server.pid, signal.SIGUSR1)
        hungry = told(questions, await ask_all(server.target, questions))
        for _ in range(MAX_ROUNDS_OF_FAMINE):
            after = told(questions, await ask_all(server.target, questions))
            if not wrong_answers(after, alone):
                break
    texts = [pair for question, answer in hungry for pair in zip_longest(answer, alone[question])]
    wrong = [answer for answer, right in texts if answer not in (right, STARVED)]
    num_starved = sum(answer == STARVED for answer, _ in texts)
    return [
        none_of("no allocation succeeds: texts neither right nor UNAVAILABLE", wrong, len(texts)),
        Line("the same: UNAVAILABLE", str(num_starved), "at least 1", num_starved > 0),
        none_of(
            "the same, when there is memory: wrong answers", wrong_answers(after, alone), len(after)
        ),
    ]


async def _dead_threads(questions: Sequence[Question]) -> list[Line]:
    """The one decode thread dies, is started again, dies for good, and SIGHUP brings it back."""
    async with (
        _faulty("death", "--decode-workers", "1") as server,
        AsyncClient(server.target, retry=NO_RETRIES) as client,
    ):
        alone = await answers_alone(server.target, questions)
        first = await _die(server, questions, alone)
        state = str((await client.model(MODEL)).state)
        after = told(questions, await ask_all(server.target, questions))
        second = await _die(server, questions, alone)
        await until(lambda: _health_is(client, "NOT_SERVING"), PATIENCE_SECONDS)
        refused = {one.label for one in await ask_all(server.target, questions)}
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: _health_is(client, "SERVING"), PATIENCE_SECONDS)
        again = told(questions, await ask_all(server.target, questions))
    return [
        none_of("a dead thread: texts neither right nor INTERNAL", first + second, len(after)),
        Line("the same: state of the model", state, "degraded", state == "degraded"),
        none_of("the same, started again: wrong answers", wrong_answers(after, alone), len(after)),
        Line(
            "the last dead, health NOT_SERVING: what calls are told",
            ", ".join(sorted(refused)),
            "UNAVAILABLE MODEL_UNAVAILABLE",
            refused == {"UNAVAILABLE MODEL_UNAVAILABLE"},
        ),
        none_of("the same, after SIGHUP: wrong answers", wrong_answers(again, alone), len(again)),
    ]


async def _die(
    server: RunningServer, questions: Sequence[Question], alone: dict[Question, Answer]
) -> list[str]:
    """Ask while the thread dies -> what was neither right nor an error."""
    deaths = await _num_deaths(server)
    asking = asyncio.create_task(ask_all(server.target, questions))
    os.kill(server.pid, signal.SIGUSR1)

    async def died() -> bool:
        return await _num_deaths(server) > deaths

    await until(died, PATIENCE_SECONDS)
    answered = told(questions, await asking)
    return [
        f"{answer} instead of {alone[question]}"
        for question, answer in answered
        if not _is_right_or_internal(answer, alone[question])
    ]


def _is_right_or_internal(answer: Answer, alone: Answer) -> bool:
    """A call that comes when no thread is left may be refused, too."""
    if answer == ("UNAVAILABLE MODEL_UNAVAILABLE",):
        return True
    return all(one in (INTERNAL, other) for one, other in zip(answer, alone, strict=True))


async def _num_deaths(server: RunningServer) -> float:
    return (await scrape(server)).total("attendant_decode_thread_deaths_total")


async def _health_is(client: AsyncClient, status: str) -> bool:
    return (await client.health("attendant.v1.TranslationService")) == status


async def _unreadable_bundles(questions: Sequence[Question]) -> list[Line]:
    """New versions that are cut off, or whose weights cannot be read, while the old one answers."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(ROOT / "models" / MODEL, models / MODEL)
        async with (
            running_server("--models", str(models)) as server,
            AsyncClient(server.target, retry=NO_RETRIES) as client,
        ):
            alone = await answers_alone(server.target, questions)
            for version in ("2", "3"):
                shutil.copytree(models / MODEL / "1", models / MODEL / version)
            _cut(models / MODEL / "2" / "int8" / "weights.bin")
            _replace_by_folder(models / MODEL / "3" / "int8" / "weights.bin")
            os.kill(server.pid, signal.SIGHUP)
            for version in ("2", "3"):
                await until(lambda one=version: _has_failed(client, one), PATIENCE_SECONDS)
            reasons = [(await client.model(f"{MODEL}/{one}")).state_message for one in ("2", "3")]
            health = await client.health()
            after = told(questions, await ask_all(server.target, questions))
    said = "; ".join(reasons).replace(f"{models}/", "")
    return [
        Line("unreadable bundles: health", health, "SERVING", health == "SERVING"),
        Line("the same: what GetModel says", said, "each file", said.count("weights.bin") == 2),
        none_of("the same: wrong answers of the old one", wrong_answers(after, alone), len(after)),
    ]


async def _has_failed(client: AsyncClient, version: str) -> bool:
    try:
        return (await client.model(f"{MODEL}/{version}")).state == "failed"
    except NotFound:
        return False  # not yet


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
