"""Environments of peers, one each, beside our own: what they need would not fit into it."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
FOLDER = ROOT / ".build" / "peers"


def names() -> list[str]:
    """The peers that have an environment of their own."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python_of(name: str) -> Path:
    """The peer's Python, whether it is installed or not."""
    return FOLDER / name / "bin" / "python"


def packages_of(name: str) -> Path:
    """Where the peer's Python, of the same version as ours, has its packages."""
    scheme = {"base": str(FOLDER / name), "platbase": str(FOLDER / name)}
    return Path(sysconfig.get_path("platlib", scheme="venv", vars=scheme))


def is_installed(name: str) -> bool:
    """Whether the peer's environment has what its requirements say now."""
    stamp = _stamp(name)
    return stamp.is_file() and stamp.read_text() == _requirements(name).read_text()


def how_to_install(name: str) -> str:
    """One sentence for somebody who lacks it."""
    return f"{name} is not installed: python -m bench.peers install {name}"


def install(name: str) -> None:
    """Make the environment anew. Raises CalledProcessError."""
    folder = FOLDER / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    command = [*("-m", "pip", "install", "--quiet", "--requirement"), str(_requirements(name))]
    subprocess.run([str(python_of(name)), *command], check=True)
    _stamp(name).write_text(_requirements(name).read_text())


def _requirements(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def _stamp(name: str) -> Path:
    return FOLDER / name / "installed.txt"
