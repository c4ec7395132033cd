"""Which files an INPUT is, and of which kind: by their names."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batch.images import archive_shards, folder_shards, images_under
from batch.lines import line_shards
from batch.records import Shard
from batch.tables import table_shards

Task = Literal["translate", "classify"]
Kind = Literal["text", "jsonl", "parquet", "tar", "images"]

KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tar": "tar",
}
HOLDS: dict[Task, frozenset[Kind]] = {
    "translate": frozenset(("text", "jsonl", "parquet")),
    "classify": frozenset(("jsonl", "parquet", "tar", "images")),
}
COMPRESSED = frozenset((".gz", ".bz2", ".xz", ".zst", ".tgz"))
DEFAULT_FIELDS: dict[Task, str] = {"translate": "text", "classify": "image"}
# Little enough to lose by a kill, enough that a part's last few sentences cost nothing.
SHARD_RECORDS: dict[Task, int] = {"translate": 8192, "classify": 1024}


@dataclass(frozen=True, slots=True)
class Input:
    """Files of one kind, in order, and what is in them."""

    paths: tuple[Path, ...]
    kind: Kind
    task: Task
    field: str
    shard_records: int

    @classmethod
    def find(
        cls,
        path: Path,
        *,
        kind: Kind | None,
        task: Task | None,
        field: str | None,
        shard_records: int | None,
    ) -> "Input":
        """What is not given is read off the names. Raises OSError, and ValueError for a mixture."""
        paths, kind = _files(path, kind)
        task = task or ("classify" if kind in ("tar", "images") else "translate")
        if kind not in HOLDS[task]:
            raise ValueError(f"cannot {task} what is in {path}: {kind}")
        field = field or DEFAULT_FIELDS[task]
        return cls(tuple(paths), kind, task, field, shard_records or SHARD_RECORDS[task])

    def shards(self) -> list[Shard]:
        """In the order of the output. Raises OSError and ValueError."""
        found: list[Shard] = []
        for path in self.paths:
            try:
                found.extend(self._shards(path))
            except tarfile.TarError as error:
                raise ValueError(f"{path} is no tar archive: {error}") from error
        return found

    def _shards(self, path: Path) -> Iterator[Shard]:
        images = self.task == "classify"
        match self.kind:
            case "text":
                return line_shards(path, self.shard_records, field=None)
            case "jsonl":
                return line_shards(path, self.shard_records, field=self.field, images=images)
            case "parquet":
                return table_shards(path, self.shard_records, field=self.field, images=images)
            case "tar":
                return archive_shards(path, self.shard_records)
            case "images":
                return folder_shards(path, self.shard_records)


def _files(path: Path, kind: Kind | None) -> tuple[list[Path], Kind]:
    if not path.is_dir():
        path.stat()  # raises FileNotFoundError
        if not path.is_file():
            raise ValueError(f"{path} is a stream: a shard begins anywhere in it, so keep it first")
        return [path], kind or _kind(path)
    if kind == "images":
        return [path], kind
    files = sorted(each for each in path.iterdir() if each.is_file() and each.name[0] != ".")
    if kind is not None:
        return files, kind
    kinds: set[Kind]
    if any(images_under(path)):
        # Beside them what is named as data counts, notes and licences do not.
        kinds = {KINDS[each.suffix] for each in files if each.suffix in KINDS}
        kinds.add("images")
    else:
        kinds = {_kind(each) for each in files}
    if len(kinds) != 1:
        found = ", ".join(sorted(kinds)) or "nothing"
        raise ValueError(
            f"{path} has {found}, expected files of one kind, or images; --input-format names one"
        )
    (only,) = kinds
    return ([path] if only == "images" else files), only


def _kind(path: Path) -> Kind:
    """What has no suffix that says otherwise is text, one a line."""
    if path.suffix.lower() in COMPRESSED:
        raise ValueError(f"{path} is compressed: a shard begins anywhere in it, so unpack it first")
    return KINDS.get(path.suffix.lower(), "text")
