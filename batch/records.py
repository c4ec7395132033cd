"""What a shard holds, and what becomes of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Fields = Mapping[str, Any]
Value = TypeVar("Value")

ANSWER_FIELDS = ("translation", "hypotheses", "labels")


def renamed(fields: Mapping[str, Value]) -> dict[str, Value]:
    """In their places, those of an answer's name as `input_NAME`."""
    found: dict[str, Value] = {}
    for name, value in fields.items():
        free = name
        while free in ANSWER_FIELDS or (free != name and free in fields):
            free = f"input_{free}"
        found[free] = value
    return found


@dataclass(frozen=True, slots=True)
class Record:
    """A text to translate, or the bytes of an image; `fields` is what its output repeats."""

    where: str
    content: str | bytes
    fields: Fields


@dataclass(frozen=True, slots=True)
class SetAside:
    """A record without an answer, and why: a reason of the API's, or one of `batch`'s own."""

    where: str
    reason: str
    message: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Answered:
    """A record with its answer: `fields` is a row of the output, `text` a line of it."""

    fields: Fields
    text: str


Outcome = Answered | SetAside


class Shard(Protocol):
    """A piece of the input that is done whole or not at all."""

    @property
    def num_records(self) -> int:
        """How many it has."""

    @property
    def types(self) -> Mapping[str, Any]:
        """Arrow's, of its records' own fields, where the input says them. Raises OSError."""

    def read(self) -> Iterator[Record | SetAside]:
        """Its records in order, read when they are asked for. Raises OSError."""
