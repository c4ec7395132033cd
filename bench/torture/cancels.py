"""Callers that leave or are in too great a hurry, among others whose answers may not change."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc.aio
import numpy as np

from attendant.v1.classification_pb2 import ClassifyRequest, ClassifyResponse, Image
from attendant.v1.translation_pb2 import StreamTranslateRequest, StreamTranslateResponse
from bench.pictures import jpeg, waves
from bench.server import ROOT, RunningServer, running_server
from bench.torture.calls import (
    CLASSIFY,
    STREAM,
    TRANSLATE,
    Outcome,
    call,
    failed,
    open_channel,
    unary,
)
from bench.torture.lines import Line, Size, at_least, none_of
from bench.torture.questions import PATIENCE_SECONDS, answer_of, sentences, small_questions, text_of
from bench.torture.scrape import BUGS, scrape, until_idle

NUM_QUESTIONS = 40  # of each kind
LARGE_ONE_IN = 300  # calls: a picture that takes long to decode
LARGE_SIDE = 2500  # pixels
NUM_CALLERS = 64
NUM_CONNECTIONS = 8
LEAVES_WITHIN_SECONDS = 0.1  # about what a call takes among so many
HURRIED_SECONDS = (0.001, 0.03)
IDLE_AFTER_SECONDS = 10.0
FLOOD = 1024  # sentences: more than run at once
MAX_FLOODS = 10


class Fate(Enum):
    """What a caller does."""

    STAYS = "stays"
    LEAVES = "leaves"
    HURRIES = "hurries"


# What a caller may be told. Who leaves or hurries may have its answer already.
ALLOWED = {
    Fate.STAYS: {"OK"},
    Fate.LEAVES: {"OK", "CANCELLED"},
    Fate.HURRIES: {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"},
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A call of any kind; `read` makes of its messages what may not change."""

    path: str
    request: bytes
    is_stream: bool = False

    def start(self, channel: grpc.aio.Channel) -> Any:
        """The method, bytes in and bytes out."""
        return channel.unary_stream(self.path) if self.is_stream else unary(channel, self.path)

    def read(self, messages: Sequence[bytes]) -> object:
        """What whoever asks alone must be told too."""
        if self.path == TRANSLATE:
            return answer_of(messages[0])
        if self.path == CLASSIFY:
            return _labels(messages[0])
        return _streamed(messages)


@dataclass
class Seen:
    """What all callers saw."""

    codes: dict[Fate, Counter[str]] = field(
        default_factory=lambda: {fate: Counter() for fate in Fate}
    )
    surprises: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def run(size: Size) -> list[Line]:
    """One server, and its rows before and after."""
    num_calls = size.of(100_000, 5_000)
    async with running_server() as server, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(server.target))
            for _ in range(NUM_CONNECTIONS)
        ]
        rows_before = await _most_rows(server, channels[0], None)
        asks = _asks(size.seed)
        alone = {ask: await _ask_alone(channels[0], ask) for ask in asks}
        seen = await _all_calls(channels, alone, num_calls, size.seed)
        gauges = await until_idle(server, IDLE_AFTER_SECONDS)
        rows_after = await _most_rows(server, channels[0], rows_before)
        found = await scrape(server)
    return [
        *_lines(seen, num_calls, gauges),
        _rows_line(rows_before, rows_after),
        none_of(BUGS, found.bugs(), num_calls),
    ]


def _lines(seen: Seen, num_calls: int, gauges: dict[str, float]) -> list[Line]:
    num_cancelled = seen.codes[Fate.LEAVES]["CANCELLED"]
    num_late = seen.codes[Fate.HURRIES].total() - seen.codes[Fate.HURRIES]["OK"]
    num_right = sum(codes["OK"] for codes in seen.codes.values())
    left = [f"{name} {value:g}" for name, value in gauges.items() if value]
    return [
        none_of("statuses that such a caller may not see", seen.surprises, num_calls),
        none_of("answers that are not those of alone", seen.wrong, num_right),
        at_least("calls cancelled before their answer", num_cancelled / num_calls, 0.1, "of all"),
        at_least("calls whose deadline was too short", num_late / num_calls, 0.05, "of all"),
        none_of("gauges of what waits and runs that are not back at 0", left, len(gauges)),
    ]


def _rows_line(before: float, after: float) -> Line:
    what = "most rows that run at once, after all calls"
    return Line(what, f"{after:g}", f"{before:g}, as before", after >= before > 0)


def _asks(seed: int) -> list[Ask]:
    """Translations, streams of the same, and pictures; the last of them large."""
    questions = small_questions(NUM_QUESTIONS, seed)
    pictures = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]
    pictures.append(jpeg(waves(np.random.default_rng(seed), LARGE_SIDE)))
    streams = [StreamTranslateRequest(request=one.message()) for one in questions]
    classify = [ClassifyRequest(images=[Image(content=one)]) for one in pictures]
    return [
        *(Ask(TRANSLATE, one.request()) for one in questions),
        *(Ask(STREAM, one.SerializeToString(), is_stream=True) for one in streams),
        *(Ask(CLASSIFY, one.SerializeToString()) for one in classify),
    ]


