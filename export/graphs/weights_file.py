"""The one file that holds the weights of all graphs of a precision, each tensor once."""

from dataclasses import dataclass
from pathlib import Path

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


class WeightsFile:
    """Collects tensors by name; graphs that ask for the same name share its bytes."""

    def __init__(self, *, half: bool = False) -> None:
        """With `half`, float32 matrices are stored as float16 and graphs cast them back."""
        self.half = half
        self._tensors: dict[str, Array] = {}
        self._locations: dict[str, Location] = {}
        self._size = 0

    def add(self, name: str, array: Array) -> Location:
        """Store a tensor, or find it again. Raises ValueError if the name holds other values."""
        array = np.ascontiguousarray(array)
        if name in self._tensors:
            if not np.array_equal(self._tensors[name], array):
                raise ValueError(f"two different tensors are called {name}")
            return self._locations[name]
        self._size += -self._size % ALIGNMENT
        self._tensors[name] = array
        self._locations[name] = Location(self._size, array.nbytes)
        self._size += array.nbytes
        return self._locations[name]

    def write(self, folder: Path) -> None:
        """Write the file; graphs next to it find it by its name."""
        with (folder / WEIGHTS_FILE).open("wb") as file:
            for name, array in self._tensors.items():
                file.seek(self._locations[name].offset)
                file.write(array.tobytes())
