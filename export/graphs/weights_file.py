"""The one file that holds the weights of all graphs of a precision, each tensor once.

Tensors go to the disk as they come: however large the model, only one of them is in memory. Graphs
name them by offset, as external data, so that no .onnx file comes near the 2 GB protobuf allows.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

WEIGHTS_FILE = "weights.bin"
ALIGNMENT = 64  # a cache line, so that mapped weights are aligned for vector loads

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a tensor lies in the file, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Stored:
    kind: tuple[str, tuple[int, ...]]  # type and shape
    digest: bytes
    location: Location


class WeightsFile:
    """Writes tensors by name; graphs that ask for the same name share its bytes."""

    def __init__(self, folder: Path, *, half: bool = False) -> None:
        """Begin the file; graphs next to it find it by its name.

        With `half`, float32 matrices are stored as float16 and graphs cast them back.
        """
        self.half = half
        self._file = (folder / WEIGHTS_FILE).open("wb")
        self._stored: dict[str, _Stored] = {}

    def add(self, name: str, array: Array) -> Location:
        """Store a tensor, or find it again. Raises ValueError if the name holds other values."""
        array = np.ascontiguousarray(array)
        kind = (array.dtype.str, array.shape)
        content = array.reshape(-1).view(np.uint8).data
        digest = hashlib.blake2b(content, digest_size=32).digest()
        if name in self._stored:
            stored = self._stored[name]
            if (stored.kind, stored.digest) != (kind, digest):
                raise ValueError(f"two different tensors are called {name}")
            return stored.location
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        location = Location(self._file.tell(), array.nbytes)
        self._file.write(content)
        self._stored[name] = _Stored(kind, digest, location)
        return location

    def close(self) -> None:
        """Bring the last bytes to the disk."""
        self._file.close()

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
