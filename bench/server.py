"""A server process, ours or a peer's, on free ports, for as long as it is measured."""

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORTS = re.compile(r"gRPC port (\d+), HTTP port (\d+)")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A ready server and how long it took to become so."""

    target: str
    pid: int
    seconds_to_ready: float

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
async def running_server(*flags: str) -> AsyncIterator[RunningServer]:
    """Start our server with these flags, and stop it as an operator would."""
    command = [sys.executable, "-m", "service", "--grpc-port", "0", "--http-port", "0", *flags]
    async with running_command(command) as server:
        yield server


@asynccontextmanager
async def running_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[RunningServer]:
    """Start a server that says its port and that it is ready as ours does; SIGTERM ends it."""
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
    drain = None
    try:
        port = await _port(process.stderr)
        drain = asyncio.create_task(process.stderr.read())  # a full pipe would stop the server
        yield RunningServer(f"localhost:{port}", process.pid, time.perf_counter() - begun)
    finally:
        process.terminate()
        await process.wait()
        if drain is not None:
            await drain


async def _port(log: asyncio.StreamReader) -> str:
    """Read the log until the server is ready; returns its gRPC port."""
    port = ""
    async for line in log:
        text = line.decode().rstrip()
        if found := PORTS.search(text):
            port = found[1]
        if text.endswith(" ready"):
            return port
    raise RuntimeError("the server ended before it was ready")
