"""Values of Python <-> columns of Arrow. Whatever a record holds has a place: as text, at worst."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

Types = Mapping[str, Any]  # of columns, Arrow's
NO_TYPES: Types = {}


def parquet() -> ModuleType:
    """pyarrow.parquet. Raises ImportError that says where it comes from."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError("Parquet needs pyarrow: pip install 'attendant[batch]'") from None
    return pyarrow.parquet  # type: ignore[no-any-return]


def as_json(value: Any) -> str:
    """JSON on one line: bytes in base64, what else JSON does not know as text, NaN as null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_of_json)
    except ValueError:
        finite = _without_nan(value)
        return json.dumps(finite, ensure_ascii=False, allow_nan=False, default=_of_json)


def _of_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return list(map(_without_nan, value)) if isinstance(value, (list, tuple)) else value


def as_text(value: Any) -> str | None:
    """As UTF-8 can have it; what is no text is JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else as_json(value)
    return text.encode(errors="backslashreplace").decode()


def table_of(rows: Sequence[Mapping[str, Any]], types: Types) -> Any:
    """A table of all their columns, of these types as far as it can be."""
    import pyarrow

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [_column([row.get(name) for row in rows], types.get(name)) for name in names]
    return pyarrow.table(columns, names=_distinct(map(as_text, names)))


def _distinct(names: Iterable[str | None]) -> list[str]:
    """What UTF-8 has of them may be the same."""
    found: dict[str, None] = {}
    for name in names:
        free = name or ""
        while free in found:
            free += "_"
        found[free] = None
    return list(found)


def _column(values: Sequence[Any], wanted: Any = None) -> Any:
    """An array of the wanted type, else of one that Arrow finds, else of texts."""
    import pyarrow

    for kind in (wanted, None):
        try:
            column = _fitted(values, kind)
        except _misfits():
            continue
        if _is_kept_by_parquet(column.type):
            return column
    return pyarrow.array(list(map(as_text, values)), pyarrow.string())


def _fitted(values: Sequence[Any], wanted: Any) -> Any:
    import pyarrow

    if wanted is not None and pyarrow.types.is_string(wanted):
        return pyarrow.array(list(map(as_text, values)), wanted)
    if wanted is not None and pyarrow.types.is_temporal(wanted):
        texts = [value if isinstance(value, str) else None for value in values]
        if any(texts):  # as `values_of` has nanoseconds
            return pyarrow.array(texts).cast(wanted)
    return pyarrow.array(values, wanted)


def _misfits() -> tuple[type[Exception], ...]:
    import pyarrow

    return pyarrow.ArrowException, OverflowError, ValueError, TypeError


def _is_kept_by_parquet(kind: Any) -> bool:
    """It has no objects without keys."""
    import pyarrow

    if pyarrow.types.is_struct(kind) and not kind.num_fields:
        return False
    return all(_is_kept_by_parquet(kind.field(index).type) for index in range(kind.num_fields))


def values_of(column: Any) -> list[Any]:
    """Of an array; times as texts, where they are more than Python's own types have.

    Raises ValueError for what neither Python nor Arrow can put into words.
    """
    import pyarrow

    is_cut_off = pyarrow.types.is_time64(column.type) and column.type.unit == "ns"
    try:
        found: list[Any] = (column.cast(pyarrow.string()) if is_cut_off else column).to_pylist()
    except _misfits():
        try:
            found = column.cast(pyarrow.string()).to_pylist()
        except _misfits() as error:
            raise ValueError(f"values of {column.type} cannot be read: {error}") from error
    return found


def schema_of(parts: Sequence[Path]) -> Any:
    """Every column of any part, of a type that holds what all have there: text, if no other does.

    Raises OSError.
    """
    import pyarrow

    schemas = {part: parquet().read_schema(part) for part in parts}
    names = dict.fromkeys(field.name for schema in schemas.values() for field in schema)
    fields = []
    for name in names:
        having = [part for part, schema in schemas.items() if name in schema.names]
        kinds = [schemas[part].field(name).type for part in having]
        kind = _common(kinds)
        others = (part for part, its in zip(having, kinds, strict=True) if its != kind)
        if not _holds(kind, (parquet().read_table(part, columns=[name]) for part in others)):
            kind = pyarrow.string()
        fields.append(pyarrow.field(name, kind))
    return pyarrow.schema(fields)


def _common(kinds: Sequence[Any]) -> Any:
    """A type for what has these types; text where Arrow knows none."""
    import pyarrow

    try:
        one_each = [pyarrow.schema([("", kind)]) for kind in dict.fromkeys(kinds)]
        return pyarrow.unify_schemas(one_each, promote_options="permissive").field(0).type
    except _misfits():
        return pyarrow.string()


def _holds(kind: Any, tables: Iterable[Any]) -> bool:
    try:
        for table in tables:
            _fitted(values_of(table.column(0)), kind)
    except _misfits():
        return False
    return True


def in_schema(table: Any, schema: Any) -> Any:
    """The table with these columns, empty where it has none of that name."""
    import pyarrow

    def column(field: Any) -> Any:
        if field.name not in table.column_names:
            return pyarrow.nulls(len(table), field.type)
        found = table.column(field.name)
        return found if found.type == field.type else _fitted(values_of(found), field.type)

    return pyarrow.table([column(field) for field in schema], schema=schema)
