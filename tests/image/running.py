"""Runs what an image says as a cluster would: its own user, no privileges, a read-only root."""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.image.building import Image
from tests.server_process import Ports

# In a mount namespace of its own. Every step is an exec: the server gets the caller's signals.
ENTER = """
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
if [ -n "$MODELS" ]; then mount --bind -o ro "$MODELS" "$root/models"; fi
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec="$user" "$root" env -i "$@"
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server in the image, ready."""

    pid: int
    ports: Ports


def start(
    image: Image,
    command: Sequence[str],
    environment: Mapping[str, str],
    models: Path | None = None,
) -> subprocess.Popen[str]:
    """A command in the image; `models` is mounted at /models."""
    variables = [*image.config["Env"], *(f"{key}={value}" for key, value in environment.items())]
    enter = ["unshare", "--mount", "sh", "-euc", ENTER, "enter"]
    return subprocess.Popen(
        [*enter, str(image.root), image.config["User"], *variables, *command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MODELS": str(models or "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(image: Image, models: Path | None = None) -> Iterator[Running]:
    """The image's entry point on free ports, which must end well when the block is left."""
    ports = {"ATTENDANT_GRPC_PORT": "0", "ATTENDANT_HTTP_PORT": "0", "ATTENDANT_DEVICE": "cpu"}
    process = start(image, image.config["Entrypoint"], ports, models)
    try:
        yield Running(process.pid, _ports_when_ready(process))
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def _ports_when_ready(process: subprocess.Popen[str]) -> Ports:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.rstrip().endswith(" ready"):
            break
    found = re.search(r"gRPC port (\d+), HTTP port (\d+)", "".join(lines))
    assert found, "".join(lines)
    return Ports(*found.groups())
