"""A decode step over any number of rows and tokens, and what this machine could do it in.

Everything on one thread, as a decode worker computes. No search: only the graph over the caches.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bench.contenders.protocol import serve
from service.bundle import Bundle
from service.runtime import has_int8_dot_product
from service.translation.graphs import Graphs
from service.translation.runner import Runner

MAX_ROWS = 256
NUM_STEPS = 7
NUM_PROBES = 30
PRODUCT = (256, 512, 2048)  # rows, inputs and outputs of the product that tells the peak
COPIED_BYTES = 1 << 28  # far more than caches hold


class Contender:
    """The handlers."""

    def load(self, bundle: str, precision: str, max_tokens: int) -> dict[str, Any]:
        """Caches for so many tokens, whatever the bundle's own limits are."""
        graphs = Graphs.open(Bundle.open(Path(bundle)), precision, "cpu")
        limits = graphs.card.limits.model_copy(update={"max_target_tokens": max_tokens})
        card = graphs.card.model_copy(update={"limits": limits})
        self._runner = Runner(replace(graphs, card=card), MAX_ROWS)
        return {}

    def limits(self) -> dict[str, Any]:
        """Integer operations, and bytes read, a second."""
        rows, inputs, outputs = PRODUCT
        product = _product_session()
        left = np.ones((rows, inputs), np.uint8)
        product_seconds = _least_seconds(lambda: product.run(None, {"left": left}))
        words = np.ones(COPIED_BYTES // 8, np.int64)
        return {
            "operations_per_second": 2 * rows * inputs * outputs / product_seconds,
            "bytes_per_second": words.nbytes / _least_seconds(words.max),
        }

    def step(self, num_rows: int, target_tokens: int, source_tokens: int) -> dict[str, Any]:
        """Seconds of a step that adds the last of so many target tokens to every row."""
        table = self._runner.table
        table.num_rows = num_rows
        table.lengths[:num_rows] = target_tokens - 1
        table.source_ends[:num_rows] = source_tokens - 1
        self._runner.admit([])  # nobody joins, but the caches are laid out for these rows
        self._runner.step()  # binds them
        seconds = []
        for _ in range(NUM_STEPS):
            begun = time.perf_counter()
            self._runner.step()
            seconds.append(time.perf_counter() - begun)
        return {"seconds": statistics.median(seconds)}


def _least_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(NUM_PROBES):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _product_session() -> onnxruntime.InferenceSession:
    """One integer product with constant weights, as decoders are full of."""
    rows, inputs, outputs = PRODUCT
    weight = np.random.default_rng(0).integers(-127, 128, (inputs, outputs), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, [rows, inputs])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [rows, outputs])],
        [onnx.numpy_helper.from_array(weight, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not has_int8_dot_product():
        options.add_session_config_entry("session.x64quantprecision", "1")  # as the server has it
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    contender = Contender()
    serve(load=contender.load, limits=contender.limits, step=contender.step)
