"""Servers that are told to go, and one that is killed, at full load."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

from attendant import AsyncClient, AttendantError
from bench.server import RunningServer, running_server
from bench.torture.calls import TRANSLATE, Outcome, call, open_channel, unary
from bench.torture.lines import Line, Size, none_of
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Answer,
    Question,
    answers_alone,
    big_questions,
    small_questions,
    wrong_answers,
)
from bench.torture.scrape import scrape, until

NUM_QUESTIONS = 40
NUM_CALLERS = 16
# A call that its caller began so shortly before the signal may reach the server after it.
ON_THE_WAY_SECONDS = 0.2
AT_THE_DOOR = "the server is shutting down"
MAX_LOADED_SECONDS = 0.5  # before a server without a twin is told to go


async def run(size: Size) -> list[Line]:
    """All three."""
    return [
        *await _one_of_two(signal.SIGTERM, size.of(20, 3), size.seed),
        *await _without_retries(size.of(20, 3), size.seed),
        *await _one_of_two(signal.SIGKILL, size.of(5, 1), size.seed),
    ]


class Replica:
    """One of several servers alike; it comes back on the same port."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._port = 0
        self.server: RunningServer

    async def start(self) -> None:
        """Be ready."""
        self.server = await self._stack.enter_async_context(running_server(grpc_port=self._port))
        self._port = self.server.grpc_port

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Get a signal, if it still runs -> the exit status; negative: of which signal."""
        if self.server.process.returncode is None:
            os.kill(self.server.pid, number)
        status = await self.server.process.wait()
        await self._stack.aclose()
        return status

    async def has_answered(self) -> bool:
        """Whether some translation was answered since the start."""
        found = await scrape(self.server)
        return found.total("grpc_server_handled_total", grpc_method="Translate") > 0


@dataclass
class Heard:
    """What the callers of the client were told."""

    answered: list[tuple[Question, Answer]] = field(default_factory=list)
    errors: list[AttendantError] = field(default_factory=list)


@asynccontextmanager
async def two_replicas() -> AsyncIterator[list[Replica]]:
    """Both ready; both ended afterwards."""
    replicas = [Replica(), Replica()]
    try:
        for replica in replicas:
            await replica.start()
        yield replicas
    finally:
        for replica in replicas:
            await replica.end()


async def _one_of_two(number: signal.Signals, times: int, seed: int) -> list[Line]:
    """One of two servers gets a signal and comes back, then the other; callers use our client."""
    questions = small_questions(NUM_QUESTIONS, seed)
    heard = Heard()
    async with two_replicas() as replicas:
        targets = [replica.server.target for replica in replicas]
        alone = await answers_alone(targets[0], questions)
        async with AsyncClient(targets, timeout_seconds=PATIENCE_SECONDS) as client:
            callers = _start_callers(client, questions, heard)
            statuses = [await _end_and_restart(replicas[n % 2], number) for n in range(times)]
            await _stop(callers)
    expected = 0 if number == signal.SIGTERM else -number
    total = len(heard.answered) + len(heard.errors)
    what = f"{number.name} of one of two servers, {times} times"
    wrong = wrong_answers(heard.answered, alone)
    others = [status for status in statuses if status != expected]
    return [
        none_of(f"{what}: calls failed through the client", heard.errors, total),
        none_of("the same: answers that are not those of alone", wrong, len(heard.answered)),
        none_of(f"the same: exit status not {expected}", others, times),
    ]


def _start_callers(
    client: AsyncClient, questions: Sequence[Question], heard: Heard
) -> list[asyncio.Task[None]]:
    pending = cycle(questions)
    return [asyncio.create_task(_ask(client, pending, heard)) for _ in range(NUM_CALLERS)]


async def _ask(client: AsyncClient, questions: Iterator[Question], heard: Heard) -> None:
    for question in questions:
        try:
            found = await client.translate(list(question.texts), beam_size=question.beam_size)
            heard.answered.append((question, tuple(one.text for one in found)))
        except AttendantError as error:
            heard.errors.append(error)


async def _stop(callers: Sequence[asyncio.Task[None]]) -> None:
    for caller in callers:
        caller.cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    for error in found:
        if isinstance(error, Exception):
            raise error


async def _end_and_restart(replica: Replica, number: int) -> int:
    """Once it has its share of the calls."""
    await until(replica.has_answered, PATIENCE_SECONDS)
    status = await replica.end(number)
    await replica.start()
    return status


async def _without_retries(times: int, seed: int) -> list[Line]:
    """One server and callers that try once."""
    accepted: list[Outcome] = []
    later: list[Outcome] = []
    num_straddling = 0
    for n in range(times):
        told_at, outcomes = await told_to_go(running_server(), seed + n)
        before = accepted_before(told_at, outcomes)
        accepted += before
        later += [one for one in outcomes if one not in before]
        num_straddling += sum(one.ended > told_at for one in before)
    failed = [one.label for one in accepted if one.code != "OK"]
    surprising = [one.label for one in later if not (one.code == "OK" or one.is_server_gone)]
    draining = sum(one.reason == "DRAINING" for one in later)
    return [
        none_of(
            f"SIGTERM of one server, {times} times, {NUM_CALLERS} callers without retries: failed "
            "of those accepted before",
            failed,
            len(accepted),
        ),
        Line(
            "the same: calls that ran at the signal",
            f"{num_straddling:,}",
            f"at least {times}",
            num_straddling >= times,
        ),
        none_of(
            "the same: later ones told something else than UNAVAILABLE, or by gRPC that it is gone",
            surprising,
            len(later),
        ),
        Line("the same: later ones told DRAINING by the server", f"{draining:,} of {len(later):,}"),
    ]


def accepted_before(told_at: float, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Calls that the server took before the signal.

    A busy server may take up a call later than it came: such a one is refused at the door, and says
    so with other words than a call that was cut off.
    """
    sent = [one for one in outcomes if one.begun < told_at - ON_THE_WAY_SECONDS]
    return [one for one in sent if not (one.reason == "DRAINING" and one.message == AT_THE_DOOR)]


async def told_to_go(
    running: AbstractAsyncContextManager[RunningServer], seed: int
) -> tuple[float, list[Outcome]]:
    """When SIGTERM was sent (monotonic seconds), and what callers saw until all had failed."""
    rng = random.Random(seed)
    outcomes: list[Outcome] = []
    async with running as server, open_channel(server.target) as channel:
        pending = iter(cycle(big_questions(NUM_QUESTIONS, seed)))

        async def caller() -> None:
            rpc = unary(channel, TRANSLATE)
            while not outcomes or outcomes[-1].code == "OK":
                request = next(pending).request()
                outcomes.append(await call(rpc, request, PATIENCE_SECONDS))

        callers = [asyncio.create_task(caller()) for _ in range(NUM_CALLERS)]

        async def busy() -> bool:
            return len(outcomes) >= NUM_CALLERS

        await until(busy, PATIENCE_SECONDS)
        await asyncio.sleep(rng.uniform(0, MAX_LOADED_SECONDS))
        told_at = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        await asyncio.gather(*callers)
    return told_at, outcomes
