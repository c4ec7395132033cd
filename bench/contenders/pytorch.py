"""The PyTorch model that a classification bundle was exported from, float32."""

from pathlib import Path

import torch

from bench.contenders.pictures import Classify, serve_classifier
from export.vit import VisionTransformer
from export.weights import load_bundle_model


def open_model(bundle: str, threads: int) -> Classify:
    """Build it with the bundle's weights."""
    torch.set_num_threads(threads)
    model = load_bundle_model(Path(bundle), VisionTransformer)
    return torch.inference_mode()(lambda pictures: model(torch.from_numpy(pictures)).numpy())


if __name__ == "__main__":
    serve_classifier(open_model)
