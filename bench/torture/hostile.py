"""Requests that are wrong in every way: whoever sends one is told so, and nobody else notices."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import grpc.aio
from google.rpc import code_pb2, status_pb2

from attendant.v1.classification_pb2 import ClassifyResponse
from attendant.v1.translation_pb2 import StreamTranslateResponse, TranslateResponse
from bench.server import RunningServer, running_server
from bench.torture.calls import (
    CLASSIFY,
    STREAM,
    TRANSLATE,
    Outcome,
    call,
    open_channel,
    unary,
    whole_stream,
)
from bench.torture.lines import Line, Size, at_least, none_of
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Answer,
    Question,
    answer_of,
    answers_alone,
    small_questions,
    wrong_answers,
)
from bench.torture.requests import Request, Requests
from bench.torture.scrape import Scrape, scrape, until_idle
from service.errors import AttendantError

NUM_CALLERS = 64
NUM_CONNECTIONS = 8
QUICK_SECONDS = 30.0
IDLE_AFTER_SECONDS = 60.0
DOCUMENTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
DOCUMENTED_OF_ONE = {"OK", "INVALID_ARGUMENT"}  # text or image
DOCUMENTED_HTTP = {200, 400, 404, 413, 429}


@dataclass
class Seen:
    """What all hostile callers were told, and their neighbours."""

    codes: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    neighbours: list[tuple[Question, Answer]] = field(default_factory=list)


async def run(size: Size) -> list[Line]:
    """All through one server."""
    num_requests = size.of(200_000, 20_000)
    until = time.monotonic() + QUICK_SECONDS if size.quick else None
    async with running_server() as server:
        neighbours = small_questions(20, size.seed)
        alone = await answers_alone(server.target, neighbours)
        before = server.resident_mebibytes()
        seen = await _all_requests(server, num_requests, size.seed, neighbours, until)
        gauges = await until_idle(server, IDLE_AFTER_SECONDS)
        found = await scrape(server)
        after = server.resident_mebibytes()
    total = seen.codes.total()
    left = [f"{name} {value:g}" for name, value in gauges.items() if value]
    wrong = wrong_answers(seen.neighbours, alone)
    return [
        none_of("statuses and reasons that are not documented", seen.surprises, total),
        at_least("requests sent", total, size.of(200_000, 1_000), "requests"),
        at_least("of them answered OK", seen.codes["OK"] / total, 0.1, "of all"),
        at_least("of them refused", 1 - seen.codes["OK"] / total, 0.1, "of all"),
        Line("how they ended", ", ".join(f"{code} {n:,}" for code, n in seen.codes.most_common())),
        none_of("calls that the server counts as INTERNAL or UNKNOWN", _bugs(found), total),
        none_of("neighbours' answers that are not those of alone", wrong, len(seen.neighbours)),
        none_of("gauges of what waits and runs that are not back at 0", left, len(gauges)),
        Line("resident memory before and after", f"{before:.0f} MiB, {after:.0f} MiB"),
    ]


def _bugs(found: Scrape) -> list[str]:
    codes = found.by("grpc_server_handled_total", "grpc_code")
    deaths = found.total("attendant_decode_thread_deaths_total")
    names = [f"{codes[code]} {code}" for code in ("INTERNAL", "UNKNOWN") if codes[code]]
    return names + ([f"{deaths:g} decode threads that died"] if deaths else [])


async def _all_requests(
    server: RunningServer,
    num_requests: int,
    seed: int,
    neighbours: Sequence[Question],
    until: float | None,
) -> Seen:
    """So many, or until this time; all the while a neighbour asks what is good."""
    seen = Seen()
    requests = Requests(seed)
    numbers = iter(range(num_requests))
    async with aiohttp.ClientSession(server.http_target) as session:
        callers = [
            asyncio.create_task(_caller(server, session, requests, numbers, seen, until))
            for _ in range(NUM_CONNECTIONS)
        ]
        healthy = asyncio.create_task(_neighbour(server.target, neighbours, seen))
        await asyncio.gather(*callers)
        healthy.cancel()
        await asyncio.gather(healthy, return_exceptions=True)
    return seen


async def _caller(
    server: RunningServer,
    session: aiohttp.ClientSession,
    requests: Requests,
    numbers: Iterator[int],
    seen: Seen,
    until: float | None,
) -> None:
    """One connection and several calls on it at once."""

    async def one_after_another(channel: grpc.aio.Channel) -> None:
        for number in numbers:
            if until is not None and time.monotonic() > until:
                return
            request = requests[number]
            if request.is_http:
                await _send_http(session, request, number, seen)
            else:
                await _send_grpc(channel, request, number, seen)

    async with open_channel(server.target) as channel:
        each = NUM_CALLERS // NUM_CONNECTIONS
        await asyncio.gather(*(one_after_another(channel) for _ in range(each)))


async def _neighbour(target: str, questions: Sequence[Question], seen: Seen) -> None:
    async with open_channel(target) as channel:
        rpc = unary(channel, TRANSLATE)
        while True:
            for question in questions:
                outcome = await call(rpc, question.request(), PATIENCE_SECONDS)
                answer = answer_of(outcome.content) if outcome.code == "OK" else (outcome.label,)
                seen.neighbours.append((question, answer))


async def _send_grpc(channel: grpc.aio.Channel, request: Request, number: int, seen: Seen) -> None:
    messages: list[bytes]
    if request.is_stream:
        rpc = channel.unary_stream(request.path)
        outcome, messages = await whole_stream(rpc, request.content, PATIENCE_SECONDS)
    else:
        outcome = await call(unary(channel, request.path), request.content, PATIENCE_SECONDS)
        messages = [outcome.content]
    seen.codes[outcome.code] += 1
    found = _surprise(request, outcome, messages if outcome.code == "OK" else [])
    if found:
        seen.surprises.append(f"request {number}, {request.path}: {found}")


def _surprise(request: Request, outcome: Outcome, messages: Sequence[bytes]) -> str | None:
    """What is not documented of an answer."""
    if outcome.code not in DOCUMENTED:
        return f"{outcome.label}: {outcome.message}"
    if outcome.code != "OK" and outcome.reason not in REASONS:
        return f"{outcome.code} with the reason {outcome.reason!r}: {outcome.message}"
    statuses = [status for message in messages for status in _statuses(request.path, message)]
    bad = [one for one in statuses if code_pb2.Code.Name(one.code) not in DOCUMENTED_OF_ONE]
    return f"one of a call: {bad[0]}" if bad else None


def _statuses(path: str, message: bytes) -> list[status_pb2.Status]:
    """Those of each text or image."""
    if path == TRANSLATE:
        return [one.status for one in TranslateResponse.FromString(message).results]
    if path == CLASSIFY:
        return [one.status for one in ClassifyResponse.FromString(message).results]
    if path == STREAM:
        return [StreamTranslateResponse.FromString(message).finished.result.status]
    return []


async def _send_http(
    session: aiohttp.ClientSession, request: Request, number: int, seen: Seen
) -> None:
    kind = "application/octet-stream" if "?" in request.path else "application/json"
    headers = {"Content-Type": kind}
    async with session.post(request.path, data=request.content, headers=headers) as response:
        text = await response.text()
    seen.codes["OK" if response.status == 200 else f"HTTP {response.status}"] += 1
    if response.status not in DOCUMENTED_HTTP or '"INTERNAL"' in text:
        place = f"request {number}, {request.path}"
        seen.surprises.append(f"{place}: HTTP {response.status}: {text[:200]}")


def _reasons(error: type[AttendantError] = AttendantError) -> set[str]:
    return {error.reason}.union(*map(_reasons, error.__subclasses__()))


REASONS = _reasons() - {"INTERNAL"}
