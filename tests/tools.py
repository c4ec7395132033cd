"""Tools that only some tests need: where one is missing, the test skips and says what to install.

With CI=true in the environment the skip is a failure, or a test might never run and nobody notice.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUF = ROOT / "examples" / "node" / "node_modules" / ".bin" / "buf"
JAVA_LIBRARIES = Path("/usr/share/java")


def require_tool(name: str) -> None:
    """A command, on the PATH."""
    if not shutil.which(name):
        skip(f"{name} is not installed: `deploy/install-test-tools` does it, as root on Debian")


def require_node() -> None:
    """Node.js and the packages of examples/node."""
    require_tool("node")
    if not BUF.exists():
        skip(f"{BUF} is missing: `make install-test` puts it there, once npm is installed")


def require_buf() -> str:
    """The buf command, which is one of those packages."""
    require_node()
    return str(BUF)


def require_java() -> None:
    """Java, protoc, and Debian's gRPC for Java."""
    for tool in ("javac", "protoc", "grpc_java_plugin"):
        require_tool(tool)
    if not (JAVA_LIBRARIES / "grpc-netty.jar").exists():
        skip(f"{JAVA_LIBRARIES} has no gRPC: `deploy/install-test-tools` installs it, as root")


def require_root() -> None:
    """The rights of root, to mount and to change the user."""
    if os.geteuid() != 0:
        skip("building and running the image needs root: it mounts file systems")


def skip(sentence: str) -> NoReturn:
    """Skips the test, or fails it where CI=true."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
