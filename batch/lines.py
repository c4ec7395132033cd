"""Shards of texts and JSON lines: a range of a file's bytes, where any machine can begin."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.records import Record, SetAside

BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class LineShard:
    """Lines of one file. With a `field` they are JSON objects whose text it is.

    With `images` that text is the path of an image, relative to the file.
    """

    path: Path
    begin: int  # bytes
    end: int
    first_line: int  # from 1
    num_records: int
    field: str | None
    images: bool = False

    @property
    def types(self) -> Mapping[str, Any]:
        """Unknown."""
        return {}

    def read(self) -> Iterator[Record | SetAside]:
        """Line by line. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.begin)
            for number in range(self.first_line, self.first_line + self.num_records):
                line = file.readline()
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                yield self._record(line, f"{self.path.name}:{number}")

    def _record(self, line: bytes, where: str) -> Record | SetAside:
        try:
            text = line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError as error:
            shown = line.decode(errors="backslashreplace").rstrip("\r\n")
            return SetAside(where, "INVALID_UTF8", str(error), {"line": shown})
        if self.field is None:
            return Record(where, text, {"text": text})
        return self._of_json(text, where, self.field)

    def _of_json(self, line: str, where: str, field: str) -> Record | SetAside:
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            return SetAside(where, "INVALID_JSON", str(error), {"line": line})
        if not isinstance(fields, dict):
            kind = type(fields).__name__
            return SetAside(where, "INVALID_JSON", f"{kind}, expected an object", {"line": line})
        if self.images:
            return self._of_file(fields, where, field)
        return text_record(fields, where, field)

    def _of_file(self, fields: dict[str, Any], where: str, field: str) -> Record | SetAside:
        named = text_record(fields, where, field)
        if isinstance(named, SetAside):
            return named
        assert isinstance(named.content, str)
        try:
            content = (self.path.parent / named.content).read_bytes()
        except (OSError, ValueError) as error:
            return SetAside(where, "UNREADABLE", str(error), fields)
        return Record(where, content, fields)


def text_record(fields: dict[str, Any], where: str, field: str) -> Record | SetAside:
    """The text in a field, if it is one."""
    text = fields.get(field)
    if not isinstance(text, str):
        found = f"a {type(text).__name__}" if field in fields else "nothing"
        return SetAside(where, "NO_TEXT", f"expected a text in {field!r}, found {found}", fields)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"text has U+{ord(text[error.start]):04X} at {error.start}, half of a character"
        return SetAside(where, "INVALID_TEXT", found, fields)
    return Record(where, text, fields)


def line_shards(
    path: Path, max_records: int, *, field: str | None, images: bool = False
) -> Iterator[LineShard]:
    """Each with so many lines, the last with what is left. Raises OSError."""
    begin = end = num_lines = num_before = 0
    for end in _line_ends(path):
        num_lines += 1
        if num_lines == max_records:
            yield LineShard(path, begin, end, num_before + 1, num_lines, field, images)
            begin, num_before, num_lines = end, num_before + num_lines, 0
    if num_lines:
        yield LineShard(path, begin, end, num_before + 1, num_lines, field, images)


def _line_ends(path: Path) -> Iterator[int]:
    """The position behind each line; the last one need not end in a line feed."""
    position = 0
    last = b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            found = block.find(b"\n")
            while found >= 0:
                yield position + found + 1
                found = block.find(b"\n", found + 1)
            position += len(block)
            last = block[-1:]
    if last != b"\n":
        yield position
