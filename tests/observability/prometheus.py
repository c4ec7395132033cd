"""A real Prometheus, on a free port, with the rules that are shipped, asking quickly."""

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ROOT / "deploy" / "prometheus"
PATIENCE_SECONDS = 30.0


class Prometheus:
    """Asks it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression has now. Raises urllib's HTTPError if it is none."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["data"]["result"]
        return found

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON at a path."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)

    def wait_until(self, expression: str) -> None:
        """Until an expression has a sample."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.query(expression):
                    return
            except OSError:  # it has not begun to listen yet
                pass
            time.sleep(0.1)
        raise TimeoutError(f"nothing for {expression} in {PATIENCE_SECONDS:g} s")


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[Prometheus]:
    """One that scrapes this address, its files in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = (DEPLOYED / "prometheus.yml").read_text()
    configuration = configuration.replace("attendant:8080", target)
    configuration = re.sub(r"_interval: \w+", "_interval: 1s", configuration)
    configuration = configuration.replace("[rules.yml]", f"[{DEPLOYED / 'rules.yml'}]")
    (folder / "prometheus.yml").write_text(configuration)
    process = subprocess.Popen(
        [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(timeout=30)
