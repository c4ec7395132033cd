"""The two balancers as they are configured in deploy/, before servers on this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.scale.replicas import ROOT, Replica
from tests.tools import require_tool, skip

START_SECONDS = 30
HOST = "127.0.0.1"


@contextmanager
def envoy(replicas: list[Replica], folder: Path) -> Iterator[str]:
    """Envoy's address. Only its ports, and those of the servers, differ from the file's."""
    command = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if command is None:
        skip("envoy is not installed: `make install-test` does it on Linux, x86_64")
    config = yaml.safe_load((ROOT / "deploy" / "envoy" / "envoy.yaml").read_text())
    [listener], [cluster] = (config["static_resources"][key] for key in ("listeners", "clusters"))
    listener["address"] = _address(0)
    config["admin"]["address"] = _address(0)
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": _address(int(replica.ports.grpc))}} for replica in replicas
    ]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(config))
    admin = folder / "admin"
    flags = ["--use-dynamic-base-id", "--log-level", "warning", "--concurrency", "1"]
    flags += ["--config-path", str(folder / "envoy.yaml"), "--admin-address-path", str(admin)]
    with _running([command, *flags]) as process:
        yield _envoy_address(process, admin)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _envoy_address(process: subprocess.Popen[bytes], admin: Path) -> str:
    """Where it listens, which it does when every server's health has been asked once."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if admin.exists() and (where := admin.read_text()):
            with urllib.request.urlopen(f"http://{where}/listeners") as page:
                if line := page.read().decode().strip():
                    return line.removeprefix("grpc::")
        time.sleep(0.05)
    raise AssertionError(f"Envoy does not listen; exit status {process.poll()}")


@contextmanager
def haproxy(replicas: list[Replica], folder: Path) -> Iterator[str]:
    """HAProxy's address. Its configuration is the file's; the port is opened here and handed on."""
    require_tool("haproxy")
    with socket.create_server((HOST, 0)) as listening:
        environment = dict(os.environ)
        environment["ATTENDANT_BIND"] = f"fd@{listening.fileno()}"
        for number, replica in enumerate(replicas, 1):
            environment[f"ATTENDANT_SERVER_{number}"] = f"{HOST}:{replica.ports.grpc}"
            environment[f"ATTENDANT_READY_PORT_{number}"] = replica.ports.http
        command = ["haproxy", "-f", str(ROOT / "deploy" / "haproxy" / "haproxy.cfg")]
        descriptors = (listening.fileno(),)
        with _running(command, env=environment, pass_fds=descriptors, cwd=folder):
            yield f"{HOST}:{listening.getsockname()[1]}"


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, **options)
    try:
        yield process
        assert process.poll() is None, "the balancer has ended"
    finally:
        process.terminate()
        process.wait(timeout=30)
