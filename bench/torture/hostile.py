"""Requests that are wrong in every way: whoever sends one is told so, and nobody else notices."""

import asyncio
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import grpc.aio
import hypothesis
from google.rpc import code_pb2, status_pb2
from hypothesis import strategies as st
from hypothesis.errors import Flaky

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
from bench.torture.scrape import BUGS, scrape, until_idle
from service.errors import AttendantError

NUM_CALLERS = 16  # each draws a request and waits for its answer, in a thread
NUM_CONNECTIONS = 8
REQUESTS_A_SEED = 200
QUICK_SECONDS = 20.0
IDLE_AFTER_SECONDS = 60.0
DOCUMENTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
DOCUMENTED_OF_ONE = {"OK", "INVALID_ARGUMENT"}  # text or image
DOCUMENTED_HTTP = {200, 400, 404, 413, 429}


Send = Callable[[Request], Coroutine[Any, Any, str | None]]


@dataclass
class Seen:
    """What all hostile callers were told, and their neighbours."""

    codes: Counter[str] = field(default_factory=Counter)
    requests: set[int] = field(default_factory=set)  # hashes of those that differ
    surprises: list[str] = field(default_factory=list)
    neighbours: list[tuple[Question, Answer]] = field(default_factory=list)


async def run(size: Size) -> list[Line]:
    """All through one server."""
    num_requests = size.of(200_000, 20_000)
    until = time.monotonic() + QUICK_SECONDS if size.quick else math.inf
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
        at_least("of them different from all others", len(seen.requests) / total, 0.5, "of all"),
        at_least("of them answered OK", seen.codes["OK"] / total, 0.1, "of all"),
        at_least("of them refused", 1 - seen.codes["OK"] / total, 0.1, "of all"),
        Line("how they ended", ", ".join(f"{code} {n:,}" for code, n in seen.codes.most_common())),
        none_of(BUGS, found.bugs(), total),
        none_of("neighbours' answers that are not those of alone", wrong, len(seen.neighbours)),
        none_of("gauges of what waits and runs that are not back at 0", left, len(gauges)),
        Line("resident memory before and after", f"{before:.0f} MiB, {after:.0f} MiB"),
    ]


async def _all_requests(
    server: RunningServer,
    num_requests: int,
    seed: int,
    neighbours: Sequence[Question],
    until: float,
) -> Seen:
    """So many, or until this time; all the while a neighbour asks what is good."""
    seen = Seen()
    strategy = Requests(seed).strategy()
    seeds = itertools.count(seed * num_requests)

    async def draw(
        channel: grpc.aio.Channel, session: aiohttp.ClientSession, threads: Executor
    ) -> None:
        send = partial(_send, channel, session, seen)
        while seen.codes.total() < num_requests and time.monotonic() < until:
            surprise = await _try_some(strategy, next(seeds), send, threads)
            seen.surprises += [surprise] if surprise else []

    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(server.http_target))
        channels = [
            await stack.enter_async_context(open_channel(server.target))
            for _ in range(NUM_CONNECTIONS)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(NUM_CALLERS))
        healthy = asyncio.create_task(_neighbour(server.target, neighbours, seen))
        callers = (
            draw(channels[n % NUM_CONNECTIONS], session, threads) for n in range(NUM_CALLERS)
        )
        await asyncio.gather(*callers)
        healthy.cancel()
        await asyncio.gather(healthy, return_exceptions=True)
    return seen


async def _try_some(
    strategy: st.SearchStrategy[Request], seed: int, send: Send, threads: Executor
) -> str | None:
    """Draw requests in a thread and send each from here.

    Returns what was not documented of an answer, to the simplest request that Hypothesis found for
    it.
    """
    loop = asyncio.get_running_loop()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=REQUESTS_A_SEED,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def check(request: Request) -> None:
        surprise = asyncio.run_coroutine_threadsafe(send(request), loop).result()
        assert surprise is None, f"{surprise}, to {request}"

    try:
        await loop.run_in_executor(threads, check)
    except (AssertionError, Flaky) as error:
        return str(error)
    return None


async def _send(
    channel: grpc.aio.Channel, session: aiohttp.ClientSession, seen: Seen, request: Request
) -> str | None:
    """Returns what is not documented of the answer."""
    seen.requests.add(hash(request))
    if request.is_http:
        return await _send_http(session, request, seen)
    return await _send_grpc(channel, request, seen)


async def _neighbour(target: str, questions: Sequence[Question], seen: Seen) -> None:
    async with open_channel(target) as channel:
        rpc = unary(channel, TRANSLATE)
        while True:
            for question in questions:
                outcome = await call(rpc, question.request(), PATIENCE_SECONDS)
                answer = answer_of(outcome.content) if outcome.code == "OK" else (outcome.label,)
                seen.neighbours.append((question, answer))


async def _send_grpc(channel: grpc.aio.Channel, request: Request, seen: Seen) -> str | None:
    """Returns what is not documented of the answer."""
    messages: list[bytes]
    if request.is_stream:
        rpc = channel.unary_stream(request.path)
        outcome, messages = await whole_stream(rpc, request.content, PATIENCE_SECONDS)
    else:
        outcome = await call(unary(channel, request.path), request.content, PATIENCE_SECONDS)
        messages = [outcome.content]
    seen.codes[outcome.code] += 1
    return _surprise(request, outcome, messages if outcome.code == "OK" else [])


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


async def _send_http(session: aiohttp.ClientSession, request: Request, seen: Seen) -> str | None:
    """Returns what is not documented of the answer."""
    kind = "application/octet-stream" if "?" in request.path else "application/json"
    headers = {"Content-Type": kind}
    async with session.post(request.path, data=request.content, headers=headers) as response:
        text = await response.text()
    seen.codes["OK" if response.status == 200 else f"HTTP {response.status}"] += 1
    if response.status not in DOCUMENTED_HTTP or _http_reasons(text) - REASONS:
        return f"HTTP {response.status}: {text[:200]}"
    return None


def _http_reasons(text: str) -> set[str]:
    """Of the call, and of each text or image; an answer that cannot be read has a strange one."""
    try:
        answer = json.loads(text)
        if "error" in answer:
            return _reasons_in(answer["error"])
        statuses = [one["status"] for one in answer["results"] if one["status"]["code"]]
        strange = {one["code"] for one in statuses} - {code_pb2.INVALID_ARGUMENT}
        return {f"code {code}" for code in strange}.union(*map(_reasons_in, statuses))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return {f"unreadable: {error!r}"}


def _reasons_in(status: dict[str, Any]) -> set[str]:
    """Those that its details give. Raises LookupError where there are none."""
    found = {detail["reason"] for detail in status["details"] if "reason" in detail}
    if not found:
        raise LookupError("no reason")
    return found


def _reasons(error: type[AttendantError] = AttendantError) -> set[str]:
    return {error.reason}.union(*map(_reasons, error.__subclasses__()))


REASONS = _reasons() - {"INTERNAL"}
