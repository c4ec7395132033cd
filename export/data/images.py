"""Image folders: FOLDER/LABEL/NAME.EXTENSION, and random changes to batches of pictures.

Letters: B batch; pictures are (B, 3, height, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Pictures (B, 3, size, size) uint8, the index of each one's label (B,), and all labels."""

    pixels: Tensor
    targets: Tensor
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def split(self, share: float, seed: int) -> tuple["ImageSet", "ImageSet"]:
        """Set a random share of the pictures apart: (the rest, the share)."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        apart = round(len(self) * share)
        return self.subset(order[apart:]), self.subset(order[:apart])

    def subset(self, indices: Tensor) -> "ImageSet":
        """The pictures at these indices."""
        return ImageSet(self.pixels[indices], self.targets[indices], self.labels)


def read_image_folder(folder: Path, image_size: int) -> ImageSet:
    """Read every picture below FOLDER/LABEL/, resized to a square where it is another size.

    Raises ValueError where there are no labels or a label has no pictures.
    """
    files = picture_files(folder)
    labels = tuple(sorted({label for label, _ in files}))
    indices = {label: index for index, label in enumerate(labels)}
    targets = torch.tensor([indices[label] for label, _ in files])
    return ImageSet(read_pictures([path for _, path in files], image_size), targets, labels)


def picture_files(folder: Path) -> list[tuple[str, Path]]:
    """Label and path of every picture FOLDER/LABEL/*, in order. Raises ValueError as above."""
    labels = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not labels:
        raise ValueError(f"{folder} has no folders, one a label, with pictures in them")
    found: list[tuple[str, Path]] = []
    for label in labels:
        files = sorted(p for p in (folder / label).iterdir() if p.suffix.lower() in EXTENSIONS)
        if not files:
            raise ValueError(f"{folder / label} has no pictures ({', '.join(sorted(EXTENSIONS))})")
        found += [(label, path) for path in files]
    return found


def read_pictures(paths: Sequence[Path], image_size: int) -> Tensor:
    """Pictures (B, 3, image_size, image_size) uint8, resized where they have another size."""
    pixels = np.stack([_read_image(path, image_size) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _read_image(path: Path, image_size: int) -> np.ndarray:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        if rgb.size != (image_size, image_size):
            rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 pictures (B, 3, height, width) -> float32, (pixels / 255 - mean) / std."""
    return (pixels.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def augment(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shift, mirror, re-light and partly cover normalised pictures; all of it grows with strength.

    strength 0 changes nothing; at 1 a picture is shifted by up to an eighth of its width, a quarter
    of it is covered (Cutout, DeVries and Taylor 2017), contrast and brightness move by 40 %.
    """
    if strength == 0.0:
        return images
    images = _mirror(_shift(images, strength, generator), generator)
    return _cover(_relight(images, strength, generator), strength, generator)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _shift(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    margin = max(1, round(width / 8 * min(strength, 1.0)))
    padded = functional.pad(images, (margin,) * 4)
    offsets = torch.randint(0, 2 * margin + 1, (2, batch, 1), generator=generator)
    rows = torch.arange(height) + offsets[0]  # (B, height)
    columns = torch.arange(width) + offsets[1]  # (B, width)
    pictures = torch.arange(batch)[:, None, None]
    # Advanced indices around a slice come first: (B, height, width, 3) -> (B, 3, height, width)
    return padded[pictures, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = _uniform(len(images), generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _relight(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    spread = 0.4 * strength
    contrast = 1 + spread * (2 * _uniform(len(images), generator) - 1)
    brightness = spread * (2 * _uniform(len(images), generator) - 1)
    return images * contrast[:, None, None, None] + brightness[:, None, None, None]


def _cover(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    side = round(min(height, width) / 2 * min(strength, 1.0))
    top = torch.randint(1 - side, height, (batch, 1), generator=generator)
    left = torch.randint(1 - side, width, (batch, 1), generator=generator)
    row, column = torch.arange(height), torch.arange(width)
    inside_rows = (row >= top) & (row < top + side)  # (B, height)
    inside_columns = (column >= left) & (column < left + side)  # (B, width)
    covered = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return images.masked_fill(covered, 0.0)  # 0 is the mean colour
