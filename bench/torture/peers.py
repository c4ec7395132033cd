"""The same worst days for CTranslate2 behind the least that would be put in front of it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from bench.grid import Batch, Threads
from bench.models import DEFAULT, prepare
from bench.peers.environments import how_to_install, is_installed
from bench.server import RunningServer, running_command, running_server
from bench.servers import PEER, peer_command
from bench.statistics import percentile
from bench.torture.calls import TRANSLATE, Outcome, call, open_channel, unary
from bench.torture.lines import Line, Size
from bench.torture.overload import (
    DEADLINE_SECONDS,
    measure_peak,
    median_seconds,
    overload,
    probe_alone,
    seconds_to_normal,
)
from bench.torture.questions import (
    PATIENCE_SECONDS,
    answers_alone,
    ask_all,
    big_questions,
    small_questions,
    told,
    wrong_answers,
)
from bench.torture.sigterm import accepted_before, told_to_go

THREADS, BATCH = Threads(2, 1, use_mkl=True), Batch(32, "examples")  # its best on two cores
NUM_LEAVING = 200
LEAVE_AFTER_SECONDS = 0.2
NUM_NEIGHBOURS = 40
# More than the model has positions for: one text that its sender should have split.
BAD_TEXT = "a man rides a horse " * 400

Running = Callable[[], AbstractAsyncContextManager[RunningServer]]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one server did; less is better, where it is compared."""

    what: str
    value: float
    unit: str
    is_compared: bool = True


async def run(size: Size) -> list[Line]:
    """Both, one after the other."""
    if not is_installed("ctranslate2"):
        return [Line("skipped", how_to_install("ctranslate2"))]
    prepare(DEFAULT)
    command = peer_command(DEFAULT, THREADS, BATCH)
    ours = await _worst_days(running_server, size)
    theirs = await _worst_days(lambda: running_command(command, THREADS.environment), size)
    return [_line(*pair) for pair in zip(ours, theirs, strict=True)]


def _line(ours: Figure, theirs: Figure) -> Line:
    pairs = (("ours", ours), (PEER, theirs))
    measured = "; ".join(f"{name} {one.value:,.4g} {one.unit}".rstrip() for name, one in pairs)
    if not ours.is_compared:
        return Line(ours.what, measured)
    return Line(ours.what, measured, "ours not worse", ours.value <= theirs.value)


async def _worst_days(running: Running, size: Size) -> list[Figure]:
    return [
        *await _overload(running, size),
        await _leaving(running, size.seed),
        await _drain(running, size),
        await _bad_text(running, size.seed),
    ]


async def _overload(running: Running, size: Size) -> list[Figure]:
    requests = [one.request() for one in big_questions(64, size.seed)]
    async with running() as server:
        peak = await measure_peak(server, requests, size.of(10.0, 3.0))
        flood = await overload(server, requests, peak, size.of(30.0, 5.0), size.seed)
    lost = 1 - len(flood.good) / flood.seconds / peak.calls_per_second
    # Who is not refused knows when the deadline has passed.
    refusals = [one.seconds for one in flood.refused] or [DEADLINE_SECONDS]
    rate = peak.calls_per_second
    return [
        Figure("peak, 16 sentences a call, beam 4", rate, "calls/s", is_compared=False),
        Figure("ten times that: share of the peak that is lost", max(0.0, lost), ""),
        Figure("the same: until who is not served knows", percentile(refusals, 0.5), "s"),
        Figure("the same: latency is normal again after", flood.normal_after, "s"),
    ]


async def _leaving(running: Running, seed: int) -> Figure:
    """Many begin a large call and leave at once; then how long others notice."""
    requests = [one.request() for one in big_questions(NUM_LEAVING, seed)]
    async with running() as server, open_channel(server.target) as channel:
        usual = median_seconds(await probe_alone(server))
        rpc = unary(channel, TRANSLATE)
        calls = [asyncio.create_task(call(rpc, one, PATIENCE_SECONDS)) for one in requests]
        await asyncio.sleep(LEAVE_AFTER_SECONDS)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        seconds, _ = await seconds_to_normal(server, time.monotonic(), usual)
    return Figure(f"{NUM_LEAVING} callers leave: latency is normal again after", seconds, "s")


async def _drain(running: Running, size: Size) -> Figure:
    accepted: list[Outcome] = []
    times = size.of(5, 1)
    for n in range(times):
        told_at, outcomes = await told_to_go(running(), size.seed + n)
        accepted += accepted_before(told_at, outcomes)
    failed = sum(one.code != "OK" for one in accepted)
    what = f"SIGTERM at full load, {times} times: failed of those accepted before it"
    return Figure(what, failed, f"of {len(accepted):,}")


async def _bad_text(running: Running, seed: int) -> Figure:
    """Among others' calls, each with one text, one that is far too long."""
    questions = [one._replace(beam_size=1) for one in small_questions(NUM_NEIGHBOURS, seed)]
    bad = questions[0]._replace(texts=(BAD_TEXT,))
    middle = NUM_NEIGHBOURS // 2
    asked = [*questions[:middle], bad, *questions[middle:]]
    async with running() as server:
        alone = await answers_alone(server.target, questions)
        outcomes = await ask_all(server.target, asked)
    pairs = zip(asked, outcomes, strict=True)
    neighbours = [(question, one) for question, one in pairs if question is not bad]
    wrong = wrong_answers(told(*zip(*neighbours, strict=True)), alone)
    return Figure(
        "one text that is far too long: neighbours who fail or get another answer",
        len(wrong),
        f"of {NUM_NEIGHBOURS}",
    )
