"""ONNX Runtime sessions: device, precision, threads, and the check of a graph's tensors.

Knows files and tensors, no task. Every session of the server is opened here.
"""

import ctypes
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import onnxruntime

from service.errors import BundleError

Device = Literal["cpu", "cuda"]

RUNTIME_VERSION: str = onnxruntime.__version__

CUDA = "CUDAExecutionProvider"

# None is a size that varies.
Shape = Sequence[int | None]


def open_session(
    path: Path,
    *,
    device: Device,
    threads: int,
    capture: bool = False,
    mapped: bool = False,
) -> onnxruntime.InferenceSession:
    """Open a graph on `device`; `threads` is how many one `run` computes on.

    With one thread `run` computes on its caller's thread, and any number of callers may share the
    session. `capture` is for CUDA graphs; `mapped` saves the memory of the weights in a folder that
    nobody else writes to. Raises BundleError if the file is no graph that this runtime can run.
    """
    try:
        options = _session_options(threads)
        weights = {} if mapped else _weights(path)
        # Else the weights are mapped from their files, and a copy over one of them, truncating it,
        # ends the process with SIGBUS.
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), list(map(len, weights.values()))
        )
        session = onnxruntime.InferenceSession(
            path,
            sess_options=options,
            providers=_providers(device, capture),
            enable_fallback=False,  # to a CPU, and without a word
            # Measured on a CPU: the fused operator takes 591 us for 768 x 256, the two it
            # replaces 83 us. On a GPU it is one kernel instead of two or three.
            disabled_optimizers=["SkipLayerNormFusion"] if device == "cpu" else None,
        )
    except Exception as error:  # onnxruntime's exceptions share no base class but this one
        raise BundleError(f"expected an ONNX graph in {path}, found: {error}") from error
    if device == "cuda" and CUDA not in session.get_providers():
        raise BundleError(f"expected {path} on a GPU, found it on {session.get_providers()}")
    return session


def _weights(graph: Path) -> dict[str, bytes]:
    """The files beside a graph that may hold its weights, by the names it knows them by."""
    beside = (path for path in graph.parent.iterdir() if path.suffix != graph.suffix)
    return {path.name: path.read_bytes() for path in beside if path.is_file()}


def providers() -> tuple[str, ...]:
    """What this build of ONNX Runtime can compute with, best first."""
    return tuple(onnxruntime.get_available_providers())


def choose_device(setting: str) -> Device:
    """The device that a setting of "auto", "cpu" or "cuda" means on this machine."""
    if setting == "cpu":
        return "cpu"
    if _cuda_works():
        return "cuda"
    if setting == "cuda":
        raise BundleError(
            "device cuda was asked for, found no usable GPU: it needs onnxruntime-gpu and a driver"
        )
    return "cpu"


def check_tensors(
    session: onnxruntime.InferenceSession,
    *,
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    graph: str = "graph",
) -> None:
    """Raise BundleError unless the graph takes exactly `inputs` and returns all of `outputs`.

    A type is NumPy's name (`int64`); a shape's None matches any size; `graph` names it in errors.
    """
    taken = {tensor.name: tensor for tensor in session.get_inputs()}
    if taken.keys() != inputs.keys():
        raise BundleError(f"{graph}: expected inputs {sorted(inputs)}, found {sorted(taken)}")
    returned = {tensor.name: tensor for tensor in session.get_outputs()}
    if not outputs.keys() <= returned.keys():
        raise BundleError(f"{graph}: expected outputs {sorted(outputs)}, found {sorted(returned)}")
    for name, (dtype, shape) in inputs.items():
        _check_tensor(taken[name], dtype, shape, graph)
    for name, (dtype, shape) in outputs.items():
        _check_tensor(returned[name], dtype, shape, graph)


def _check_tensor(tensor: onnxruntime.NodeArg, dtype: str, shape: Shape, graph: str) -> None:
    found_dtype = _numpy_name(tensor.type)
    fits = len(tensor.shape) == len(shape) and all(
        size is None or not isinstance(found, int) or found == size
        for size, found in zip(shape, tensor.shape, strict=True)
    )
    if found_dtype != dtype or not fits:
        raise BundleError(
            f"{graph}: expected {tensor.name} to be {dtype} {tuple(shape)}, "
            f"found {found_dtype} {tuple(tensor.shape)}"
        )


def _numpy_name(onnx_type: str) -> str:
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Without it a session's threads keep spinning between two runs: 0.98 of a core, 0.34 with it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_int8_dot_product():
        # Without VNNI the product of u8 and s8 saturates at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _providers(device: Device, capture: bool) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    cuda = {
        "device_id": "0",
        "enable_cuda_graph": "1" if capture else "0",
        # Else every new batch size tries all algorithms of a convolution.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    # Of the kernels for attention over caches this one is made for many query heads that share a
    # key head. Measured on an H100, where each has its own: 256 rows of base size took 896 us a
    # step with it, 586 us with cuDNN's, and 1111 us with flash attention.
    os.environ.setdefault("ORT_ENABLE_XQA", "0")
    return [(CUDA, cuda), "CPUExecutionProvider"]


@cache
def has_int8_dot_product() -> bool:
    """Whether this CPU multiplies u8 by s8 without saturating; other than x86, all we run on do."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


@cache
def _cuda_works() -> bool:
    if CUDA not in onnxruntime.get_available_providers():
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return False
    # The CUDA libraries come as wheels; their folders are on no search path.
    onnxruntime.preload_dlls()
    return count.value > 0
