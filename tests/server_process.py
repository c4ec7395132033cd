"""A real server process on the models of the repository."""

import os
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
    assert process.stderr is not None
    said = []
    ports = None
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"gRPC port (\d+), HTTP port (\d+)", line):
            ports = Ports(*found.groups())
        if re.search(r'(\] ready|"message": "ready"\})$', line):
            break
    assert ports is not None, said
    try:
        yield ports
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=30)
        if log is not None:
            log.write_text("".join(said) + rest)
    assert process.returncode == 0
