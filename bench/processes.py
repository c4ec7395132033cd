"""A process with all that it and its children have started, as Linux tells."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The children of each of its threads, and theirs."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended meanwhile
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL to all of them at once."""
    for one in [pid, *descendants(pid)]:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def cpu_seconds_of_tree(pid: int) -> float:
    """User and system time that those who live have taken so far."""
    return sum(map(sum, map(_cpu_seconds, [pid, *descendants(pid)])))


def _cpu_seconds(pid: int) -> Iterator[float]:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        yield (int(fields[11]) + int(fields[12])) / 100  # Linux counts in hundredths
