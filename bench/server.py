"""A server process, ours or a peer's, on free ports, for as long as it is measured."""

import asyncio
import os
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORTS = re.compile(r"gRPC port (\d+), HTTP port (\d+)")
KEPT_LINES = 1000  # of the log


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A ready server and how long it took to become so."""

    target: str
    http_target: str
    process: asyncio.subprocess.Process
    seconds_to_ready: float
    log: deque[str]  # the last lines

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    @property
    def grpc_port(self) -> int:
        """Where it listens."""
        return int(self.target.rpartition(":")[2])

    def resident_mebibytes(self) -> float:
        """Memory that the process has in use now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def cpu_seconds(self) -> float:
        """User and system time that the process has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100  # Linux counts in hundredths


@asynccontextmanager
async def running_server(
    *flags: str, grpc_port: int = 0, module: Sequence[str] = ("service",)
) -> AsyncIterator[RunningServer]:
    """Start our server with these flags, and stop it as an operator would."""
    ports = ["--grpc-port", str(grpc_port), "--http-port", "0"]
    async with running_command([sys.executable, "-m", *module, *ports, *flags]) as server:
        yield server


@asynccontextmanager
async def running_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[RunningServer]:
    """Start a server that says its ports and that it is ready as ours does.

    SIGTERM ends it, unless somebody else has ended it before.
    """
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "ERROR"}
        | dict(environment or {}),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    log: deque[str] = deque(maxlen=KEPT_LINES)
    reading = None
    try:
        grpc_port, http_port = await _ports(process.stderr)
        reading = asyncio.create_task(_read(process.stderr, log))
        yield RunningServer(
            target=f"localhost:{grpc_port}",
            http_target=f"http://localhost:{http_port}",
            process=process,
            seconds_to_ready=time.perf_counter() - begun,
            log=log,
        )
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if reading is not None:
            await reading


async def _ports(log: asyncio.StreamReader) -> tuple[str, str]:
    """Read the log until the server is ready; returns its gRPC port and its HTTP port."""
    ports = ("", "")
    lines = []
    async for line in log:
        text = line.decode().rstrip()
        lines.append(text)
        if found := PORTS.search(text):
            ports = (found[1], found[2])
        if text.endswith(" ready"):
            return ports
    raise RuntimeError("the server ended before it was ready:\n" + "\n".join(lines[-20:]))


async def _read(stream: asyncio.StreamReader, log: deque[str]) -> None:
    """A full pipe would stop the server."""
    async for line in stream:
        log.append(line.decode(errors="replace").rstrip())
