"""Connections that do nothing, that do not read, and that talk rubbish, beside healthy callers."""

import asyncio
import resource
import statistics
from collections.abc import Sequence
from itertools import cycle

from bench.server import RunningServer, running_server
from bench.statistics import percentile
from bench.torture.calls import TRANSLATE, Outcome, call, open_channel, unary
from bench.torture.lines import Line, Size, at_most, none_of
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Answer,
    Question,
    answers_alone,
    small_questions,
    told,
    wrong_answers,
)
from bench.torture.rude import crowd
from bench.torture.scrape import BUGS, scrape, until, until_idle

NUM_HEALTHY = 4  # callers
NUM_QUESTIONS = 40
SETTLE_SECONDS = 30.0  # for memory to come back: the server gives it back every ten
SPARE_FILES = 200
# A server at rest takes less than this of a core, so long.
REST_SECONDS, REST_SHARE = 0.5, 0.1
P99_TIMES = 2.0


async def run(size: Size) -> list[Line]:
    """Before, during and after; the healthy ask all the while."""
    num_idle = _allowed(size.of(5_000, 500))
    num_rude = size.of(200, 40)
    seconds = size.of(20.0, 4.0)
    questions = small_questions(NUM_QUESTIONS, size.seed)
    async with running_server() as server:
        alone = await answers_alone(server.target, questions)
        fresh = server.resident_mebibytes()
        # Once for all that the first of each kind makes a server load.
        async with crowd(server, num_rude, num_rude, size.seed):
            await _healthy(server, questions, seconds)
        await until_idle(server, PATIENCE_SECONDS)
        before = await _settled_mebibytes(server, fresh, size.of(SETTLE_SECONDS, 12.0))
        normal = await _healthy(server, questions, seconds)
        async with crowd(server, num_idle, num_rude, size.seed):
            await _at_rest(server)
            crowded = await _healthy(server, questions, seconds)
            during = server.resident_mebibytes()
        gauges = await until_idle(server, PATIENCE_SECONDS)
        limit = before * size.of(1.05, 1.15)
        after = await _settled_mebibytes(server, limit, SETTLE_SECONDS)
        again = await _healthy(server, questions, seconds)
        async with crowd(server, num_idle, num_rude, size.seed):
            await _at_rest(server)
        await until_idle(server, PATIENCE_SECONDS)
        limit_again = after * size.of(1.05, 1.15)
        after_again = await _settled_mebibytes(server, limit_again, SETTLE_SECONDS)
        found = await scrape(server)
    return [
        Line("idle connections, and rude ones of each kind", f"{num_idle:,} and {num_rude:,}"),
        _p99_line(normal, crowded, size),
        none_of(
            "healthy callers: answers that are not those of alone",
            _wrong(crowded, alone),
            len(crowded),
        ),
        none_of("the same, when all others are gone", _wrong(again, alone), len(again)),
        Line("resident memory before any crowd", f"{fresh:.0f} MiB"),
        Line(
            "the same after a first, rude one, and during this", f"{before:.0f}, {during:.0f} MiB"
        ),
        at_most("resident memory when they have gone", after, round(limit, 1), "MiB"),
        at_most(
            "the same when a second crowd like it has gone, too",
            after_again,
            round(limit_again, 1),
            "MiB",
        ),
        none_of(
            "gauges of what waits and runs that are not back at 0",
            [name for name, value in gauges.items() if value],
            len(gauges),
        ),
        none_of(BUGS, found.bugs(), len(crowded) + len(again)),
    ]


def _allowed(wanted: int) -> int:
    """So many connections, or as many as this process may open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = min(hard, max(soft, 4 * wanted))
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (enough, hard)
    )  # the server's too, which inherits it
    return min(wanted, enough - SPARE_FILES)


def _p99_line(
    normal: Sequence[tuple[Question, Outcome]],
    crowded: Sequence[tuple[Question, Outcome]],
    size: Size,
) -> Line:
    usual, found = (
        percentile([one.seconds for _, one in some], 0.99) * 1e3 for some in (normal, crowded)
    )
    times = size.of(P99_TIMES, 5.0)
    what = f"healthy callers: p99 beside them (normally {usual:.1f} ms)"
    return at_most(what, found / usual, times, "times")


def _wrong(asked: Sequence[tuple[Question, Outcome]], alone: dict[Question, Answer]) -> list[str]:
    return wrong_answers(told(*zip(*asked, strict=True)), alone)


async def _healthy(
    server: RunningServer, questions: Sequence[Question], seconds: float
) -> list[tuple[Question, Outcome]]:
    """A few callers, so long."""
    until_time = asyncio.get_running_loop().time() + seconds
    pending = cycle(questions)
    found: list[tuple[Question, Outcome]] = []
    async with open_channel(server.target) as channel:
        rpc = unary(channel, TRANSLATE)

        async def caller() -> None:
            while asyncio.get_running_loop().time() < until_time:
                question = next(pending)
                found.append((question, await call(rpc, question.request(), PATIENCE_SECONDS)))

        await asyncio.gather(*(caller() for _ in range(NUM_HEALTHY)))
    return found


async def _at_rest(server: RunningServer) -> None:
    """Wait until what those asked for is done who do not read the answer. Raises TimeoutError."""
    taken: list[float] = []

    async def rests() -> bool:
        begun = server.cpu_seconds()
        await asyncio.sleep(REST_SECONDS)
        taken.append(server.cpu_seconds() - begun)
        return taken[-1] <= REST_SHARE * REST_SECONDS

    await until(rests, PATIENCE_SECONDS)


async def _settled_mebibytes(server: RunningServer, limit: float, seconds: float) -> float:
    """Resident memory once it is within the limit, or as it is after so long."""
    samples: list[float] = []

    async def settled() -> bool:
        samples.append(server.resident_mebibytes())
        return samples[-1] <= limit

    try:
        await until(settled, seconds)
    except TimeoutError:
        return statistics.median(samples[-10:])
    return samples[-1]
