"""docs/security.md names a test for each promise: they exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| (?!threat|---)", line)]


def names_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_threat_names_a_test_that_exists():
    assert len(ROWS) > 15
    for threat, *_, cell in ROWS:
        path, _, name = cell.rstrip(" |").strip("`").partition("::")
        assert (ROOT / path).is_file(), threat
        assert name.startswith("test_"), threat
        assert name in names_of(ROOT / path), threat


def test_every_test_of_security_is_named_or_belongs_to_one():
    """So that a promise is not forgotten here when it gets a test there."""
    path = "tests/service/test_security.py"
    named = {cell.rstrip(" |").strip("`") for *_, cell in ROWS}
    missing = {name for name in names_of(ROOT / path) if f"{path}::{name}" not in named}
    missing = {name for name in missing if name.startswith("test_")}

    # What makes guards usable rather than guards.
    assert missing == {
        "test_a_known_token_opens_both_ports",
        "test_files_that_are_no_certificates_end_the_start_with_a_line",
        "test_probes_need_no_token",
        "test_the_documented_line_makes_a_token_and_its_hash",
        "test_the_engine_learns_the_caller_s_name",
    }
