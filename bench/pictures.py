"""Pictures to classify, as files and as the tensors that a bundle makes of them.

    python -m bench.pictures BUNDLE FOLDER

Made up: coloured waves, so that JPEG has something to do.
"""

import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import Bundle
from service.classification.image import Preprocessor
from service.settings import Settings

NUM_PICTURES = 64
SEED = 1
NUM_WAVES = 6
QUALITY = 85


def main() -> None:
    """Write `000.jpg` and so on, and `pixel_values.npy`."""
    folder = Path(sys.argv[2])
    card = Bundle.open(Path(sys.argv[1])).classification.image
    preprocess = Preprocessor(card, max_pixels=Settings.model_validate({}).max_image_pixels)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    contents = [jpeg(waves(rng, card.size)) for _ in range(NUM_PICTURES)]
    for index, content in enumerate(contents):
        (folder / f"{index:03d}.jpg").write_bytes(content)
    np.save(folder / "pixel_values.npy", np.stack([preprocess(one) for one in contents]))


def waves(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Some waves in every channel: (size, size, 3)."""
    rows, columns = np.mgrid[:size, :size] / size
    picture = np.zeros((size, size, 3))
    for _ in range(NUM_WAVES):
        down, right = rng.uniform(-40, 40, 2)
        wave = np.sin(down * rows + right * columns + rng.uniform(0, 2 * np.pi))
        picture += wave[:, :, None] * rng.uniform(-1, 1, 3)
    picture += rng.normal(0, 0.3, picture.shape)
    return np.clip(127.5 + 50 * picture, 0, 255).astype(np.uint8)


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """As a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    main()
