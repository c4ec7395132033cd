"""How many cores there are to compute on, and who waits for one."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def num_cores() -> int:
    """Cores that this process may run on, and has time on by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def cpu_quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that Linux's control groups let this process have; infinite without one.

    Of its group and those above, whichever has least (cgroup v2's `cpu.max`, v1's
    `cpu.cfs_quota_us`); in a container its own is the only one to be seen.
    """
    quotas = [math.inf]
    mounted = root / "sys" / "fs" / "cgroup"
    for path in _cgroups(root):
        for folder in (path, *path.parents):
            quotas += _quotas(mounted / folder, mounted / "cpu" / folder)
    return min(quotas)


def _cgroups(root: Path) -> list[Path]:
    """Relative to where they are mounted."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    return [Path(line.split(":", 2)[2].lstrip("/")) for line in lines]


def _quotas(unified: Path, legacy: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        quota, period = (unified / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota, period = ((legacy / f"cpu.cfs_{one}_us").read_text() for one in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def compute_for_long() -> None:
    """Of the calling thread: when it wakes, it does not take the core of one that is at work.

    Where cores are scarce the event loop, once it runs, hands its calls on before it is put aside,
    with the interpreter's lock in its hands. Linux's SCHED_BATCH; elsewhere nothing changes.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
