"""What this machine is, as far as answers and speed depend on it."""

import platform
from functools import cache
from pathlib import Path

from service.cores import num_cores
from service.golden import Origin
from service.runtime import RUNTIME_VERSION, has_int8_dot_product

# The instruction sets that ONNX Runtime has kernels of its own for.
_PRODUCT_FLAGS = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "asimdfhm", "i8mm", "bf16", "sve"),
)


def origin_here() -> Origin:
    """The origin of what is answered here."""
    found = [flag for flag in _PRODUCT_FLAGS if flag in _cpu_fields().get("flags", "").split()]
    return Origin(
        processor=processor(),
        arithmetic=" ".join([platform.machine(), *found]),
        onnxruntime=RUNTIME_VERSION,
    )


def processor() -> str:
    """The model of the CPU."""
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def facts() -> dict[str, str]:
    """What to say of the machine and its software."""
    return {
        "processor": f"{processor()}, {num_cores()} cores, {_int8_speed()}",
        "software": f"Python {platform.python_version()}, onnxruntime {RUNTIME_VERSION}",
    }


def _int8_speed() -> str:
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    return "VNNI" if has_int8_dot_product() else "no VNNI: int8 products take a longer way"


@cache
def _cpu_fields() -> dict[str, str]:
    """Of the first core in /proc/cpuinfo; nothing where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    named = {name.strip(): value.strip() for name, _, value in fields}
    return named | {"flags": named.get("flags") or named.get("Features", "")}
