"""Who made it fail: what failed for several is run again by halves, until the culprit is alone.

That is harmless where running it again writes the same to the same places, as a decode step does at
each row's own length, and encoding in the rows of each sequence. Knows neither rows nor models.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import TypeVar

logger = logging.getLogger(__name__)

Member = TypeVar("Member")


# What allocators say: ONNX Runtime's arena, C++ and CUDA.
_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")


def run_by_halves(
    run: Callable[[SequenceOf[Member]], object],
    members: SequenceOf[Member],
    what: str,
    on_failure: Callable[[Exception], None] = lambda _: None,
) -> list[Member]:
    """Run for all members, and where that fails for each half; returns who fails even alone.

    One culprit among R costs 2 log2(R) runs more, R culprits 2 R. `what` names it in the log;
    `on_failure` is told of each.
    """
    try:
        run(members)
    except Exception as error:
        on_failure(error)
        if len(members) == 1:
            logger.exception("%s failed", what)
            return list(members)
        logger.warning("%s failed for %d together: again by halves", what, len(members))
        middle = len(members) // 2
        first = run_by_halves(run, members[:middle], what, on_failure)
        return first + run_by_halves(run, members[middle:], what, on_failure)
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this, or what it came from, is an allocation that failed."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)
