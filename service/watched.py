"""Files that are read again when they change, as an operator replaces them under a server."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

_Fingerprint = tuple[tuple[int, int, int], ...]


class WatchedFiles(Generic[Content]):
    """What `read` makes of the files; safe to ask from any thread.

    A change that `read` refuses (a certificate whose key has not arrived yet) is logged once, and
    what was read before goes on. At the start such a refusal is raised: OSError or ValueError.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], Content]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._fingerprint = self._look()
        self._content = read()

    def current(self) -> Content:
        """What the files hold now."""
        with self._lock:
            found = self._look()
            if found == self._fingerprint:
                return self._content
            self._fingerprint = found
            try:
                self._content = self._read()
                logger.info("read %s again", self._names)
            except (OSError, ValueError) as error:
                # Without the error's text: of a file of secrets it may hold some.
                logger.warning("%s cannot be read again: %s", self._names, type(error).__name__)
            return self._content

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._paths))

    def _look(self) -> _Fingerprint:
        return tuple(map(_look_at, self._paths))


def _look_at(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:  # reading it will say why
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino
