"""A bare ONNX Runtime session over a classifier's graph."""

from pathlib import Path

from bench.contenders.pictures import Classify, serve_classifier
from service.runtime import open_session


def open_model(graph: str, threads: int) -> Classify:
    """With the options that the server opens its sessions with."""
    session = open_session(Path(graph), device="cpu", threads=threads)
    return lambda pictures: session.run(["logits"], {"pixel_values": pictures})[0]


if __name__ == "__main__":
    serve_classifier(open_model)
