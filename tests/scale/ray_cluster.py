"""A Ray cluster of two nodes on this machine, and Attendant on it as deploy/ray configures it."""

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from attendant import AttendantError, Client
from bench.processes import kill_tree
from tests.scale.replicas import ROOT

START_SECONDS = 120
HOST = "127.0.0.1"
NUM_NODES = 2
NUM_CALLERS = 8
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
        self.num_replicas_without_load = 0
        self.address = f"{HOST}:{free_port()}"
        self._ports = {name: free_port() for name in ("grpc", "http", "other grpc", "other http")}
        self._token = secrets.token_hex(32)
        self._nodes: list[subprocess.Popen[bytes]] = []

    @property
    def proxies(self) -> list[str]:
        """Where the proxies take gRPC calls: that of the head, which stays, first."""
        return [f"{HOST}:{self._ports[name]}" for name in ("grpc", "other grpc")]

    def start_nodes(self) -> None:
        """Both of them, the head first."""
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", f"--temp-dir={self._folder}"]
        self._start_node(*head, "--include-dashboard=false")
        self._start_node(f"--address={self.address}")

    def start_application(self) -> None:
        """Attendant, which is on both nodes only after `complete`."""
        config = self._folder / "serve.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        run = [str(SCRIPTS / "serve"), "run", "--non-blocking", "--address", self.address]
        subprocess.run([*run, str(config)], check=True, cwd=ROOT, env=self.environment())
        with Client(self.proxies[0]) as client:
            wait_for(lambda: is_serving(client))
        self.num_replicas_without_load = len(self.replicas())

    def complete(self) -> None:
        """Start the second node if it is not there; call until there are as many replicas.

        Ray starts the second replica when more calls run than one should have.
        """
        if len(self._nodes) < NUM_NODES:
            self._start_node(f"--address={self.address}")
        with under_load(self.proxies[0]):
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
        end(self._nodes.pop())

    def end(self) -> None:
        """Leave nothing behind."""
        while self._nodes:
            end(self._nodes.pop())

    def _start_node(self, *flags: str) -> None:
        command = [str(SCRIPTS / "ray"), "start", *NODE_FLAGS, *flags]
        path = self._folder / f"node-{len(self._nodes)}.log"
        with path.open("w") as log:
            node = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        self._nodes.append(node)
        wait_for(lambda: "Ray runtime started" in path.read_text())

    def environment(self) -> dict[str, str]:
        """Of processes that belong to this cluster, or use it."""
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Whatever token the user of this machine has.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
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
        deployment["autoscaling_config"] |= {
            "max_replicas": NUM_NODES,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 1,
        }
        return config


@contextmanager
def ray_nodes() -> Iterator[RayCluster]:
    """Two nodes and nothing on them; ended with every process of theirs."""
    # Ray's sockets have their names from this folder, and these may not be long.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        cluster = RayCluster(Path(folder))
        try:
            cluster.start_nodes()
            yield cluster
        finally:
            cluster.end()


@contextmanager
def under_load(proxy: str) -> Iterator[None]:
    """With callers who call all the time."""
    is_over = threading.Event()

    def call(client: Client) -> None:
        while not is_over.is_set():
            client.translate(["A man is riding a horse on the beach."] * 64, beam_size=4)

    with Client(proxy) as client, ThreadPoolExecutor(NUM_CALLERS) as pool:
        calls = [pool.submit(call, client) for _ in range(NUM_CALLERS)]
        try:
            yield
        finally:
            is_over.set()
        for each in calls:
            each.result()


def end(node: subprocess.Popen[bytes]) -> None:
    """At once, and with all that it has started."""
    kill_tree(node.pid)
    node.wait()


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
