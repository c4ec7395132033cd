"""A checkpoint as CTranslate2's own converter makes it of the folder, float32.

    python -m bench.peers.ct2_checkpoint CHECKPOINT FOLDER PACKAGES

The converter needs PyTorch and transformers, which our environment has and CTranslate2's has not:
PACKAGES is where the latter has CTranslate2. It quantises when it loads. As for every contender, a
token is then its id as a decimal number.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Convert."""
    checkpoint, output, packages = sys.argv[1:]
    sys.path.append(packages)  # behind ours, whose NumPy it is to use
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(checkpoint).convert(output)
    number_tokens(Path(output))


def number_tokens(model: Path) -> None:
    """Let a converted model's ids be its words."""
    place = model / "shared_vocabulary.json"
    words = json.loads(place.read_text("utf-8"))
    place.write_text(json.dumps(list(map(str, range(len(words))))))
    ids = {word: str(index) for index, word in enumerate(words)}
    config = json.loads((model / "config.json").read_text("utf-8"))
    for name, value in config.items():
        if name.endswith("_token"):
            config[name] = ids.get(value, value)
    (model / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
