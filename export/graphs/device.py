"""Small graphs that keep a decode step on its device; the same for every model.

They ship with the server: `python -m export.graphs.device` writes them.
Letters: R rows, V vocabulary, C candidates, W block width, N places, M words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.graphs.builder import OPSET, PRODUCER, Shape

FOLDER = Path(__file__).resolve().parents[2] / "service" / "translation" / "device_graphs"

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Tensors = Mapping[str, tuple[int, Shape]]


def candidates_graph() -> onnx.ModelProto:
    """Logits (R, V) -> candidates (R, 3 * C): log-probabilities, best first, logits, token ids.

    One tensor, so that one copy brings them to the host; float32 holds ids up to 2^24. The largest
    C lie in the C blocks with the largest maxima, as in `selection`. Here no shape is computed at
    run time, so that CUDA graphs can capture it: `count` is (1,), C; `num_chosen` (1,), C or the
    number of blocks; `blocks` (3,), 0, -1 and a W that divides V; these three are read by the host,
    and on the device `width` (1,), W, and `within` (W,), 0 to W - 1.
    """
    node = helper.make_node
    nodes = [
        node("LogSoftmax", ["logits"], ["scores"], axis=-1),
        node("Reshape", ["scores", "blocks"], ["blocked"]),  # (R, V) -> (R, V / W, W)
        node("ReduceMax", ["blocked", "last"], ["maxima"], keepdims=0),  # (R, V / W)
        node("TopK", ["maxima", "num_chosen"], ["_", "chosen"], sorted=1),  # (R, C)
        node("Unsqueeze", ["chosen", "last"], ["places"]),  # (R, C, 1)
        node("Mul", ["places", "width"], ["starts"]),
        node("Add", ["starts", "within"], ["spread"]),  # (R, C, W)
        node("Reshape", ["spread", "flat"], ["columns"]),  # (R, C * W)
        node("GatherElements", ["scores", "columns"], ["values"], axis=1),
        node("TopK", ["values", "count"], ["best", "index"], sorted=1),  # (R, C)
        node("GatherElements", ["columns", "index"], ["tokens"], axis=1),
        node("GatherElements", ["logits", "tokens"], ["raw"], axis=1),
        node("Cast", ["tokens"], ["ids"], to=FLOAT),
        node("Concat", ["best", "raw", "ids"], ["candidates"], axis=1),
    ]
    constants = {"last": [-1], "flat": [0, -1]}
    inputs: Tensors = {
        "logits": (FLOAT, ["R", "V"]),
        "count": (INT64, [1]),
        "num_chosen": (INT64, [1]),
        "blocks": (INT64, [3]),
        "width": (INT64, [1]),
        "within": (INT64, ["W"]),
    }
    return _model("candidates", nodes, inputs, {"candidates": (FLOAT, ["R", "C"])}, constants)


def transfer_graph() -> onnx.ModelProto:
    """Copy words of `source` into `target`, which is bound as `result` too: nothing else moves.

    Which words: for each of N rows its first one, and offsets from there, the same for all rows.
    Words are as wide as the two tensors; float32 stands for any four bytes.
    """
    node = helper.make_node
    nodes = [
        node("Add", ["source_rows", "source_offsets"], ["from"]),  # (N, 1) + (1, M) -> (N, M)
        node("Gather", ["source", "from"], ["words"], axis=0),  # (N, M, W)
        node("Add", ["target_rows", "target_offsets"], ["to"]),
        node("Unsqueeze", ["to", "last"], ["places"]),  # (N, M, 1)
        node("ScatterND", ["target", "places", "words"], ["result"]),
    ]
    inputs: Tensors = {
        "source": (FLOAT, ["source_words", "W"]),
        "target": (FLOAT, ["target_words", "W"]),
        "source_rows": (INT64, ["N", 1]),
        "target_rows": (INT64, ["N", 1]),
        "source_offsets": (INT64, [1, "M"]),
        "target_offsets": (INT64, [1, "M"]),
    }
    outputs: Tensors = {"result": (FLOAT, ["target_words", "W"])}
    return _model("transfer", nodes, inputs, outputs, {"last": [-1]})


def edit_graph() -> onnx.ModelProto:
    """Write values (N,) at places (N, 2), row and token, of logits (R, V), `result` too."""
    nodes = [helper.make_node("ScatterND", ["logits", "places", "values"], ["result"])]
    inputs: Tensors = {
        "logits": (FLOAT, ["R", "V"]),
        "places": (INT64, ["N", 2]),
        "values": (FLOAT, ["N"]),
    }
    return _model("edit", nodes, inputs, {"result": (FLOAT, ["R", "V"])}, {})


def fetch_graph() -> onnx.ModelProto:
    """Logits (R, V) and rows (N,) -> those rows (N, V)."""
    nodes = [helper.make_node("Gather", ["logits", "rows"], ["fetched"], axis=0)]
    inputs: Tensors = {"logits": (FLOAT, ["R", "V"]), "rows": (INT64, ["N"])}
    return _model("fetch", nodes, inputs, {"fetched": (FLOAT, ["N", "V"])}, {})


GRAPHS = {
    "candidates": candidates_graph,
    "transfer": transfer_graph,
    "edit": edit_graph,
    "fetch": fetch_graph,
}


def _model(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    constants: Mapping[str, ArrayLike],
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.array(value, np.int64), key) for key, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, *tensor) for key, tensor in inputs.items()],
        [helper.make_tensor_value_info(key, *tensor) for key, tensor in outputs.items()],
        initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name=PRODUCER)


def path_of(name: str) -> Path:
    """Where the server has a graph."""
    return FOLDER / f"{name}.onnx"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, build in GRAPHS.items():
        path_of(name).write_bytes(build().SerializeToString())
