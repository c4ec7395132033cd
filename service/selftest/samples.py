"""Texts and images of our own: neighbours for the golden ones, and what there is without any.

The texts are English; to a model of another language they are strange, and just as good for asking
whether an answer depends on its company.
"""

import io

import numpy as np
from PIL import Image

TEXTS = (
    "Rain!",
    "A dog runs.",
    "Two men are talking.",
    "A woman is holding a cup of tea.",
    "The train to the coast leaves at 7:45 from platform 12.",
    "A child in a yellow coat jumps into a puddle.",
    "An old man with a grey beard reads a newspaper on a bench in the park.",
    "Three friends sit on a wall and eat ice cream.",
    "She opened the window because it was too warm in the room, and a bird flew in.",
    "A brown horse stands behind a wooden fence",
    "Several people wait for the bus in front of a shop with red and white flowers in its window.",
    "A cyclist rides through the snow at night.",
    "Where can I buy a ticket?",
    "A girl plays the violin while her brother, who is much younger, sleeps on the sofa.",
    "The market was full of fruit, fish, cheese and noise.",
    "A man is painting a boat by the sea.",
)


def make_images(count: int = 8, side: int = 48) -> tuple[bytes, ...]:
    """PNG files: black, white, then smooth colours; the first two are the loudest neighbours."""
    random = np.random.default_rng(0)
    images = [Image.new("RGB", (side, side), colour) for colour in ("black", "white")]
    for _ in range(count - len(images)):
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        images.append(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return tuple(map(_png, images))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
