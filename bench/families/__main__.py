"""Export each checkpoint by the command line, and print what that took."""

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.contender import ROOT
from bench.machine import machine
from bench.models import BUILD

FOLDER = BUILD / "families"
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Export:
    """What one run of attendant-export came to."""

    seconds: float
    peak_bytes: int  # resident, of the whole process
    status: int


def main() -> int:
    """Measure; returns 1 where an export failed."""
    chosen = _parser().parse_args()
    print(f"{machine()}\n", flush=True)
    lines = [
        "| checkpoint | GB | seconds | peak GiB | beside the checkpoint |",
        "| --- | --: | --: | --: | --: |",
    ]
    failed = False
    idle = _export_nothing()
    for name in chosen.names:
        checkpoint, bundle = FOLDER / name, FOLDER / "models" / name / "1"
        _prepare(name, checkpoint)
        shutil.rmtree(bundle, ignore_errors=True)
        found = export(checkpoint, bundle, "--precision", chosen.precision)
        failed |= found.status != 0
        size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        ratio = (found.peak_bytes - idle.peak_bytes) / size
        lines.append(
            f"| {name} | {size / 1e9:.2f} | {found.seconds:.0f} | {found.peak_bytes / GIB:.2f} "
            f"| {ratio:.2f} x without {idle.peak_bytes / GIB:.2f} GiB of imports |"
        )
        if not chosen.keep:
            shutil.rmtree(checkpoint)
    print("\n" + "\n".join(lines))
    return int(failed)


def export(checkpoint: Path, bundle: Path, *flags: str) -> Export:
    """Run `attendant-export huggingface` in a process of its own."""
    return _measured("-m", "export", "huggingface", checkpoint, "--output", bundle, *flags)


def _export_nothing() -> Export:
    """What a process takes that imports all that an export does, and ends."""
    modules = "onnxruntime, torch, transformers, export.huggingface.importing"
    kinds = "transformers.MarianMTModel, transformers.ViTForImageClassification"
    return _measured("-c", f"import {modules}; {kinds}")


def _measured(*arguments: str | Path) -> Export:
    begun = time.monotonic()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *map(str, arguments)],
        os.environ | {"PYTHONPATH": str(ROOT)},
    )
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - begun
    return Export(seconds, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))


def _prepare(name: str, checkpoint: Path) -> None:
    if checkpoint.is_dir():
        return
    code = (
        "import sys; from pathlib import Path; from bench.families.checkpoints import CHECKPOINTS; "
        "CHECKPOINTS[sys.argv[1]](Path(sys.argv[2]))"
    )
    made = _measured("-c", code, name, checkpoint)  # its memory is then not this process's
    if made.status:
        shutil.rmtree(checkpoint, ignore_errors=True)
        raise SystemExit(f"{name} could not be made")


def _parser() -> argparse.ArgumentParser:
    names = ("opus-mt", "nllb-600m", "vit-b16")
    parser = argparse.ArgumentParser(prog="python -m bench.families", description=__doc__)
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--precision", default="fp32,int8")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    return parser


if __name__ == "__main__":
    sys.exit(main())
