"""The tensors of a checkpoint folder, read from its files one at a time, when they are asked for.

model.safetensors, its shards, pytorch_model.bin, its shards: the first of these that is there, as
transformers chooses. Pickles are read with weights_only, which runs no code of theirs. A shard is a
file of the folder itself: no index leads anywhere else.
"""

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.huggingface.errors import CheckpointError

INDEX = ".index.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS + INDEX, PICKLE, PICKLE + INDEX)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name; those of a file that can be mapped are pages of it."""

    def __init__(self, folder: Path) -> None:
        """Look up what there is. Raises CheckpointError."""
        self._places = _find(folder)
        self._size = sum(place.num_bytes for place in self._places.values())

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return self._size

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a tensor, which is not read."""
        return self._places[name].shape

    def dtypes(self) -> set[torch.dtype]:
        """Of all tensors that hold real numbers."""
        found = {place.dtype for place in self._places.values()}
        return {dtype for dtype in found if dtype.is_floating_point}

    def release(self) -> None:
        """Let go of what files keep in memory or mapped, until they are asked again."""
        for place in self._places.values():
            place.file.release()

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        return place.file.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _File(Protocol):
    def read(self, name: str) -> Tensor: ...

    def release(self) -> None: ...

    def places(self) -> dict[str, "_Place"]: ...


class _Place(NamedTuple):
    file: _File
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> Tensor:
        # Opened each time: an open file would keep in memory every page that was ever read.
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def release(self) -> None:
        pass

    def places(self) -> dict[str, _Place]:
        try:
            with safe_open(self._path, "pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {
                    name: _Place(self, tuple(part.get_shape()), _dtype(part.get_dtype()))
                    for name, part in slices.items()
                }
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"expected safetensors in {self._path}, found: {error}"
            ) from error


class _Pickle:
    """A state dict of torch.save; a file of the format before PyTorch 1.6 cannot be mapped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors: dict[str, Tensor] | None = None

    def read(self, name: str) -> Tensor:
        return self._loaded()[name]

    def release(self) -> None:
        self._tensors = None

    def places(self) -> dict[str, _Place]:
        return {
            name: _Place(self, tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._loaded().items()
        }

    def _loaded(self) -> dict[str, Tensor]:
        if self._tensors is None:
            self._tensors = _load_pickle(self._path)
        return self._tensors


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols: what it cannot read, it refuses
            loaded: Any = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"expected tensors alone in {path}, found: {reason}") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"expected a state dict in {path}, found {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            found = type(value).__name__
            raise CheckpointError(f"expected a tensor for {name} in {path}, found {found}")
    return {name: tensor.detach() for name, tensor in loaded.items()}


def _find(folder: Path) -> dict[str, _Place]:
    for name in WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            return _sharded(path) if name.endswith(INDEX) else _open(path).places()
    raise CheckpointError(f"expected weights in {folder}: {' or '.join(WEIGHT_FILES)}; found none")


def _open(path: Path) -> _File:
    return _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)


def _sharded(index: Path) -> dict[str, _Place]:
    """What an index promises is in the shards, and what is in the shards is in the index."""
    named = _weight_map(index)
    places: dict[str, _Place] = {}
    for shard in sorted(set(named.values())):
        path = index.parent / shard
        if not path.is_file():
            raise CheckpointError(f"expected the shard {path}, found no such file")
        for name, place in _open(path).places().items():
            if named.get(name) != shard:
                raise CheckpointError(f"{path} holds {name}, which {index.name} has elsewhere")
            places[name] = place
    if missing := sorted(set(named) - set(places)):
        raise CheckpointError(f"{index} names {missing[0]}, which is not in {named[missing[0]]}")
    return places


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
        named = content["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"expected a weight_map in {index}, found: {error!r}") from error
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"expected a weight_map in {index}, found {named!r:.100}")
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    for name, shard in named.items():
        if not isinstance(shard, str) or Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(
                f"{index}: expected {name} in a file of this folder, found {shard!r}"
            )
        if Path(shard).suffix != suffix:
            raise CheckpointError(f"{index}: expected {name} in a {suffix} file, found {shard}")
    return named


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise CheckpointError(f"expected tensors of {', '.join(DTYPES)}, found {name}")
    return DTYPES[name]
