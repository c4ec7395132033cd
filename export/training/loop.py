"""The training loop: knows steps, epochs, checkpoints and averages; nothing of text or pictures.

A run that is killed goes on from its last checkpoint and ends in the same weights, bit for bit,
as one that was not: an epoch's batches depend on the seed and the epoch alone, and a checkpoint
holds the weights, the optimizer, the generator of dropout and the place within the epoch.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from export.training.curves import draw_curves
from export.training.progress import ProgressLine
from export.training.run_folder import RunFolder, average_weights


@dataclass(frozen=True, slots=True)
class OptimizationConfig:
    """How a model is trained, whatever it is."""

    epochs: int = 40
    learning_rate: float = 2e-3  # the peak, reached after the warm-up
    warmup_steps: int = 800
    weight_decay: float = 0.0
    gradient_clip: float = 1.0  # largest norm of a step's gradient
    label_smoothing: float = 0.1
    average_checkpoints: int = 10  # at most so many epochs' weights are averaged at the end
    patience: int = 10  # epochs without a better validation loss before training stops
    checkpoint_seconds: float = 300.0
    seed: int = 1


class TrainingTask(Protocol):
    """What the loop needs to know of a model and its data."""

    unit: str  # what `num_units` counts, for the speed: "target tokens", "images"

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def epoch_batches(self, epoch: int) -> Sequence[Any]:
        """All batches of an epoch, a function of the seed and the epoch alone."""

    def loss(self, batch: Any) -> Tensor:
        """The mean training loss of a batch, a scalar."""

    def num_units(self, batch: Any) -> int:
        """How much work a batch is."""

    def validate(self) -> dict[str, float]:
        """Figures on validation data in evaluation mode, "loss" among them."""


@dataclass(slots=True)
class Progress:
    """Where training stands: all of it is in the checkpoint."""

    epoch: int = 0
    batch: int = 0  # of this epoch's batches, how many are done
    step: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0  # sum over this epoch's batches
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def epochs_since_best(self) -> int:
        """How long ago the validation loss was at its lowest."""
        losses = [record["valid_loss"] for record in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


class Trainer:
    """Trains one task in one run folder."""

    def __init__(self, task: TrainingTask, config: OptimizationConfig, run: RunFolder) -> None:
        self.task = task
        self.config = config
        self.run = run
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(task.model, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-9,
        )
        self.progress = Progress()
        self._saved_at = time.monotonic()

    def train(self) -> dict[str, float]:
        """Train from where the run stands to its end. Returns the figures of the final weights."""
        torch.manual_seed(self.config.seed)
        self._resume()
        while not self._finished():
            self._train_epoch()
            self._end_epoch()
        return self._finish()

    def _finished(self) -> bool:
        out_of_patience = self.progress.epochs_since_best >= self.config.patience
        return self.progress.epoch >= self.config.epochs or out_of_patience

    def _train_epoch(self) -> None:
        progress = self.progress
        batches = self.task.epoch_batches(progress.epoch)
        line = ProgressLine(self.run, self.config.epochs, len(batches), self.task.unit)
        self.task.model.train()
        for index in range(progress.batch, len(batches)):
            begun = time.monotonic()
            self._step(batches[index], share=(progress.epoch + index / len(batches)))
            progress.batch = index + 1
            progress.seconds += time.monotonic() - begun
            line.update(progress, self.task.num_units(batches[index]))
            if time.monotonic() - self._saved_at > self.config.checkpoint_seconds:
                self._save()
        line.close()

    def _step(self, batch: Any, share: float) -> None:
        self.progress.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(share / self.config.epochs)
        loss = self.task.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.progress.epoch_loss += loss.item()

    def _learning_rate(self, share: float) -> float:
        """Linear warm-up, then half a cosine to nothing (Loshchilov and Hutter 2017)."""
        warmup = min(1.0, self.progress.step / self.config.warmup_steps)
        return self.config.learning_rate * min(warmup, (1 + math.cos(math.pi * share)) / 2)

    def _end_epoch(self) -> None:
        progress = self.progress
        figures = self._validate()
        record = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.epoch_loss / progress.batch,
            **{f"valid_{name}": value for name, value in figures.items()},
        }
        progress.history.append(record)
        self.run.save_snapshot(progress.epoch, self.task.model.state_dict())
        progress.epoch, progress.batch, progress.epoch_loss = progress.epoch + 1, 0, 0.0
        self._save()
        self.run.drop_snapshot(progress.epoch - 1 - self.config.average_checkpoints)
        self._show_history()
        print("  ".join(f"{k} {v:.4g}" for k, v in record.items()), flush=True)

    def _show_history(self) -> None:
        self.run.write_log(self.progress.history)
        draw_curves(self.progress.history, self.run.path / "curves.png")

    def _finish(self) -> dict[str, float]:
        """Average the last 1, 2, 4, ... snapshots and keep whichever validates best."""
        last = self.progress.epoch
        best: dict[str, float] = {"loss": math.inf}
        for count in (1, 2, 3, 5, 7, 10, 15, 20):
            if count > min(self.config.average_checkpoints, last):
                break
            snapshots = [self.run.load_snapshot(epoch) for epoch in range(last - count, last)]
            weights = average_weights(snapshots)
            self.task.model.load_state_dict(weights)
            figures = self._validate()
            print(f"average of {count}: validation loss {figures['loss']:.4f}", flush=True)
            if figures["loss"] < best["loss"]:
                best = {**figures, "averaged": count, "hours": self.progress.seconds / 3600}
                self.run.save_weights(weights)
        self.task.model.load_state_dict(self.run.load_weights())
        self.run.write_progress({"finished": 1, **best})
        return best

    def _validate(self) -> dict[str, float]:
        self.task.model.eval()
        with torch.no_grad():
            return self.task.validate()

    def _save(self) -> None:
        progress = self.progress
        state = {name: getattr(progress, name) for name in Progress.__slots__}
        state["model"] = self.task.model.state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["generator"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda_generator"] = torch.cuda.get_rng_state()
        self.run.save_checkpoint(state)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        state = self.run.load_checkpoint()
        if state is None:
            return
        for name in Progress.__slots__:
            setattr(self.progress, name, state[name])
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        if "cuda_generator" in state:
            torch.cuda.set_rng_state(state["cuda_generator"])
        if self.progress.history:
            self._show_history()  # it may have been killed between the checkpoint and the log
        print(f"resumed at epoch {self.progress.epoch + 1}, step {self.progress.step}", flush=True)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay shrinks matrices; biases and norms are no part of what it should keep small."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
