"""Memory of a device and graphs that run over it, bound by address.

Knows ONNX Runtime, nothing of rows or models. With the device "cpu" all of it works alike, which
is how it is tested; only the capture of CUDA graphs has no equivalent there.
"""

import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, DTypeLike, NDArray

from service.errors import BundleError
from service.faults import is_out_of_memory, raise_if_device_lost
from service.runtime import Device, open_session

logger = logging.getLogger(__name__)

MAX_BINDINGS = 1024  # a few kilobytes each


class DeviceError(RuntimeError):
    """A device failed; the message names it and what it was doing."""


class DeviceMemoryError(DeviceError):
    """A device had no memory left for a run; what it holds is unharmed."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor at an address of a device."""

    address: int
    shape: tuple[int, ...]
    kind: np.dtype[Any]


class DeviceBuffer:
    """Memory of a device, zero at first, at one address for as long as it lives."""

    def __init__(self, device: Device, shape: tuple[int, ...], kind: DTypeLike, name: str) -> None:
        """Raises BundleError where there is too little memory."""
        self.shape, self.kind = shape, np.dtype(kind)
        self.num_bytes = math.prod(shape) * self.kind.itemsize
        try:
            # On a CPU it is this very array.
            self._zeros = np.zeros(shape, self.kind)
            self._value = onnxruntime.OrtValue.ortvalue_from_numpy(self._zeros, device, 0)
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise BundleError(
                f"expected {self.num_bytes} bytes of memory on {device} for {name}, found: {error}"
            ) from error
        if device != "cpu":
            del self._zeros
        self.address: int = self._value.data_ptr()

    def view(
        self, shape: tuple[int, ...] = (), kind: DTypeLike | None = None, *, offset_bytes: int = 0
    ) -> View:
        """A part of it, seen as a tensor of this shape and type; all of it where none is given."""
        return View(self.address + offset_bytes, shape or self.shape, np.dtype(kind or self.kind))

    def write(self, values: NDArray[Any]) -> None:
        """Replace all that it holds."""
        self._value.update_inplace(values)

    def read(self) -> NDArray[Any]:
        """A copy of all that it holds."""
        return np.array(self._value.numpy())


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a graph reads and writes: on its device by address, or given by the host."""

    inputs: Mapping[str, View]
    outputs: Mapping[str, View]
    given: Mapping[str, ArrayLike]  # copied when they are bound
    fetched: tuple[str, ...] = ()  # outputs that come to the host


class DeviceGraph:
    """A graph on a device. Where CUDA graphs are wanted and work, a run replays a captured one."""

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        capture: bool = False,
    ) -> None:
        """Raises BundleError if the file is no graph that this runtime can run."""
        self.path = path
        self._device = device
        # What a run is over, and its options, which know its CUDA graph.
        self._bound: OrderedDict[Hashable, tuple[Any, onnxruntime.RunOptions | None]] = (
            OrderedDict()
        )
        self._capture = capture
        self._graph_ids = itertools.count(1)
        try:
            self.session = self._open(capture=capture)
        except BundleError as error:
            if not self.is_captured:
                raise
            self._give_up_capture(error)

    @property
    def is_captured(self) -> bool:
        """Whether runs replay CUDA graphs. A CPU has none, and passes over being asked for them."""
        return self._capture and self._device == "cuda"

    def run(self, key: Hashable, tensors: Callable[[], Tensors]) -> None:
        """Run over the tensors that belong to `key`, which are always the same ones.

        Raises DeviceError and DeviceLost.
        """
        try:
            self._run_bound(key, tensors)
        except Exception as error:  # onnxruntime's exceptions share no base class but this one
            raise_if_device_lost(error)
            if not self._capture or is_out_of_memory(error):
                raise self._failure(error) from error
            try:
                self._give_up_capture(error)
            except BundleError as unopened:
                raise_if_device_lost(unopened)
                raise self._failure(unopened) from error
            self.run(key, tensors)

    def run_once(self, tensors: Tensors) -> list[NDArray[Any]]:
        """Run over tensors that will not be seen again; returns what is fetched.

        Raises DeviceError and DeviceLost.
        """
        try:
            binding = self._bind(tensors)
            self.session.run_with_iobinding(binding)
            if not tensors.fetched:
                return []
            outputs: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
            return outputs[len(tensors.outputs) :]
        except Exception as error:  # as above
            raise_if_device_lost(error)
            raise self._failure(error) from error

    def _run_bound(self, key: Hashable, tensors: Callable[[], Tensors]) -> None:
        if key in self._bound:
            self._bound.move_to_end(key)
        else:
            self._bound[key] = self._bind(tensors()), self._next_graph()
            if len(self._bound) > MAX_BINDINGS and not self._capture:
                self._bound.popitem(last=False)
        try:
            self.session.run_with_iobinding(*self._bound[key])
        except Exception:
            del self._bound[key]  # whatever was captured of it, is not replayed
            raise

    def _next_graph(self) -> onnxruntime.RunOptions | None:
        """The options of runs that are captured as, and later replay, the next CUDA graph."""
        if not self._capture:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)))
        return options

    def _bind(self, tensors: Tensors) -> Any:
        binding = self.session.io_binding()
        for name, view in tensors.inputs.items():
            binding.bind_input(name, self._device, 0, view.kind.type, view.shape, view.address)
        for name, value in tensors.given.items():
            binding.bind_cpu_input(name, np.asarray(value))
        for name, view in tensors.outputs.items():
            binding.bind_output(name, self._device, 0, view.kind.type, view.shape, view.address)
        for name in tensors.fetched:
            binding.bind_output(name, "cpu")
        return binding

    def _open(self, *, capture: bool) -> onnxruntime.InferenceSession:
        return open_session(self.path, device=self._device, threads=1, capture=capture)

    def _give_up_capture(self, error: Exception) -> None:
        """Raises BundleError; then it may be tried again."""
        self.session = self._open(capture=False)
        logger.warning("%s runs without CUDA graphs: %s", self.path.name, error)
        self._capture = False
        self._bound.clear()

    def _failure(self, error: Exception) -> DeviceError:
        kind = DeviceMemoryError if is_out_of_memory(error) else DeviceError
        return kind(f"device {self._device} failed in {self.path.name}: {error}")
