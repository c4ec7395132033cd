"""A full disk: a log that cannot be written, and an export that finds no room."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attendant import AsyncClient, AttendantError, RetryPolicy
from bench.server import ROOT
from bench.torture.lines import Line, none_of
from bench.torture.questions import (
    PATIENCE_SECONDS,
    Question,
    answers_alone,
    ask_all,
    told,
    wrong_answers,
)
from bench.torture.scrape import until

FULL = Path("/dev/full")
LARGEST_FILE = 16 * 1024  # bytes; a bundle's weights are larger


async def run(questions: Sequence[Question]) -> list[Line]:
    """Both."""
    return [*await _full_log(questions), *await _full_export()]


async def _full_log(questions: Sequence[Question]) -> list[Line]:
    port = _free_port()
    command = [sys.executable, "-m", "service", "--grpc-port", str(port), "--http-port", "0"]
    with FULL.open("w") as log:
        server = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=log)
    try:
        target = f"localhost:{port}"
        async with AsyncClient(target, retry=RetryPolicy(max_attempts=1)) as client:
            await until(lambda: _serves(client), PATIENCE_SECONDS)
        alone = await answers_alone(target, questions)
        outcomes = await ask_all(target, questions)
    finally:
        server.terminate()
        status = await server.wait()
    return [
        none_of(
            "a log on a full disk: wrong answers",
            wrong_answers(told(questions, outcomes), alone),
            len(outcomes),
        ),
        Line("the same: exit status after SIGTERM", str(status), "0", status == 0),
    ]


async def _serves(client: AsyncClient) -> bool:
    try:
        return await client.health() == "SERVING"
    except AttendantError:
        return False  # not yet


def _free_port() -> int:
    """Free a moment ago; the log, which says a port otherwise, cannot be read."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


async def _full_export() -> list[Line]:
    """No file may grow beyond a few kilobytes while a checkpoint is exported."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, models = Path(folder) / "checkpoint", Path(folder) / "models"
        await asyncio.to_thread(_python, "bench.torture.small_checkpoint", str(checkpoint))
        arguments = [
            "export",
            "huggingface",
            str(checkpoint),
            "--output",
            str(models / "vit" / "1"),
        ]
        done = await asyncio.to_thread(_python, *arguments, limited=True)
        left = [str(path.relative_to(models)) for path in models.rglob("bundle.json")]
        room = await asyncio.to_thread(_python, *arguments)
    said = done.stderr.strip().rpartition("\n")[2]
    status = str(done.returncode)
    return [
        Line("an export to a full disk: exit status", status, "not 0", done.returncode > 0),
        Line("the same: what it says", said, "File too large", "File too large" in said),
        none_of("the same: bundles that a server would take", left, 1),
        Line("the same, with room: exit status", str(room.returncode), "0", room.returncode == 0),
    ]


def _python(
    module: str, *arguments: str, limited: bool = False
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=_limit_files if limited else None,
        capture_output=True,
        text=True,
        check=False,
    )


def _limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
