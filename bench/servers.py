"""Translation servers side by side, and their callers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bench.contender import OURS, Contender, Stage
from bench.grid import (
    HOPELESS,
    Batch,
    Threads,
    Trial,
    best_of,
    thread_settings,
    worth_trying,
)
from bench.models import BenchModel
from bench.peers.environments import python_of
from bench.server import RunningServer, running_command, running_server
from bench.traffic import Request
from bench.translators import PRECISIONS, num_cores
from service.bundle import Bundle

PEER = "CTranslate2 behind gRPC"
PROBE_SIZE = 16
OTHER_SIZES = (8, 32, 64)


@dataclass(frozen=True, slots=True)
class Callers:
    """The process that calls servers."""

    on: Stage
    contender: Contender

    @classmethod
    async def start(cls, on: Stage) -> "Callers":
        """A process on the stage."""
        return cls(on, await on.contender("callers", OURS, "bench.contenders.callers"))

    async def closed(
        self, name: str, server: RunningServer, requests: Sequence[Request], num_callers: int
    ) -> dict[str, Any]:
        """A turn of one server; adds the server's processor time to what the callers saw."""
        async with self.on.only(name, self.contender.name):
            begun = server.cpu_seconds()
            reply = await self.contender.ask(
                "closed", target=server.target, requests=requests, num_callers=num_callers
            )
            reply["server_cpu_seconds"] = server.cpu_seconds() - begun
        return reply

    async def open(
        self,
        name: str,
        server: RunningServer,
        requests: Sequence[Request],
        arrivals: Sequence[float],
        *,
        stream: bool,
    ) -> dict[str, Any]:
        """A turn of one server."""
        async with self.on.only(name, self.contender.name):
            return await self.contender.ask(
                "open", target=server.target, requests=requests, arrivals=arrivals, stream=stream
            )


@asynccontextmanager
async def our_server(
    on: Stage, model: BenchModel, precision: str = "int8"
) -> AsyncIterator[RunningServer]:
    """Ours, as it is by default."""
    flags = ("--models", str(model.models_folder), "--precision", precision)
    async with running_server(*flags) as server, on.with_process("our server", server.pid):
        yield server


@asynccontextmanager
async def peer_server(
    on: Stage, model: BenchModel, threads: Threads, batch: Batch, precision: str = "int8"
) -> AsyncIterator[RunningServer]:
    """CTranslate2 behind gRPC."""
    command = peer_command(model, threads, batch, precision)
    async with (
        running_command(command, threads.environment) as server,
        on.with_process(PEER, server.pid),
    ):
        yield server


def peer_command(
    model: BenchModel, threads: Threads, batch: Batch, precision: str = "int8"
) -> list[str]:
    """What starts it."""
    tokenizer = Bundle.open(model.bundle).translation.tokenizer
    flags = {
        "--model": model.ctranslate2,
        "--source": model.bundle / tokenizer.source,
        "--target": model.bundle / tokenizer.target,
        "--compute-type": PRECISIONS[precision],
        "--inter-threads": threads.inter,
        "--intra-threads": threads.intra,
        "--batch-size": batch.size,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [str(python_of("ctranslate2")), "-m", "bench.peers.ct2_server", *words]


async def tune_peer_server(
    callers: Callers, model: BenchModel, requests: Sequence[Request], num_callers: int
) -> list[Trial]:
    """Its threads first, then its batch size."""
    first = Batch(PROBE_SIZE, "examples")
    some = requests[: max(num_callers, len(requests) // 2)]
    probes: list[Trial] = []
    for threads in thread_settings(num_cores()):
        best_rate = max((probe.rate for probe in probes), default=0.0)
        probe = ServerTrial(callers, model, threads, first)
        probes.append(await probe.run(some, num_callers, HOPELESS * best_rate))
    others = [
        await ServerTrial(callers, model, threads, Batch(size, "examples")).run(
            requests, num_callers
        )
        for threads in worth_trying(probes)
        for size in (PROBE_SIZE, *OTHER_SIZES)
    ]
    tried = {(one.threads, one.batch) for one in others}
    return others + [probe for probe in probes if (probe.threads, probe.batch) not in tried]


@dataclass(frozen=True, slots=True)
class ServerTrial:
    """The peer's server with one setting."""

    callers: Callers
    model: BenchModel
    threads: Threads
    batch: Batch

    async def run(
        self, requests: Sequence[Request], num_callers: int, hopeless_rate: float = 0.0
    ) -> Trial:
        """Calls a second, warm; below `hopeless_rate` those of the warm-up have to do."""
        warming = requests[: max(1, num_callers // 4)]
        async with peer_server(self.callers.on, self.model, self.threads, self.batch) as server:
            rate = await self._rate(server, warming, num_callers)
            if rate >= hopeless_rate:
                rate = await self._rate(server, requests, num_callers)
            await self.callers.contender.ask("forget", target=server.target)
        return Trial(self.threads, self.batch, rate)

    async def _rate(
        self, server: RunningServer, requests: Sequence[Request], num_callers: int
    ) -> float:
        reply = await self.callers.closed(PEER, server, requests, num_callers)
        return len(requests) / float(reply["seconds"])


def best_setting(trials: Sequence[Trial]) -> tuple[Threads, Batch]:
    """The fastest."""
    best = best_of(trials)
    return best.threads, best.batch
