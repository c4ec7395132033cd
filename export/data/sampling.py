"""A few of many, the same ones every time."""

from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def evenly_spaced(things: Sequence[Thing], count: int | None) -> list[Thing]:
    """So many of the things, spread over all of them; all where there are no more, or no count."""
    if count is None or count >= len(things):
        return list(things)
    return [things[index * len(things) // count] for index in range(count)]
