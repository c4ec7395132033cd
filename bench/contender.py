"""Our side of the protocol: contenders as processes, of which one at a time may use the cores."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
MAX_LINE_BYTES = 1 << 28
# Share of the cores that others may have in any turn: a kernel and a shell are never quite still.
QUIET = 0.1
# gRPC tells of every server that goes.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "ERROR"}
OURS = Path(sys.executable)  # the Python of this environment


class ContenderError(RuntimeError):
    """A contender failed; its traceback is the message."""


class Contender:
    """One process that answers JSON lines; see `bench.contenders.protocol`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(
        cls, name: str, python: Path, module: str, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Run a module of this checkout with an environment's Python."""
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", module),
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | dict(environment or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )
        return cls(name, process)

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its reply. Raises ContenderError."""
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None
        assert reader is not None
        writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
        if not line:
            raise ContenderError(f"{self.name} ended with status {await self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ContenderError(f"{self.name}: {reply['error']}")
        return reply

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    async def close(self) -> None:
        """End it."""
        if self._process.returncode is None:
            resume(self.pid)
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()


class Stage:
    """All processes of a comparison; those whose turn it is not are stopped, and use no core."""

    def __init__(self) -> None:
        self._contenders: list[Contender] = []
        self._pids: dict[str, int] = {}
        self.disturbances: list[float] = []  # of every turn: the share of the cores others had

    async def contender(
        self, name: str, python: Path, module: str, environment: Mapping[str, str] | None = None
    ) -> Contender:
        """Start one that ends with the stage."""
        contender = await Contender.start(name, python, module, environment)
        self._contenders.append(contender)
        self._pids[name] = contender.pid
        return contender

    @asynccontextmanager
    async def with_process(self, name: str, pid: int) -> AsyncIterator[None]:
        """For so long a process that others start and end, such as a server, takes turns too."""
        self._pids[name] = pid
        try:
            yield
        finally:
            del self._pids[name]

    @asynccontextmanager
    async def only(self, *names: str) -> AsyncIterator[None]:
        """For so long none of these processes runs but those named."""
        others = [pid for name, pid in self._pids.items() if name not in names]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        begun = self._times(names)
        try:
            yield
        finally:
            ended = self._times(names)
            wall, busy, own = (after - before for before, after in zip(begun, ended, strict=True))
            self.disturbances.append(max(0.0, busy - own) / (wall * len(os.sched_getaffinity(0))))
            for pid in others:
                resume(pid)

    def disturbance(self) -> str:
        """How much of the cores others had, who had no business there."""
        shares = sorted(self.disturbances)
        middle, worst = shares[len(shares) // 2], shares[-1]
        verdict = "" if worst <= QUIET else "; NOT QUIET: settings and ratios may be wrong ones"
        return (
            f"other processes had {middle:.1%} of the cores in the median turn, {worst:.1%} at most"
            f"{verdict}"
        )

    def _times(self, names: Sequence[str]) -> tuple[float, float, float]:
        """Wall clock, time the cores were busy, and what these processes and we had of it."""
        own = cpu_seconds([os.getpid(), *(self._pids[name] for name in names)])
        return time.monotonic(), machine_cpu_seconds(), own

    async def close(self) -> None:
        """End all contenders."""
        for contender in self._contenders:
            await contender.close()


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A stage, and the end of everybody on it."""
    opened = Stage()
    try:
        yield opened
    finally:
        await opened.close()


def resume(pid: int) -> None:
    """Let a stopped process go on; of one that has ended nothing is asked."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that these processes have taken so far."""
    return sum(_process_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float:
    """Time that the cores we may use have been busy so far, whoever had them."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.removeprefix("cpu").isdigit():
            ticks = list(map(int, fields))
            total += sum(ticks[:8]) - ticks[3] - ticks[4]  # all but idle and waiting for a disk
    return total / os.sysconf("SC_CLK_TCK")


def _process_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
