"""Small graphs that keep a decode step on its device; the same for every model.

They ship with the server: `python -m export.graphs.device` writes them.
Letters: R rows, V vocabulary, C candidates, W width of a word, N places, M words.
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

    One tensor, so that one copy brings them to the host; float32 holds ids up to 2^24. `count` is
    (1,), C, and is read by the host. A search among the maxima of blocks, which is faster on a CPU,
    was slower on an H100 whatever R: for 1024 rows of 32 000 it took 376 us for the maxima alone,
    and this TopK 183.
    """
    node = helper.make_node
    nodes = [
        node("LogSoftmax", ["logits"], ["scores"], axis=-1),
        node("TopK", ["scores", "count"], ["best", "tokens"], sorted=1),  # (R, C)
        node("GatherElements", ["logits", "tokens"], ["values"], axis=1),
        node("Cast", ["tokens"], ["ids"], to=FLOAT),
        node("Concat", ["best", "values", "ids"], ["candidates"], axis=1),
    ]
    inputs: Tensors = {"logits": (FLOAT, ["R", "V"]), "count": (INT64, [1])}
    return _model("candidates", nodes, inputs, {"candidates": (FLOAT, ["R", "C"])}, {})


def transfer_graph() -> onnx.ModelProto:
    """Copy words of `source` into `target`, which is bound as `result` too: nothing else moves.

    Which words: for each of N rows its first one, and offsets from there, the same for all rows.
    Words are as wide as the two tensors; float32 stands for any four bytes. A pair of rows may be
    there twice.
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
