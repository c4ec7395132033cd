"""Shards of Parquet files: rows of one row group."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch.columns import parquet, values_of
from batch.lines import text_record
from batch.records import Record, SetAside, renamed


@dataclass(frozen=True, slots=True)
class TableShard:
    """Rows of a row group. The text, or the image's bytes, are in the column `field`."""

    path: Path
    group: int
    begin: int  # row of the group
    first_row: int  # of the file, from 1
    num_records: int
    field: str
    images: bool

    @property
    def types(self) -> Mapping[str, Any]:
        """Of all columns. Raises OSError."""
        return renamed({field.name: field.type for field in parquet().read_schema(self.path)})

    def read(self) -> Iterator[Record | SetAside]:
        """Row by row. Raises OSError and ValueError for a file that is no Parquet."""
        table = _row_group(self.path, self.path.stat().st_mtime_ns, self.group)
        rows = table.slice(self.begin, self.num_records)
        columns = [self._values(rows, name) for name in rows.column_names]
        for number, row in enumerate(zip(*columns, strict=True), self.first_row):
            fields = dict(zip(rows.column_names, row, strict=True))
            where = f"{self.path.name}:{number}"
            if self.images:
                yield self._image(fields, where)
            else:
                yield text_record(fields, where, self.field)

    def _values(self, rows: Any, name: str) -> list[Any]:
        try:
            return values_of(rows.column(name))
        except ValueError as error:
            raise ValueError(f"{self.path}, column {name}: {error}") from error

    def _image(self, fields: dict[str, object], where: str) -> Record | SetAside:
        content = fields.pop(self.field, None)
        if isinstance(content, dict):  # as Hugging Face's data sets keep images
            content = content.get("bytes")
        if not isinstance(content, bytes):
            found = type(content).__name__
            message = f"expected an image's bytes in {self.field!r}, found a {found}"
            return SetAside(where, "NO_IMAGE", message, fields)
        return Record(where, content, fields)


def table_shards(path: Path, max_records: int, *, field: str, images: bool) -> Iterator[TableShard]:
    """Each with so many rows at most. Raises OSError, ValueError, ImportError without pyarrow."""
    file = parquet().ParquetFile(path)
    if field not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise ValueError(f"{path} has no column {field}, but {names}: name one with --field")
    names = file.schema_arrow.names
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has several columns of the name {', '.join(doubles)}")
    first_row = 1
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        for begin in range(0, num_rows, max_records):
            count = min(max_records, num_rows - begin)
            yield TableShard(path, group, begin, first_row, count, field, images)
            first_row += count


@lru_cache(maxsize=1)
def _row_group(path: Path, mtime_ns: int, group: int) -> Any:
    """Read whole: kept for the next shard, which is most often of the same group."""
    return parquet().ParquetFile(path).read_row_group(group)
