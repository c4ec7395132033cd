"""int8: weights with a scale a column, activations with ranges found by calibration.

Calibration runs the PyTorch model, by teacher forcing, one sample at a time: padding is no
activation that a real token has.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
CACHED = re.compile(r"decoder_layers\.\d+\.(self|cross)_attn\.[kv]_proj")  # modules
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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a model's activations were over some samples, by the name of the module."""

    activations: dict[str, Range] = field(default_factory=dict)  # what every product reads
    # The largest absolute value of every output (d_model,) of the decoder's key and value
    # projections: what the attention caches hold.
    caches: dict[str, Floats] = field(default_factory=dict)


def quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """int8 values and the scale of every column: weight (I, O) ~ values (I, O) * scale (O,)."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / INT8_MAX, 1.0).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def cache_scale(largest: Floats) -> Floats:
    """The step (...) of int8 values up to the largest absolute ones (...)."""
    return np.maximum(largest, 1e-12).astype(np.float32) / np.float32(INT8_MAX)


def scale_of(activation: Range) -> tuple[float, int]:
    """Scale and zero point that spread a range over uint8; 0.0 is always exact."""
    if activation.low >= 0:  # behind a ReLU: all 255 steps for one sign
        return max(activation.high, 1e-12) / 255, 0
    largest = max(-activation.low, activation.high)
    return largest / INT8_MAX, UNSIGNED_ZERO


def calibrate_translation(
    model: Transformer, pairs: Iterable[tuple[TokenIds, TokenIds]], start: int | None = None
) -> Calibration:
    """Of what products read and caches hold, over pairs of ids that end with the end token.

    A target begins with `start`, or else with padding as our own models do.
    """
    first = model.config.pad_token_id if start is None else start

    def run() -> None:
        for source, target in pairs:
            input_ids = torch.tensor([source])
            decoder_input_ids = shift_right(torch.tensor([target]), first)
            model(input_ids, torch.ones_like(input_ids), decoder_input_ids)

    return _observe(model, run)


def calibrate_classification(model: VisionTransformer, pictures: Iterable[Tensor]) -> Calibration:
    """Of what every product reads, over pictures (3, height, width)."""

    def run() -> None:
        for picture in pictures:
            model(picture[None])

    return _observe(model, run)


def _observe(model: nn.Module, run: Callable[[], None]) -> Calibration:
    # The largest values, as they are: measured on a trained model, those of 100 sentences serve as
    # well as those of 400 or their 90th percentile, and a margin beyond them serves less.
    observed = Calibration()
    training = model.training
    try:
        with one_thread(), torch.no_grad(), _hooks(model, observed):
            model.eval()
            run()
    finally:
        model.train(training)
    if not observed.activations:
        raise ValueError("calibration needs at least one sample")
    return observed


@contextmanager
def one_thread() -> Iterator[None]:
    """For PyTorch on single sentences: two threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _hooks(model: nn.Module, observed: Calibration) -> Iterator[None]:
    """Record the input of every linear map, the output of the last norm, and what is cached."""
    activations, caches = observed.activations, observed.caches

    def watch(name: str, states: Tensor) -> None:
        activations[name] = activations.get(name, NOTHING).widened(states)

    def watch_cache(name: str, states: Tensor) -> None:
        largest: Floats = (
            states.abs().flatten(0, -2).amax(0).numpy()
        )  # (..., d_model) -> (d_model,)
        caches[name] = np.maximum(caches.get(name, largest), largest)

    handles = []
    for name, module in model.named_modules():
        if CACHED.fullmatch(name):
            handles.append(
                module.register_forward_hook(
                    lambda _, __, output, name=name: watch_cache(name, output)
                )
            )
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
