"""Real servers on free ports, one of which may be killed, and what each has answered."""

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from tests.server_process import ROOT, Ports

ANSWERED = re.compile(
    r'^grpc_server_handled_total\{.*grpc_code="OK".*grpc_method="Translate".*\} (\S+)$',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Replica:
    """A server process, ready."""

    process: subprocess.Popen[str]
    ports: Ports

    def answered(self) -> int:
        """How many calls of Translate it has answered."""
        with urllib.request.urlopen(f"http://localhost:{self.ports.http}/metrics") as page:
            return int(sum(map(float, ANSWERED.findall(page.read().decode()))))


@contextmanager
def replicas(count: int) -> Iterator[list[Replica]]:
    """So many servers, each with one decode worker; those that live at the end are ended."""
    with ExitStack() as stack:
        yield [stack.enter_context(_replica()) for _ in range(count)]


@contextmanager
def _replica() -> Iterator[Replica]:
    flags = ["--grpc-port=0", "--http-port=0", "--load-models=first-use"]
    # Three on one machine: one thread each.
    flags += ["--decode-workers=1", "--threads-alone=1"]
    # Balancers hear of a server that leaves at their next look.
    flags += ["--drain-pause-seconds=3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr:
        try:
            ports = _ports_when_ready(process.stderr)
            # A pipe that nobody reads stops the server when its log has filled it.
            reader = threading.Thread(target=process.stderr.read)
            reader.start()
            yield Replica(process, ports)
        finally:
            process.terminate()
            process.wait(timeout=30)
        reader.join()


def _ports_when_ready(log: IO[str]) -> Ports:
    lines = []
    for line in log:
        lines.append(line)
        if line.rstrip().endswith(" ready"):
            break
    found = re.search(r"gRPC port (\d+), HTTP port (\d+)", "".join(lines))
    assert found, "".join(lines)
    return Ports(*found.groups())
