"""Who made it fail: what failed for several is run again by halves, until the culprit is alone.

That is harmless where running it again writes the same to the same places, as a decode step does at
each row's own length, encoding in the rows of each sequence, and a classifier in its answers. A
failure that is nobody's, the loss of a device, is told from the others by what runtimes say of it.
Who finds no memory even alone is no culprit: it runs again, a moment later. Knows neither rows, nor
images, nor models.
"""

import re
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Member = TypeVar("Member")

# What allocators say: ONNX Runtime's arena, C++, CUDA, cuBLAS and cuDNN.
_NO_MEMORY = re.compile(
    r"failed to allocate|bad_alloc|out of memory|alloc(ation)?_failed", re.IGNORECASE
)

# Before a lone run that found no memory is tried again; others who had it may have given it back.
MEMORY_PAUSES_SECONDS = (0.01, 0.05, 0.25)

# What ONNX Runtime's CUDA provider says: the library, its code, and what that means, before where.
_DEVICE_FAILURE = re.compile(r"\b(CU[A-Z]+(?:_FE)?) failure (\d+): ([^;\n]*)")
# Of graphs that cannot be captured: the same runs without, and nothing is lost.
_CAPTURE_CODES = range(900, 909)


class DeviceLost(RuntimeError):
    """A device failed, and with it all that this process has on it; the message says how."""


@dataclass(slots=True)
class Failures(Generic[Member]):
    """Who failed even alone, and every error on the way: none where all went well at once."""

    members: list[Member] = field(default_factory=list)  # that make a run fail
    starved: list[Member] = field(default_factory=list)  # for which alone there was no memory
    errors: list[Exception] = field(default_factory=list)

    @property
    def lack_memory(self) -> bool:
        """Whether one of the errors is an allocation that failed."""
        return any(map(is_out_of_memory, self.errors))


def run_by_halves(
    run: Callable[[SequenceOf[Member]], object], members: SequenceOf[Member]
) -> Failures[Member]:
    """Run for all members, and where that fails for each half.

    One culprit among R costs 2 log2(R) runs more, R culprits 2 R. For all who find no memory alone
    it waits MEMORY_PAUSES_SECONDS at most, once. Raises DeviceLost.
    """
    failures: Failures[Member] = Failures()
    _run(run, members, failures, iter(MEMORY_PAUSES_SECONDS))
    return failures


def _run(
    run: Callable[[SequenceOf[Member]], object],
    members: SequenceOf[Member],
    failures: Failures[Member],
    pauses: Iterator[float],
) -> None:
    try:
        run(members)
    except Exception as error:
        raise_if_device_lost(error)
        failures.errors.append(error)
        if len(members) > 1:
            middle = len(members) // 2
            _run(run, members[:middle], failures, pauses)
            _run(run, members[middle:], failures, pauses)
        elif not is_out_of_memory(error):
            failures.members += members
        elif (seconds := next(pauses, None)) is not None:
            time.sleep(seconds)
            _run(run, members, failures, pauses)
        else:
            failures.starved += members


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this, or what it came from, is an allocation that failed."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def raise_if_device_lost(error: BaseException) -> None:
    """Raise DeviceLost if this, or what it came from, ended the device.

    After a CUDA error other than a lack of memory every further call of the process fails.
    """
    if isinstance(error, DeviceLost):
        raise error
    found = _DEVICE_FAILURE.search(str(error))
    if found is None:
        if error.__cause__ is not None:
            raise_if_device_lost(error.__cause__)
        return
    library, code, meaning = found.groups()
    if is_out_of_memory(error) or (library == "CUDA" and int(code) in _CAPTURE_CODES):
        return
    raise DeviceLost(f"{library} failure {code}: {meaning.strip()}") from error
