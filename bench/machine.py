"""The machine and the versions that figures were measured with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

# Of x86 processors, by the names that Linux gives them; int8 products depend on them most of all.
EXTENSIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
}


def machine() -> str:
    """Cores, processor, what it multiplies integers with, and versions, in words."""
    text = Path("/proc/cpuinfo").read_text()
    names = (
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    )
    processor = next(names, platform.processor())
    known = set(text.split())
    extensions = [name for flag, name in EXTENSIONS.items() if flag in known]
    processor += f" ({', '.join(extensions) or 'without vector extensions'})"
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "numpy"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {processor}; Python {platform.python_version()}, {packages}"
