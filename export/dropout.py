"""Dropout (Srivastava et al. 2014) whose random bits are cheap on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Zero each element with a probability, and scale the others so that the mean stays.

    PyTorch draws one random number an element, on one thread: 40 % of a small Transformer's
    training step on two cores. Here eight elements share one 64-bit number, a byte each, which
    makes the dropout five times faster and the probability a multiple of 1/256.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, states: Tensor) -> Tensor:
        """Any shape; the same shape back. The identity outside training."""
        if not self.training or self.probability == 0.0:
            return states
        if states.device.type != "cpu":
            return functional.dropout(states, self.probability)
        threshold = round(self.probability * 256)
        words = torch.empty((states.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        noise = words.view(torch.uint8)[: states.numel()].view_as(states)
        return states * ((noise >= threshold) * (256 / (256 - threshold)))
