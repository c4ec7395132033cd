"""The line that says how far training is, how fast, and how long it will still take."""

import sys
import time
from typing import TYPE_CHECKING

from export.training.run_folder import RunFolder

if TYPE_CHECKING:
    from export.training.loop import Progress

SECONDS_BETWEEN_UPDATES = 2.0


class ProgressLine:
    """Prints a line on a terminal, and keeps progress.json current in any case."""

    def __init__(self, run: RunFolder, epochs: int, batches: int, unit: str) -> None:
        self.run = run
        self.epochs = epochs
        self.batches = batches
        self.unit = unit
        self._units = 0
        self._steps = 0
        self._begun = self._shown_at = time.monotonic()

    def update(self, progress: "Progress", units: int) -> None:
        """Count a step of so many units, and show where training stands every two seconds."""
        self._units += units
        self._steps += 1
        now = time.monotonic()
        if now - self._shown_at < SECONDS_BETWEEN_UPDATES:
            return
        self._shown_at = now
        elapsed = now - self._begun
        batches_left = (self.epochs - progress.epoch) * self.batches - progress.batch
        figures = {
            "epoch": progress.epoch + progress.batch / self.batches,
            "epochs": self.epochs,
            "step": progress.step,
            "train_loss": progress.epoch_loss / progress.batch,
            "units_per_second": self._units / elapsed,
            "seconds_left": batches_left * elapsed / self._steps,
        }
        self.run.write_progress(figures)
        if sys.stdout.isatty():
            print("\r" + self._line(figures), end="\x1b[K", flush=True)

    def close(self) -> None:
        """Make room on the terminal for what is printed next."""
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)

    def _line(self, figures: dict[str, float]) -> str:
        minutes, seconds = divmod(round(figures["seconds_left"]), 60)
        return (
            f"epoch {figures['epoch']:.2f} of {self.epochs}  loss {figures['train_loss']:.3f}  "
            f"{figures['units_per_second']:,.0f} {self.unit}/s  {minutes}:{seconds:02} left"
        )
