"""A Vision Transformer so small that exporting it takes seconds, as transformers saves it.

python -m bench.torture.small_checkpoint FOLDER
"""

import sys

import torch
import transformers

SEED = 1


def main() -> None:
    """Random weights."""
    torch.manual_seed(SEED)
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    transformers.ViTForImageClassification(config).save_pretrained(sys.argv[1])
    processor = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil(
        size={"height": 32, "width": 32}
    )
    processor.save_pretrained(sys.argv[1])


if __name__ == "__main__":
    main()
