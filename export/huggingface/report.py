"""The closing table of an export: how large each precision is, and how close to the checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.generation import has_default_length
from service.bundle import Bundle, precision_bytes

TITLES = ("", "MB", "largest logit difference", "of logits up to")
ALIKE = {"translation": "greedy ids alike", "classification": "top 5 alike"}


class Found(Protocol):
    """What was found about a precision beside the checkpoint."""

    @property
    def logits_error(self) -> float:
        """The largest difference."""

    @property
    def largest_logit(self) -> float:
        """Of the checkpoint's."""

    @property
    def alike(self) -> tuple[int, int]:
        """How many answers are the same, of how many."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what was found about it."""

    bundle: Bundle
    checkpoint_bytes: int
    sizes: Mapping[str, int]  # bytes, by precision
    parity: Mapping[str, Found]
    seconds: float
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, bundle: Bundle, parity: Mapping[str, Found], *, seconds: float
    ) -> "Report":
        """The report of a bundle that has been written."""
        notes = []
        if bundle.task == "translation" and has_default_length(checkpoint):
            limit = bundle.translation.decoding.max_target_tokens
            notes.append(
                f"The checkpoint names no max_length: as in transformers, {limit} tokens are the "
                "default. Callers may ask for more."
            )
        sizes = {name: precision_bytes(bundle.folder, bundle.card, name) for name in parity}
        return cls(bundle, checkpoint.tensors.num_bytes, sizes, parity, seconds, tuple(notes))

    def table(self) -> str:
        """For people."""
        titles = (*TITLES, ALIKE[self.bundle.task])
        rows = [titles, ("checkpoint", f"{self.checkpoint_bytes / 1e6:.1f}", "", "", "")]
        for name, found in self.parity.items():
            alike = "{} of {}".format(*found.alike)
            rows.append(
                (
                    name,
                    f"{self.sizes[name] / 1e6:.1f}",
                    f"{found.logits_error:.2g}",
                    f"{found.largest_logit:.3g}",
                    alike,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            ).rstrip()
            for row in rows
        ]
        bundle = self.bundle
        last = f"{bundle.folder}: {bundle.name}/{bundle.version}, in {self.seconds:.1f} s"
        return "\n".join([*lines, *self.notes, last])
