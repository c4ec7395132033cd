"""OpenVINO over a classifier's graph, in its own environment."""

import openvino

from bench.contenders.pictures import Classify, serve_classifier


def open_model(graph: str, threads: int) -> Classify:
    """Compile it for so many threads."""
    core = openvino.Core()
    model = core.compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": threads})
    output = model.output("logits")
    return lambda pictures: model({"pixel_values": pictures})[output]


if __name__ == "__main__":
    serve_classifier(open_model)
