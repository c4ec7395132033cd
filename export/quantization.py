"""int8: weights with a scale a column, activations with ranges found by calibration.

Calibration runs the PyTorch model, by teacher forcing, one sample at a time: padding is no
activation that a real token has.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.seq2seq import Transformer, shift_right
from export.vit import VisionTransformer

Floats = NDArray[np.float32]
TokenIds = Sequence[int]

UNSIGNED_ZERO = 128  # the uint8 that stands for 0.0 where activations have both signs
INT8_MAX = 127
LOGITS_SOURCE = "decoder_norm"  # the module whose output the logits are computed from


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value an activation takes."""

    low: float
    high: float

    def widened(self, states: Tensor) -> "Range":
        """The range that also holds these values."""
        return Range(min(self.low, float(states.min())), max(self.high, float(states.max())))


NOTHING = Range(0.0, 0.0)


def quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """int8 values and the scale of every column: weight (I, O) ~ values (I, O) * scale (O,)."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / INT8_MAX, 1.0).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def scale_of(activation: Range) -> tuple[float, int]:
    """Scale and zero point that spread a range over uint8; 0.0 is always exact."""
    if activation.low >= 0:  # behind a ReLU: all 255 steps for one sign
        return max(activation.high, 1e-12) / 255, 0
    largest = max(-activation.low, activation.high)
    return largest / INT8_MAX, UNSIGNED_ZERO


def calibrate_translation(
    model: Transformer, pairs: Iterable[tuple[TokenIds, TokenIds]]
) -> dict[str, Range]:
    """The range of what every product reads, over pairs of ids that end with the end token."""

    def run() -> None:
        for source, target in pairs:
            input_ids = torch.tensor([source])
            decoder_input_ids = shift_right(torch.tensor([target]), model.config.pad_token_id)
            model(input_ids, torch.ones_like(input_ids), decoder_input_ids)

    return _observe(model, run)


def calibrate_classification(model: VisionTransformer, pictures: Tensor) -> dict[str, Range]:
    """The range of what every product reads, over pictures (B, 3, height, width)."""

    def run() -> None:
        for picture in pictures:
            model(picture[None])

    return _observe(model, run)


def _observe(model: nn.Module, run: Callable[[], None]) -> dict[str, Range]:
    # The largest values, as they are: measured on a trained model, those of 100 sentences serve as
    # well as those of 400 or their 90th percentile, and a margin beyond them serves less.
    observed: dict[str, Range] = {}
    training, threads = model.training, torch.get_num_threads()
    torch.set_num_threads(1)  # samples are small: two threads only wait for each other
    try:
        with torch.no_grad(), _hooks(model, observed):
            model.eval()
            run()
    finally:
        torch.set_num_threads(threads)
        model.train(training)
    if not observed:
        raise ValueError("calibration needs at least one sample")
    return observed


@contextmanager
def _hooks(model: nn.Module, observed: dict[str, Range]) -> Iterator[None]:
    """Record the input of every linear map, and the output of the last norm."""

    def watch(name: str, states: Tensor) -> None:
        observed[name] = observed.get(name, NOTHING).widened(states)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, inputs, name=name: watch(name, inputs[0])
                )
            )
        elif name == LOGITS_SOURCE:
            handles.append(
                module.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
