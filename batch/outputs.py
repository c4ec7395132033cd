"""The formats of parts, and how parts become one file."""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: _column([row.get(name) for row in rows]) for name in names}
        parquet().write_table(pyarrow.table(columns), path)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """With the columns of all of them, empty where a part has none."""
        import pyarrow

        parts = list(parts)
        schema = _schema_of_all([parquet().read_schema(part) for part in parts])
        with parquet().ParquetWriter(path, schema) as writer:
            for part in parts:
                table = parquet().read_table(part)
                columns = [_as_field(table, field) for field in schema]
                writer.write_table(pyarrow.table(columns, schema=schema))


def _column(values: Sequence[Any]) -> Any:
    """An array of the values; of their JSON where they are of several types."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.array([_as_text(value) for value in values], pyarrow.string())


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _schema_of_all(schemas: Sequence[Any]) -> Any:
    """Every column of any, of a type that holds what all have there: text, if no other does."""
    import pyarrow

    fields: dict[str, Any] = {}
    for field in (field for schema in schemas for field in schema):
        known = fields.get(field.name, field)
        try:
            pair = [pyarrow.schema([known]), pyarrow.schema([field])]
            fields[field.name] = pyarrow.unify_schemas(pair, promote_options="permissive").field(0)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            fields[field.name] = pyarrow.field(field.name, pyarrow.string())
    return pyarrow.schema([field.remove_metadata() for field in fields.values()])


def _as_field(table: Any, field: Any) -> Any:
    """A column of the table as the field has it, empty where the table has none."""
    import pyarrow

    if field.name not in table.column_names:
        return pyarrow.nulls(len(table), field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    values = column.to_pylist()
    if pyarrow.types.is_string(field.type):
        values = [_as_text(value) for value in values]
    return pyarrow.array(values, field.type)


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
