"""The folder of one training run: its configuration, checkpoint, snapshots, log and curves.

config.json         what is trained and how, written before the first step
checkpoint.pt       all that training needs to go on, replaced as a whole
snapshots/NNNN.pt   the weights after each epoch
log.jsonl           a line an epoch          progress.json   where it stands now
curves.png          the log as a picture     weights.pt      the result
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Reads and writes the files of one run; every file is replaced atomically."""

    path: Path

    def write_config(self, config: dict[str, Any]) -> None:
        """Save the configuration, or check that it is the one the folder was begun with."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "config.json"
        if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(config)):
            raise ValueError(
                f"{file} holds another configuration: use another --run folder, or remove it"
            )
        _replace(file, json.dumps(config, indent=2, ensure_ascii=False).encode())

    def read_config(self) -> dict[str, Any]:
        """The configuration of the run."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return config

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        _save(self.path / "checkpoint.pt", state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None in a new run."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        return _load(file)

    def save_snapshot(self, epoch: int, weights: Weights) -> None:
        """Keep the weights after an epoch."""
        (self.path / "snapshots").mkdir(exist_ok=True)
        _save(self._snapshot(epoch), weights)

    def load_snapshot(self, epoch: int) -> Weights:
        """The weights after an epoch."""
        return _load(self._snapshot(epoch))

    def drop_snapshot(self, epoch: int) -> None:
        """Remove a snapshot that no average will need."""
        self._snapshot(epoch).unlink(missing_ok=True)

    def save_weights(self, weights: Weights) -> None:
        """Write the result of the run."""
        _save(self.path / "weights.pt", weights)

    def load_weights(self) -> Weights:
        """The result of the run."""
        file = self.path / "weights.pt"
        if not file.exists():
            raise ValueError(f"{self.path} has no weights.pt: its training has not ended")
        return _load(file)

    def final_weights(self, snapshots: int | None = None) -> Weights:
        """The result, or the average of so many of the last snapshots of a run still going on."""
        if snapshots is None:
            return self.load_weights()
        epochs = self.snapshot_epochs()[-snapshots:]
        if not epochs:
            raise ValueError(f"{self.path} has no snapshots: its first epoch has not ended")
        return average_weights([self.load_snapshot(epoch) for epoch in epochs])

    def snapshot_epochs(self) -> list[int]:
        """Of which epochs there are snapshots, the first epoch being 0."""
        return sorted(int(path.stem) for path in (self.path / "snapshots").glob("*.pt"))

    def read_log(self) -> list[dict[str, float]]:
        """The log of all epochs that have ended."""
        return [json.loads(line) for line in (self.path / "log.jsonl").read_text().splitlines()]

    def read_progress(self) -> dict[str, float]:
        """Where training stands, or the figures of its result."""
        progress: dict[str, float] = json.loads((self.path / "progress.json").read_text())
        return progress

    def write_log(self, history: list[dict[str, float]]) -> None:
        """Write the log of all epochs."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        _replace(self.path / "log.jsonl", lines.encode())

    def write_progress(self, progress: dict[str, float]) -> None:
        """Say where training stands."""
        _replace(self.path / "progress.json", json.dumps(progress).encode())

    def _snapshot(self, epoch: int) -> Path:
        return self.path / "snapshots" / f"{epoch:04}.pt"


def average_weights(snapshots: list[Weights]) -> Weights:
    """The mean of several snapshots, tensor by tensor, summed in float64."""
    first = snapshots[0]
    if len(snapshots) == 1:
        return first
    return {
        name: torch.stack([weights[name].double() for weights in snapshots])
        .mean(dim=0)
        .to(first[name].dtype)
        for name in first
    }


def _load(file: Path) -> dict[str, Any]:
    # To main memory: what a GPU has trained is bundled on machines without one.
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _save(file: Path, value: object) -> None:
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        torch.save(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    partial.replace(file)
