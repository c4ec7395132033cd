"""A bundle of ViT-B/16 with random weights, for timing alone.

    python -m bench.vision_model FOLDER

12 layers, d 768, 12 heads, feed-forward 3072, patches of 16 x 16, pictures of 224 x 224
(Dosovitskiy et al. 2021, table 1), 1 000 labels.
"""

import sys
from pathlib import Path

import torch

from export.bundling import ClassificationDescription, export_classification
from export.vit import VisionTransformer, ViTConfig
from service.bundle import ImagePreprocessing, Provenance

CONFIG = ViTConfig(
    num_labels=1000,
    image_size=224,
    patch_size=16,
    stem="patches",
    d_model=768,
    layers=12,
    num_heads=12,
    ffn_size=3072,
)
NUM_CALIBRATION_PICTURES = 4
SEED = 1


def main() -> None:
    """Build it."""
    output = Path(sys.argv[1])
    torch.manual_seed(SEED)
    export_classification(
        VisionTransformer(CONFIG).eval(),
        output,
        description=ClassificationDescription(
            name=output.parent.name,
            labels=[f"label {index}" for index in range(CONFIG.num_labels)],
            image=ImagePreprocessing(
                size=CONFIG.image_size, resample="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
            provenance=Provenance(
                data="none", licence="Apache-2.0", recipe=f"random weights, seed {SEED}"
            ),
        ),
        calibration_pictures=torch.randn(
            NUM_CALIBRATION_PICTURES, 3, CONFIG.image_size, CONFIG.image_size
        ),
    )


if __name__ == "__main__":
    main()
