"""Who made it fail: what failed for several is run again by halves, until the culprit is alone.

That is harmless where running it again writes the same to the same places, as a decode step does at
each row's own length, and encoding in the rows of each sequence. Knows neither rows nor models.
"""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Member = TypeVar("Member")

# What allocators say: ONNX Runtime's arena, C++ and CUDA.
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")


@dataclass(slots=True)
class Failures(Generic[Member]):
    """Who failed even alone, and every error on the way: none where all went well at once."""

    members: list[Member] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def lack_memory(self) -> bool:
        """Whether one of the errors is an allocation that failed."""
        return any(map(_is_out_of_memory, self.errors))


def run_by_halves(
    run: Callable[[SequenceOf[Member]], object], members: SequenceOf[Member]
) -> Failures[Member]:
    """Run for all members, and where that fails for each half.

    One culprit among R costs 2 log2(R) runs more, R culprits 2 R.
    """
    failures: Failures[Member] = Failures()
    _run(run, members, failures)
    return failures


def _run(
    run: Callable[[SequenceOf[Member]], object],
    members: SequenceOf[Member],
    failures: Failures[Member],
) -> None:
    try:
        run(members)
    except Exception as error:
        failures.errors.append(error)
        if len(members) == 1:
            failures.members += members
            return
        middle = len(members) // 2
        _run(run, members[:middle], failures)
        _run(run, members[middle:], failures)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether this, or what it came from, is an allocation that failed."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return True
    return error.__cause__ is not None and _is_out_of_memory(error.__cause__)
