"""A bundle's weights in a file that any environment reads.

    python -m bench.weights BUNDLE WEIGHTS.npz

They are what the fp32 graphs compute with, under the PyTorch model's names, float32; `config` holds
the sizes and the special tokens as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from export.weights import read_bundle_weights, seq2seq_config
from service.bundle import Bundle


def main() -> None:
    """Write the file."""
    folder, output = map(Path, sys.argv[1:])
    card = Bundle.open(folder).translation
    config = card.architecture.model_dump() | card.tokens.model_dump()
    config["norm_epsilon"] = seq2seq_config(card).layer.norm_epsilon
    arrays: dict[str, Any] = {
        name: tensor.numpy() for name, tensor in read_bundle_weights(folder).items()
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        np.savez(file, config=np.array(json.dumps(config)), **arrays)


if __name__ == "__main__":
    main()
