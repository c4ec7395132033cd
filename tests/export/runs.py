"""Tiny data sets, and commands that train on them in seconds."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from export.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 120.0

COLOURS = {"red": "rote", "blue": "blaue", "old": "alte", "small": "kleine"}
ANIMALS = {"dog": "Hund", "bird": "Vogel", "horse": "Gaul", "fish": "Fisch", "bear": "Bär"}
VERBS = {"runs": "rennt", "sleeps": "schläft", "eats": "frisst", "sings": "singt"}


def write_text(folder: Path) -> tuple[Path, Path]:
    """80 sentences and their translations."""
    choices = itertools.product(COLOURS.items(), ANIMALS.items(), VERBS.items())
    pairs = [(f"The {c} {a} {v}.", f"Der {k} {t} {w}.") for (c, k), (a, t), (v, w) in choices]
    random.Random(1).shuffle(pairs)
    source, target = folder / "text.en", folder / "text.de"
    source.write_text("".join(f"{line}\n" for line, _ in pairs), encoding="utf-8")
    target.write_text("".join(f"{line}\n" for _, line in pairs), encoding="utf-8")
    return source, target


def write_pictures(
    folder: Path, labels: Sequence[str] = ("dark", "light"), count: int = 24
) -> Path:
    """Noise of another brightness for each label."""
    generator = np.random.default_rng(1)
    for index, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        levels = np.linspace(0, 255, len(labels) + 1).astype(int)
        for number in range(count):
            pixels = generator.integers(levels[index], levels[index + 1], (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:04}.png")
    return folder


def translation_command(data: Path, run: Path, *further: str) -> list[str]:
    files = [str(data / name) for name in ("text.en", "text.de")]
    return [
        *("train", "translation", "--run", str(run), "--train", *files, "--valid", *files),
        *("--vocab-size", "320", "--max-tokens", "48", "--warmup-steps", "40", "--epochs", "3"),
        *("--d-model", "32", "--num-heads", "2", "--ffn-size", "48", "--dropout", "0.1"),
        *("--encoder-layers", "1", "--decoder-layers", "1", "--max-positions", "128"),
        *("--max-length", "96", "--learning-rate", "0.005", "--device", "cpu", *further),
    ]


def classification_command(pictures: Path, run: Path, *further: str) -> list[str]:
    return [
        *("train", "classification", "--run", str(run), "--train", str(pictures)),
        *("--image-size", "8", "--d-model", "16", "--num-heads", "2", "--ffn-size", "16"),
        *("--layers", "1", "--stem-channels", "8", "--batch-size", "2", "--valid-share", "0.25"),
        *("--epochs", "3", "--warmup-steps", "10", "--device", "cpu", *further),
    ]


def train_through_kills(command: Sequence[str], run: RunFolder, kills: int, seed: int) -> None:
    """Run the command in a process that is killed some checkpoints after each start."""
    rng = random.Random(seed)
    for _ in range(kills):
        with start(command) as process:
            try:
                wait_for_checkpoints(process, run.path / "checkpoint.pt", rng.randint(2, 6))
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not (run.path / "weights.pt").exists()
    with start(command) as process:
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, output
    assert "resumed at epoch" in output


def start(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "export", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many as in this process: the same bits
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoints(process: "subprocess.Popen[str]", file: Path, count: int) -> None:
    """Return when the file has been replaced so many times."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    seen = version(file)
    while count:
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "no progress"
        now = version(file)
        count -= now != seen
        seen = now
        time.sleep(0.001)


def version(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def same_bits(a: RunFolder, b: RunFolder) -> bool:
    """Whether two runs have ended in the same weights."""
    first, second = a.load_weights(), b.load_weights()
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
