"""The graph that chooses the most probable tokens from logits, the same for every model.

The largest n of a row lie in the n blocks with the largest maxima, and maxima are cheap: a top-k
over the maxima, then one over the n blocks, never one over the vocabulary. It ships with the
server: `python -m export.graphs.selection` writes it.
Letters: R rows, V vocabulary, C count, W block width.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs.builder import OPSET, PRODUCER

PATH = Path(__file__).resolve().parents[2] / "service" / "translation" / "selection.onnx"


def selection_graph() -> onnx.ModelProto:
    """Logits (R, V) -> the C largest log-probabilities, best first, and their tokens: (R, C).

    `count` is (1,), C; `blocks` is (3,): 0, -1 and a W that divides V. With fewer than C blocks all
    are looked at.
    """
    inputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", "V"]),
        helper.make_tensor_value_info("count", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("blocks", TensorProto.INT64, [3]),
    ]
    outputs = [
        helper.make_tensor_value_info("log_probabilities", TensorProto.FLOAT, ["R", "C"]),
        helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["R", "C"]),
    ]
    node = helper.make_node
    nodes = [
        node("LogSoftmax", ["logits"], ["scores"], axis=-1),
        node("Reshape", ["scores", "blocks"], ["blocked"]),  # (R, V) -> (R, V / W, W)
        node("ReduceMax", ["blocked", "axis"], ["maxima"], keepdims=0),  # (R, V / W)
        node("Shape", ["maxima"], ["num_blocks"], start=1, end=2),
        node("Min", ["count", "num_blocks"], ["num_chosen"]),
        node("TopK", ["maxima", "num_chosen"], ["_", "chosen"], sorted=0),  # (R, C)
        node("Unsqueeze", ["chosen", "axis"], ["places"]),  # (R, C, 1)
        node("GatherND", ["blocked", "places"], ["candidates"], batch_dims=1),  # (R, C, W)
        node("Reshape", ["candidates", "flat"], ["row"]),  # (R, C * W)
        node("TopK", ["row", "count"], ["log_probabilities", "index"], sorted=1),  # (R, C)
        node("Gather", ["blocks", "last"], ["width"]),
        node("Div", ["index", "width"], ["rank"]),  # which of the chosen blocks
        node("Mod", ["index", "width"], ["column"]),
        node("GatherElements", ["chosen", "rank"], ["block"], axis=1),
        node("Mul", ["block", "width"], ["start"]),
        node("Add", ["start", "column"], ["token_ids"]),
    ]
    constants = {"axis": [2], "flat": [0, -1], "last": 2}
    initializers = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "selection", inputs, outputs, initializers)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name=PRODUCER)


if __name__ == "__main__":
    PATH.write_bytes(selection_graph().SerializeToString())
