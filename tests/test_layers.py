"""Who may import whom. An import inside a function or for types alone counts like any other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("attendant", "service", "export", "batch")

# The bottom of the service, which everything above may use.
FOUNDATION = {
    "service.errors",
    "service.settings",
    "service.metric_kinds",
    "service.metrics",
    "service.gpus",
    "service.memory",
    "service.cores",
    "service.logs",
    "service.timeline",
    "service.tracing",
    "service.lifecycle",
    "service.rate",
    "service.callers",
    "service.watched",
    "service.access",
    "service.certificates",
    "service.faults",
    "service.waiting",
    "service.admission",
}
MODELS = FOUNDATION | {
    "service.bundle",
    "service.languages",
    "service.runtime",
    "service.devices",
}
ENGINES = {"service.translation", "service.classification"}
FRONT = MODELS | ENGINES | {"service.model", "service.repository", "attendant.v1"}

# For each part, outermost last: what it may import of ours, besides itself. The longest prefix of a
# module's name decides which part it belongs to.
ALLOWED = {
    "attendant": set(),
    "service.errors": set(),
    "service.settings": {"service.errors"},
    "service.metric_kinds": set(),
    "service.metrics": {"service.errors", "service.metric_kinds"},
    "service.gpus": {"service.metrics"},
    "service.memory": set(),
    "service.cores": set(),
    "service.timeline": set(),
    "service.tracing": {"service.logs", "service.timeline"},
    "service.explain": set(),
    "service.logs": {"service.errors", "service.settings", "service.timeline"},
    "service.lifecycle": {"service.errors", "service.metrics", "service.logs"},
    "service.rate": set(),
    "service.callers": {"service.errors"},
    "service.waiting": {"service.callers"},
    "service.admission": {
        "service.errors",
        "service.callers",
        "service.rate",
        "service.waiting",
    },
    "service.watched": set(),
    "service.access": {"service.errors", "service.settings", "service.watched"},
    "service.certificates": {"service.settings", "service.watched"},
    "service.bundle": {"service.errors"},
    "service.golden": {"service.errors", "service.bundle"},
    "service.languages": {"service.errors", "service.bundle"},
    "service.faults": set(),
    "service.runtime": FOUNDATION,
    "service.devices": FOUNDATION | {"service.runtime"},
    "service.translation": MODELS,
    "service.classification": MODELS,
    "service.model": {"service.errors", "service.bundle"},
    "service.routing": {
        "service.errors",
        "service.bundle",
        "service.languages",
        "service.model",
    },
    "service.repository": MODELS | {"service.model", "service.routing"},
    "service.rpc": FRONT,
    "service.http": FRONT | {"service.rpc"},
    "service.server": FRONT | {"service.rpc", "service.http"},
    "service.ray_serve": FOUNDATION | {"service.rpc", "service.server"},
    "service.selftest": MODELS | ENGINES | {"service.golden"},
    "service": FRONT
    | {"service.rpc", "service.http", "service.server", "service.selftest", "service.explain"},
    "batch": FRONT | {"attendant.requests", "service.rpc", "service.server"},
    "export.golden": MODELS | {"export", "service.golden", "service.selftest"},
    "export.verify": MODELS | ENGINES | {"export"},
    "export.evaluate": MODELS | ENGINES | {"export"},
    "export.huggingface": MODELS | ENGINES | {"export"},
    "export": {"service.bundle", "service.errors", "service.golden"},
}

# For each package of others: the only parts that may import it.
HOMES = {
    "torch": {"export"},
    "grpc": {"attendant", "service.rpc", "service.server"},
    "grpc_health": {"service.rpc", "service.server"},
    "grpc_reflection": {"service.rpc", "service.server"},
    "google": {"attendant", "service.rpc", "service.http"},
    "attendant": {"attendant", "service.rpc", "service.http", "service.server", "batch.embedded"},
    "onnxruntime": {
        "service.runtime",
        "service.translation.graphs",
        "service.translation.device_memory",
        "service.classification.runner",
        "export",
    },
    "prometheus_client": {"service.metrics", "service.metric_kinds"},
    "opentelemetry": {"attendant", "service.tracing"},
    "pynvml": {"service.gpus"},
    "pydantic": {"service.bundle", "service.golden", "service.settings"},
    "pydantic_settings": {"service.settings"},
    "aiohttp": {"service.http", "service.server"},
    "uvicorn": set(),
    "pyarrow": {"batch.columns"},
    "ray": {"batch.cluster", "service.ray_serve"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(name: str, path: Path) -> Iterator[str]:
    """The full name of each module that this one imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(package, node)
            # `from service import errors` imports a module, `from service.errors import X` a name.
            members = (f"{base}.{alias.name}" for alias in node.names)
            yield from (member if member in MODULES else base for member in members)


def absolute(package: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1]
    return ".".join([*parents, *filter(None, [node.module])])


def part_of(name: str) -> str:
    return max((part for part in ALLOWED if is_within(name, part)), key=len)


def is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def is_within_any(name: str, parts: set[str]) -> bool:
    return any(is_within(name, part) for part in parts)


def violations(name: str, imported: str) -> Iterator[str]:
    top = imported.partition(".")[0]
    if top in PACKAGES and not is_within_any(imported, ALLOWED[part_of(name)] | {part_of(name)}):
        yield f"{part_of(name)} may not import {imported}"
    if top in HOMES and not is_within_any(name, HOMES[top]):
        yield f"only {', '.join(sorted(HOMES[top])) or 'nobody'} may import {top}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_what_its_layer_may(name: str):
    found = [
        violation
        for imported in imports(name, MODULES[name])
        for violation in violations(name, imported)
    ]

    assert found == []


def test_the_rules_catch_what_they_are_for():
    """Were `part_of` or `imports` wrong, every module might pass."""
    assert list(violations("service.translation.engine", "service.rpc.translation"))
    assert list(violations("service.bundle", "service.settings"))
    assert list(violations("service.http.json", "torch.nn"))
    assert list(violations("service.translation.scheduler", "onnxruntime"))
    assert list(violations("export.seq2seq", "service.translation.engine"))
    assert list(violations("attendant.client", "service.errors"))
    assert list(violations("service.selftest.run", "service.server"))
    assert list(violations("service.selftest.run", "export.golden"))
    assert not list(violations("export.verify", "service.translation.engine"))
    assert not list(violations("service.translation.engine", "service.translation.search"))
