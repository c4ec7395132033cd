"""The README is run as a reader would run it, and its tables are held against the code."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from service.errors import AttendantError
from service.metrics import Metrics
from service.settings import Settings
from tests.server_process import Ports, serving
from tests.tools import require_java, require_node, require_tool

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
# A block of code with, behind it, a block of what it prints; neither has a fence inside.
BLOCK = re.compile(
    r"^```(sh|python)\n((?:(?!```).)*)^```\n\n```text\n((?:(?!```).)*)^```$",
    re.DOTALL | re.MULTILINE,
)


# What a block needs that not every machine has.
REQUIREMENTS = {
    "node examples/": require_node,
    "examples/java/": require_java,
    "curl ": partial(require_tool, "curl"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Ports]:
    """A real server on the models of the repository."""
    with serving() as ports:
        yield ports


@pytest.mark.parametrize(("language", "code", "expected"), BLOCK.findall(README))
def test_a_block_of_the_readme_prints_what_it_says(
    server: Ports, language: str, code: str, expected: str
) -> None:
    for command, require in REQUIREMENTS.items():
        if command in code:
            require()
    code = code.replace("localhost:50051", f"localhost:{server.grpc}")
    code = code.replace("localhost:8080", f"localhost:{server.http}")
    code = code.replace(".venv/bin/attendant", f"{sys.executable} -m attendant")
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-c", code]
    environment = os.environ | {"ATTENDANT_TARGET": f"localhost:{server.grpc}"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == (expected, "", 0)


def test_the_readme_has_blocks_that_are_run() -> None:
    assert len(BLOCK.findall(README)) >= 5


@pytest.mark.parametrize(
    ("language", "path"), [("js", "examples/node/call.mjs"), ("java", "examples/java/Call.java")]
)
def test_a_program_in_the_readme_is_the_file_that_is_run(language: str, path: str) -> None:
    assert f"[{path}]({path}):\n\n```{language}\n{(ROOT / path).read_text()}```\n" in README


def test_the_first_runnable_block_is_near_the_top() -> None:
    assert README[: README.index("```sh")].count("\n") < 25


def settings_rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        value = field.default
        default = "" if value in (None, ()) else str(value)
        yield f"| `{name}` | {default} | {field.description} |"


def error_rows() -> Iterator[str]:
    def leaves(kind: type[AttendantError]) -> Iterator[type[AttendantError]]:
        for child in kind.__subclasses__():
            yield child
            yield from leaves(child)

    for kind in leaves(AttendantError):
        assert kind.__doc__ is not None
        yield f"| {kind.status} | `{kind.reason}` | {kind.__doc__.splitlines()[0]} |"


def metric_rows() -> Iterator[str]:
    for family in Metrics.create().registry.collect():
        if family.name.startswith("attendant_"):
            total = "_total" if family.type == "counter" else ""
            yield f"| `{family.name}{total}` | {family.documentation} |"


@pytest.mark.parametrize("rows", [settings_rows, error_rows, metric_rows])
def test_a_table_of_the_readme_is_complete(rows: type[Iterator[str]]) -> None:
    assert "\n" + "\n".join(rows()) + "\n" in README
