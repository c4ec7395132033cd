"""Training an image classifier on an image folder, and calibrating its probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from export.data.images import ImageSet, augment, normalise
from export.training.loop import OptimizationConfig
from export.vit import VisionTransformer


@dataclass(frozen=True, slots=True)
class ClassificationDataConfig:
    """What a classifier is trained on."""

    batch_size: int = 128
    augmentation: float = 0.5  # strength, see `augment`
    valid_share: float = 0.1  # of the training pictures, unless a validation folder is given


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Which pictures of the training set, and the seed of their random changes."""

    indices: Tensor
    seed: int


class ClassificationTask:
    """A Vision Transformer and its pictures, as the training loop sees them."""

    unit = "images"

    def __init__(
        self,
        model: VisionTransformer,
        train: ImageSet,
        valid: ImageSet,
        data: ClassificationDataConfig,
        optimization: OptimizationConfig,
    ) -> None:
        self.model = model
        self.train_images = train
        self.valid_images = valid
        self.data = data
        self.optimization = optimization
        self.mean, self.std = channel_statistics(train.pixels)

    def epoch_batches(self, epoch: int) -> Sequence[ImageBatch]:
        """All pictures in a new order."""
        generator = torch.Generator().manual_seed(self.optimization.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train_images), generator=generator)
        groups = torch.split(order, self.data.batch_size)
        seeds = torch.randint(2**62, (len(groups),), generator=generator).tolist()
        return [ImageBatch(group, seed) for group, seed in zip(groups, seeds, strict=True)]

    def loss(self, batch: ImageBatch) -> Tensor:
        """Mean label-smoothed cross-entropy of a batch of changed pictures."""
        images = self.train_images.subset(batch.indices)
        generator = torch.Generator().manual_seed(batch.seed)
        changed = augment(self._normalise(images.pixels), self.data.augmentation, generator)
        logits = self.model(self._device(changed))
        return functional.cross_entropy(
            logits,
            self._device(images.targets),
            label_smoothing=self.optimization.label_smoothing,
        )

    def num_units(self, batch: ImageBatch) -> int:
        """Pictures."""
        return len(batch.indices)

    def validate(self) -> dict[str, float]:
        """Cross-entropy and accuracy on the validation pictures."""
        logits = self.logits(self.valid_images)
        targets = self.valid_images.targets
        return {
            "loss": functional.cross_entropy(logits, targets).item(),
            "accuracy": (logits.argmax(-1) == targets).float().mean().item(),
        }

    def logits(self, images: ImageSet) -> Tensor:
        """Logits (B, labels) of unchanged pictures, computed in batches."""
        parts = torch.split(images.pixels, 512)
        return torch.cat([self.model(self._device(self._normalise(part))).cpu() for part in parts])

    def _normalise(self, pixels: Tensor) -> Tensor:
        return normalise(pixels, self.mean, self.std)

    def _device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.model.temperature.device)


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 pictures, on a scale of 0 to 1."""
    values = pixels.transpose(0, 1).flatten(1)  # (3, pixels)
    shares = torch.stack([torch.bincount(v.flatten().int(), minlength=256) for v in values])
    shares = (
        shares.double() / values.shape[1]
    )  # (3, 256): a histogram is exact, and needs no floats
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(-1)
    return mean.float(), variance.sqrt().float()


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that makes softmax(logits / temperature) fit the targets best.

    Guo et al. 2017, "On Calibration of Modern Neural Networks"; logits (B, labels), targets (B,).
    """
    log_temperature = torch.zeros((), requires_grad=True)

    def temperature() -> Tensor:
        # Where every picture is right the best temperature is 0, and no number is divided by that.
        return log_temperature.clamp(-3, 3).exp()

    optimizer = torch.optim.LBFGS([log_temperature], max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits / temperature(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(temperature().detach())
