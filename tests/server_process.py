"""A real server process on the models of the repository."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Ports(NamedTuple):
    """Where it listens."""

    grpc: str
    http: str


@contextmanager
def serving(*flags: str, log: Path | None = None, **environment: str) -> Iterator[Ports]:
    """A ready server on free ports, which must end well when the block is left.

    `log` is where its standard error goes in the end.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--grpc-port", "0", "--http-port", "0", *flags],
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    ready = threading.Event()
    listening = threading.Thread(target=_listen, args=(process, said, ready))
    listening.start()
    try:
        assert ready.wait(60), said
        found = re.search(r"gRPC port (\d+), HTTP port (\d+)", "".join(said))
        assert found is not None, said
        yield Ports(*found.groups())
    finally:
        process.terminate()
        status = process.wait(timeout=30)
        listening.join()
        if log is not None:
            log.write_text("".join(said))
    assert status == 0


def _listen(process: "subprocess.Popen[str]", said: list[str], ready: threading.Event) -> None:
    """To all it says: a server whose pipe is full stands still."""
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            said.append(line)
            if re.search(r'(\] ready|"message": "ready"\})$', line):
                ready.set()
    ready.set()
