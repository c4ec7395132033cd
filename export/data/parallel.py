"""Parallel text: two files, line n of one is the translation of line n of the other."""

import gzip
from pathlib import Path

Pair = tuple[str, str]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, gzipped if its name ends in .gz, without line ends."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    # Not splitlines(): it also splits at form feeds and U+2028, which are text here.
    lines = raw.decode("utf-8").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_parallel(source: Path, target: Path) -> list[Pair]:
    """Sentence pairs of two parallel files, without those of which one side is blank.

    Raises ValueError where the files have different numbers of lines.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines and {target} has {len(targets)}: not parallel"
        )
    pairs = zip(sources, targets, strict=True)
    return [(s.strip(), t.strip()) for s, t in pairs if s.strip() and t.strip()]
