"""The formats of parts, and how parts become one file."""

import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from batch.columns import NO_TYPES, Types, as_json, in_schema, parquet, schema_of, table_of
from batch.records import Answered, Fields, Outcome, SetAside


class Format(Protocol):
    """How outcomes are kept."""

    suffix: str

    def write(self, outcomes: Sequence[Outcome], path: Path, types: Types = NO_TYPES) -> None:
        """A part; `types` are those of the input's own columns. Raises OSError."""

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """All parts, in this order. Raises OSError."""


class Text:
    """A line for each record, empty where there is no answer: line n answers line n."""

    suffix = ".txt"

    def write(self, outcomes: Sequence[Outcome], path: Path, types: Types = NO_TYPES) -> None:
        """One line each, whatever the answer holds."""
        lines = (
            " ".join(one.text.splitlines()) if isinstance(one, Answered) else "" for one in outcomes
        )
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """One after the other."""
        _concatenate(parts, path)


class JsonLines:
    """An object for each record that has an answer: its own fields, and the answer's."""

    suffix = ".jsonl"

    def write(self, outcomes: Sequence[Outcome], path: Path, types: Types = NO_TYPES) -> None:
        """What is set aside is left out."""
        write_json_lines((one.fields for one in outcomes if isinstance(one, Answered)), path)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """One after the other."""
        _concatenate(parts, path)


class Parquet:
    """A row for each record that has an answer; a row group for each part."""

    suffix = ".parquet"

    def write(self, outcomes: Sequence[Outcome], path: Path, types: Types = NO_TYPES) -> None:
        """What is set aside is left out."""
        rows = [one.fields for one in outcomes if isinstance(one, Answered)]
        parquet().write_table(table_of(rows, types), path)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """With the columns of all of them, empty where a part has none."""
        parts = list(parts)
        schema = schema_of(parts)
        with parquet().ParquetWriter(path, schema) as writer:
            for part in parts:
                writer.write_table(in_schema(parquet().read_table(part), schema))


FORMATS: dict[str, Callable[[], Format]] = {"txt": Text, "jsonl": JsonLines, "parquet": Parquet}


def write_set_aside(outcomes: Sequence[Outcome], path: Path) -> None:
    """Where each record stands, why it has no answer, and what it says. Raises OSError."""
    write_json_lines(
        (
            {
                "where": one.where,
                "reason": one.reason,
                "message": one.message,
                "record": one.fields,
            }
            for one in outcomes
            if isinstance(one, SetAside)
        ),
        path,
    )


def write_json_lines(objects: Iterable[Fields], path: Path) -> None:
    """One object a line. Raises OSError."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for fields in objects:
            file.write(as_json(fields) + "\n")


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` when it is complete and on the disk, or never."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str) -> None:
    """What killed runs have left there of files of this name, or "*" of any."""
    wanted = name if name == "*" else glob.escape(name)
    for path in folder.glob(f".{wanted}.{'[0-9a-f]' * 32}"):
        path.unlink(missing_ok=True)


def _concatenate(parts: Iterable[Path], path: Path) -> None:
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)
