"""The formats of parts, and how parts become one file."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from batch.records import Answered, Fields, Outcome, SetAside
from batch.tables import parquet


class Format(Protocol):
    """How outcomes are kept."""

    suffix: str

    def write(self, outcomes: Sequence[Outcome], path: Path) -> None:
        """A part. Raises OSError."""

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """All parts, in this order. Raises OSError."""


class Text:
    """A line for each record, empty where there is no answer: line n answers line n."""

    suffix = ".txt"

    def write(self, outcomes: Sequence[Outcome], path: Path) -> None:
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

    def write(self, outcomes: Sequence[Outcome], path: Path) -> None:
        """What is set aside is left out."""
        write_json_lines((one.fields for one in outcomes if isinstance(one, Answered)), path)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """One after the other."""
        _concatenate(parts, path)


class Parquet:
    """A row for each record that has an answer; a row group for each part."""

    suffix = ".parquet"

    def write(self, outcomes: Sequence[Outcome], path: Path) -> None:
        """What is set aside is left out."""
        import pyarrow

        rows = [one.fields for one in outcomes if isinstance(one, Answered)]
        parquet().write_table(pyarrow.Table.from_pylist(rows), path)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """With the columns of all of them, empty where a part has none."""
        import pyarrow

        parts = list(parts)
        schemas = [parquet().read_schema(part) for part in parts]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with parquet().ParquetWriter(path, schema) as writer:
            for part in parts:
                table = parquet().read_table(part)
                missing = [field for field in schema if field.name not in table.column_names]
                for field in missing:
                    table = table.append_column(field, pyarrow.nulls(len(table), field.type))
                writer.write_table(table.select(schema.names).cast(schema))


FORMATS: dict[str, Callable[[], Format]] = {"txt": Text, "jsonl": JsonLines, "parquet": Parquet}


def write_set_aside(outcomes: Sequence[Outcome], path: Path) -> None:
    """Where each record stands, why it has no answer, and what it says. Raises OSError."""
    write_json_lines(
        (
            {"where": one.where, "reason": one.reason, "message": one.message, **one.fields}
            for one in outcomes
            if isinstance(one, SetAside)
        ),
        path,
    )


def write_json_lines(objects: Iterable[Fields], path: Path) -> None:
    """One object a line. Raises OSError."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for fields in objects:
            file.write(json.dumps(fields, ensure_ascii=False, default=str) + "\n")


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


def _concatenate(parts: Iterable[Path], path: Path) -> None:
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)
