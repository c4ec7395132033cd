"""Shards of image folders and tar archives: names, and where in a file each image lies."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from batch.records import Record, SetAside

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True)
class Member:
    """One image: in a folder a file, in an archive a range of its bytes."""

    name: str
    begin: int = 0
    num_bytes: int = -1  # all of the file


@dataclass(frozen=True, slots=True)
class ImageShard:
    """Images of one folder or archive."""

    path: Path
    members: tuple[Member, ...]

    @property
    def num_records(self) -> int:
        """How many it has."""
        return len(self.members)

    @property
    def types(self) -> Mapping[str, Any]:
        """Unknown."""
        return {}

    def read(self) -> Iterator[Record | SetAside]:
        """Image by image; a file that cannot be read is set aside."""
        for member in self.members:
            name = os.fsencode(member.name).decode(errors="backslashreplace")
            fields = {"image": name}
            where = f"{self.path.name}/{name}"
            try:
                yield Record(where, self._content(member), fields)
            except OSError as error:
                yield SetAside(where, "UNREADABLE", str(error), fields)

    def _content(self, member: Member) -> bytes:
        path = self.path / member.name if self.path.is_dir() else self.path
        with path.open("rb") as file:
            file.seek(member.begin)
            return file.read(member.num_bytes)


def folder_shards(path: Path, max_records: int) -> Iterator[ImageShard]:
    """The images under a folder, by name. Raises OSError."""
    return _shards(path, map(Member, _names(path)), max_records)


def digest(folder: Path) -> str:
    """SHA-256 of the names of its images, of their sizes and times of change. Raises OSError."""
    found = hashlib.sha256()
    for name in _names(folder):
        status = (folder / name).stat()
        found.update(b"%s\0%d\0%d\0" % (os.fsencode(name), status.st_size, status.st_mtime_ns))
    return found.hexdigest()


def _names(folder: Path) -> list[str]:
    """Of its images, hidden files aside, in their order."""
    return sorted(each.relative_to(folder).as_posix() for each in images_under(folder))


def images_under(folder: Path) -> Iterator[Path]:
    """In any order. Raises OSError."""
    return (
        each
        for each in folder.rglob("*")
        if is_image(each) and each.name[0] != "." and each.is_file()
    )


def archive_shards(path: Path, max_records: int) -> Iterator[ImageShard]:
    """The images of a tar archive in its order. Raises OSError, and tarfile.TarError."""
    with tarfile.open(path, "r:") as archive:
        members = (
            Member(each.name, each.offset_data, each.size)
            for each in archive
            if each.isreg() and is_image(Path(each.name)) and Path(each.name).name[0] != "."
        )
        yield from _shards(path, members, max_records)


def is_image(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in SUFFIXES


def _shards(path: Path, members: Iterable[Member], max_records: int) -> Iterator[ImageShard]:
    members = iter(members)
    while some := tuple(islice(members, max_records)):
        yield ImageShard(path, some)
