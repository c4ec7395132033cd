"""A Ray cluster of two nodes on this machine, and Attendant on it as deploy/ray configures it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from attendant import AttendantError, Client
from tests.scale.replicas import ROOT

START_SECONDS = 120
HOST = "127.0.0.1"
NUM_NODES = 2
READY = re.compile(r"a replica is ready, HTTP port (\d+)")
SCRIPTS = Path(sys.executable).parent
NODE_FLAGS = [
    *("--block", f"--node-ip-address={HOST}", "--num-cpus=1", "--disable-usage-stats"),
    *("--object-store-memory=80000000", "--include-log-monitor=false"),
    # Any: the usual range would hold what `free_port` finds.
    *("--min-worker-port=0", "--max-worker-port=0"),
]


class RayCluster:
    """Two nodes of one CPU, a proxy on each and room for a replica on each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = f"{HOST}:{free_port()}"
        self._ports = {name: free_port() for name in ("grpc", "http", "other grpc", "other http")}
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def proxies(self) -> list[str]:
        """Where the proxies take gRPC calls: that of the head, which stays, first."""
        return [f"{HOST}:{self._ports[name]}" for name in ("grpc", "other grpc")]

    def start(self) -> None:
        """Both nodes, then the application, which has to be complete only after `complete`."""
        port = self._address.rpartition(":")[2]
        head = ["--head", f"--port={port}", f"--temp-dir={self._folder}"]
        self._start_node(*head, "--include-dashboard=false")
        wait_for(lambda: is_open(int(port)))
        self._start_node(f"--address={self._address}")
        config = self._folder / "serve.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        run = [str(SCRIPTS / "serve"), "run", "--non-blocking", "--address", self._address]
        subprocess.run([*run, str(config)], check=True, cwd=ROOT, env=self._environment())

    def complete(self) -> None:
        """Start the second node if it is not there; wait until both proxies and replicas serve."""
        if len(self._nodes) < NUM_NODES:
            self._start_node(f"--address={self._address}")
        wait_for(lambda: len(self.replicas()) == NUM_NODES)
        for proxy in self.proxies:
            with Client(proxy) as client:
                wait_for(lambda client=client: is_serving(client))

    def replicas(self) -> list[str]:
        """The HTTP ports of the replicas that are ready, as their logs say."""
        logs = (self._folder / "session_latest" / "logs").glob("worker-*.err")
        ports = {port for log in logs for port in READY.findall(log.read_text())}
        return sorted(port for port in ports if is_open(int(port)))

    def kill_node(self) -> None:
        """The second one, with all that runs on it, at once."""
        kill_all(self._nodes.pop())

    def end(self) -> None:
        """Leave nothing behind."""
        while self._nodes:
            kill_all(self._nodes.pop())

    def _start_node(self, *flags: str) -> None:
        command = [str(SCRIPTS / "ray"), "start", *NODE_FLAGS, *flags]
        with (self._folder / "nodes.log").open("ab") as log:
            node = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(), stdout=log, stderr=subprocess.STDOUT
            )
        self._nodes.append(node)

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_WORKER_PROXY_GRPC_PORT": str(self._ports["other grpc"]),
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self._ports["other http"]),
            # Else no call would cross from one node to the other, as many do on a larger cluster.
            "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
        }

    def _config(self) -> dict[str, Any]:
        """That of deploy/ray, for nodes of one CPU on one machine."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())
        config["grpc_options"]["port"] = self._ports["grpc"]
        config["http_options"]["port"] = self._ports["http"]
        [application] = config["applications"]
        application["args"] |= {"models": str(ROOT / "models"), "decode_workers": 1}
        [deployment] = application["deployments"]
        deployment["ray_actor_options"]["num_cpus"] = 1
        deployment["autoscaling_config"]["max_replicas"] = NUM_NODES
        return config


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Started, and ended with every process of it."""
    cluster = RayCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """A process and those that it and they have started."""
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """As Linux tells: the children of each thread, and theirs."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found += [child, *descendants(child)]
    return found


def free_port() -> int:
    """Ray has to be told its ports."""
    with socket.create_server((HOST, 0)) as found:
        port: int = found.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def is_serving(client: Client) -> bool:
    """Whether some replica says so through the client's proxy."""
    with suppress(AttendantError):
        return client.health() == "SERVING"
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(0.05)


def counted(port: str, pattern: str) -> int:
    """The sum of the lines of a replica's /metrics that begin so."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as page:
        lines = re.findall(rf"^{pattern} (\S+)$", page.read().decode(), re.MULTILINE)
    return int(sum(map(float, lines)))