def _labels(content: bytes) -> object:
    (result,) = ClassifyResponse.FromString(content).results
    return tuple((one.label, one.probability) for one in result.labels)


def _streamed(messages: Sequence[bytes]) -> object:
    """The last result of each text, and whether what came before was the beginning of it."""
    events = [StreamTranslateResponse.FromString(one) for one in messages]
    deltas: dict[int, str] = {}
    for event in events:
        if event.WhichOneof("event") == "partial":
            index = event.partial.content_index
            deltas[index] = deltas.get(index, "") + event.partial.text_delta
    texts = {
        event.finished.content_index: text_of(event.finished.result)
        for event in events
        if event.WhichOneof("event") == "finished"
    }
    return tuple(
        text if text.startswith(deltas.get(index, "")) else f"{deltas[index]} -> {text}"
        for index, text in sorted(texts.items())
    )


async def _ask_alone(channel: grpc.aio.Channel, ask: Ask) -> object:
    outcome, messages = await _call(channel, ask, PATIENCE_SECONDS)
    if outcome.code != "OK":
        raise RuntimeError(f"asked alone: {outcome.label}: {outcome.message}")
    return ask.read(messages)


async def _call(
    channel: grpc.aio.Channel, ask: Ask, timeout_seconds: float, leave_after: float | None = None
) -> tuple[Outcome, list[bytes]]:
    """One call, which its caller may leave after so many seconds -> how it ended, its messages."""
    begun = time.monotonic()
    messages: list[bytes] = []
    running = ask.start(channel)(ask.request, timeout=timeout_seconds)
    leaving = None
    if leave_after is not None:
        leaving = asyncio.get_running_loop().call_later(leave_after, running.cancel)
    try:
        if ask.is_stream:
            messages.extend([message async for message in running])
        else:
            messages.append(await running)
    except grpc.aio.AioRpcError as failure:
        return failed(failure, begun), messages
    except asyncio.CancelledError:  # what grpc.aio says of a call that was cancelled on this side
        return Outcome("CANCELLED", begun, time.monotonic() - begun), messages
    finally:
        if leaving is not None:
            leaving.cancel()
    return Outcome("OK", begun, time.monotonic() - begun), messages


async def _all_calls(
    channels: Sequence[grpc.aio.Channel], alone: dict[Ask, object], num_calls: int, seed: int
) -> Seen:
    """A third leave, a fifth hurry."""
    rng = random.Random(seed)
    *asks, large = alone
    seen = Seen()
    pending = iter(range(num_calls))

    async def caller(channel: grpc.aio.Channel) -> None:
        for _ in pending:
            ask = rng.choice(asks) if rng.randrange(LARGE_ONE_IN) else large
            fate = rng.choices(list(Fate), weights=[7, 5, 3])[0]
            outcome, messages = await _call(channel, ask, *_times(fate, rng))
            _note(seen, fate, outcome, ask, messages, alone[ask])

    await asyncio.gather(*(caller(channels[n % NUM_CONNECTIONS]) for n in range(NUM_CALLERS)))
    return seen


def _times(fate: Fate, rng: random.Random) -> tuple[float, float | None]:
    """Its deadline and when it leaves, in seconds."""
    timeout = rng.uniform(*HURRIED_SECONDS) if fate is Fate.HURRIES else PATIENCE_SECONDS
    return timeout, rng.uniform(0, LEAVES_WITHIN_SECONDS) if fate is Fate.LEAVES else None


def _note(
    seen: Seen, fate: Fate, outcome: Outcome, ask: Ask, messages: Sequence[bytes], alone: object
) -> None:
    seen.codes[fate][outcome.code] += 1
    if outcome.code not in ALLOWED[fate]:
        seen.surprises.append(f"{outcome.label} of one who {fate.value}")
    if outcome.code == "OK" and (found := ask.read(messages)) != alone:
        seen.wrong.append(f"{found} instead of {alone}")


async def _most_rows(
    server: RunningServer, channel: grpc.aio.Channel, expected: float | None
) -> float:
    """How many rows run at once where more could; asked again while fewer than expected did."""
    texts = [sentences()[n % 64] for n in range(FLOOD)]
    request = small_questions(1, 0)[0]._replace(texts=tuple(texts), beam_size=1).request()
    most = 0.0
    for _ in range(1 if expected is None else MAX_FLOODS):
        flood = asyncio.create_task(call(unary(channel, TRANSLATE), request, PATIENCE_SECONDS))
        while not flood.done():
            most = max(most, (await scrape(server)).gauges()["attendant_rows_running"])
        if expected is not None and most >= expected:
            break
    return most
