"""A real server process on the models of the repository."""

import re
import subprocess
import sys
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
def serving() -> Iterator[Ports]:
    """A ready server on free ports, which must end well when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "--grpc-port", "0", "--http-port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    ports = None
    for line in process.stderr:
        if found := re.search(r"gRPC port (\d+), HTTP port (\d+)", line):
            ports = Ports(*found.groups())
        if line.rstrip().endswith(" ready"):
            break
    assert ports is not None
    try:
        yield ports
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
