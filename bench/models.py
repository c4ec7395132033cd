"""The two models that translate in the benchmarks, in the forms that the contenders load.

What has to be built lies in .build/bench and is built again when what it was built from changes.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.contender import OURS, ROOT
from bench.peers.environments import is_installed, packages_of, python_of

BUILD = ROOT / ".build" / "bench"
SENTENCES = ROOT / "bench" / "sentences.txt"


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A bundle, how much of a target it is asked for, and the checkpoint that it was made of."""

    name: str
    title: str
    bundle: Path
    min_tokens: int
    max_tokens: int
    checkpoint: Path | None = None

    @property
    def weights(self) -> Path:
        """For other environments; see `bench.weights`."""
        return BUILD / "weights" / f"{self.name}.npz"

    @property
    def ctranslate2(self) -> Path:
        """The model for CTranslate2, float32."""
        return BUILD / "ctranslate2" / self.name

    @property
    def models_folder(self) -> Path:
        """What a server is told to serve."""
        return self.bundle.parent.parent


DEFAULT = BenchModel(
    "captions-en-de",
    "default bundle",
    ROOT / "models" / "captions-en-de" / "1",
    min_tokens=0,
    max_tokens=256,
)
# Random weights never stop of themselves.
BASE = BenchModel("base", "base size", BUILD / "translation" / "base" / "1", 24, 24)
MODELS = (DEFAULT, BASE)
# As `attendant-export huggingface` makes it of a checkpoint, with int8 as calibrated.
OPUS = BenchModel(
    "opus-mt",
    "OPUS-MT size",
    BUILD / "translation" / "opus-mt" / "1",
    min_tokens=24,
    max_tokens=24,
    checkpoint=BUILD / "checkpoints" / "opus-mt",
)
ALL_MODELS = (*MODELS, OPUS)

VISION_BUNDLE = BUILD / "vision" / "vit-b16" / "1"
PICTURES = BUILD / "pictures"

EXPORT_SOURCES = tuple(
    sorted([*(ROOT / "export").rglob("*.py"), *(ROOT / "service" / "bundle").rglob("*.py")])
)
FAMILIES_SOURCES = sorted((ROOT / "bench" / "families").glob("*.py"))
CTRANSLATE2_SOURCES = (
    ROOT / "bench" / "weights.py",
    ROOT / "bench" / "peers" / "ct2_model.py",
    ROOT / "bench" / "peers" / "ct2_checkpoint.py",
)


def prepare(model: BenchModel) -> None:
    """Build what is not there or not up to date. Raises CalledProcessError."""
    if model is BASE:
        sources = [*EXPORT_SOURCES, ROOT / "bench" / "base_model.py"]
        make = partial(_run, OURS, "base_model", model.bundle, SENTENCES)
        _build(model.bundle.parent, sources, make)
    elif model is OPUS:
        sources = [*EXPORT_SOURCES, *FAMILIES_SOURCES]
        make = partial(_run, OURS, "families.opus_model", model.checkpoint, model.bundle, SENTENCES)
        _build(model.bundle.parent, sources, make)
    if is_installed("ctranslate2"):
        sources = [model.bundle / "bundle.json", *CTRANSLATE2_SOURCES]
        _build(model.ctranslate2, sources, partial(_convert, model))


def prepare_vision() -> None:
    """Build ViT-B/16 and its pictures, if need be. Raises CalledProcessError."""
    sources = [*EXPORT_SOURCES, ROOT / "bench" / "vision_model.py"]
    _build(VISION_BUNDLE.parent, sources, partial(_run, OURS, "vision_model", VISION_BUNDLE))
    sources = [ROOT / "bench" / "pictures.py"]
    _build(PICTURES, sources, partial(_run, OURS, "pictures", VISION_BUNDLE, PICTURES))


def _convert(model: BenchModel) -> None:
    if model.checkpoint is not None:
        packages = packages_of("ctranslate2")
        _run(OURS, "peers.ct2_checkpoint", model.checkpoint, model.ctranslate2, packages)
        return
    _run(OURS, "weights", model.bundle, model.weights)
    _run(python_of("ctranslate2"), "peers.ct2_model", model.weights, model.ctranslate2)


def _build(folder: Path, sources: Iterable[Path], make: Callable[[], None]) -> None:
    """Make the folder unless it was made from sources like these."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = folder.with_name(f"{folder.name}.built-from")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs at a time one builds
        if stamp.is_file() and stamp.read_text() == digest:
            return
        stamp.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        make()
        stamp.write_text(digest)


def _run(python: Path, module: str, *arguments: Path) -> None:
    command = [str(python), "-m", f"bench.{module}", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
