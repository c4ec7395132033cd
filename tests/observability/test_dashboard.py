"""`make observability-test`: a real Prometheus scrapes a loaded server, and each panel shows it."""

import asyncio
import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.metric_kinds import declarations
from service.metrics import Metrics
from tests.observability.load import put_load
from tests.observability.prometheus import DEPLOYED, Prometheus, scraping
from tests.server_process import serving
from tests.tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/attendant.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
RULES = DEPLOYED / "rules.yml"
ALERTS = re.findall(r"alert: (\w+)", RULES.read_text())
DECLARED = [declaration for _, declaration in declarations(Metrics)]
LOAD_SECONDS = 8.0


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has scraped a server under load, with what NVML would tell of a GPU."""
    require_tool("prometheus")
    nvml = str(ROOT / "tests" / "observability" / "nvml")
    with (
        serving("--max-queued-sequences", "100", PYTHONPATH=nvml) as ports,
        scraping(tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{ports.http}") as asked,
    ):
        asked.wait_until('attendant_runtime_info{job="attendant"}')
        asyncio.run(put_load(ports, LOAD_SECONDS))
        asked.wait_until("attendant:errors:ratio_rate5m > 0")
        yield asked


def filled(expression: str) -> str:
    """As Grafana asks, with all models chosen."""
    expression = expression.replace("$__rate_interval", "10s").replace("$model", ".*")
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("title", PANELS)
def test_every_expression_of_a_panel_has_a_sample(prometheus: Prometheus, title: str) -> None:
    for target in PANELS[title]["targets"]:
        samples = prometheus.query(filled(target["expr"]))
        values = [float(sample["value"][1]) for sample in samples]
        assert any(map(math.isfinite, values)), f"{title}: {target['expr']}"


def test_the_template_of_models_finds_them(prometheus: Prometheus) -> None:
    [variable] = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "model"]
    selector = re.fullmatch(r"label_values\((.*), model\)", variable["query"]["query"])
    assert selector is not None
    models = {sample["metric"]["model"] for sample in prometheus.query(selector[1])}
    assert models == {"captions-en-de/1", "cifar10/1"}


@pytest.mark.parametrize("name", [one.name for one in DECLARED if one.example])
def test_an_example_of_the_page_of_metrics_can_be_asked(prometheus: Prometheus, name: str) -> None:
    [example] = [one.example for one in DECLARED if one.name == name]
    prometheus.query(example)


def test_all_rules_are_evaluated_without_an_error(prometheus: Prometheus) -> None:
    groups = prometheus.get("/api/v1/rules")["data"]["groups"]
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_rules_and_dashboard_name_metrics_that_there_are() -> None:
    suffixes = ("", "_bucket", "_sum", "_count")
    known = {one.name + suffix for one in DECLARED for suffix in suffixes}
    for file in (RULES, ROOT / "deploy/grafana/attendant.json"):
        named = set(re.findall(r"\b(?:attendant|grpc_server)_\w+", file.read_text()))
        assert named
        assert named <= known, file


def test_promtool_accepts_the_configuration_and_the_rules_do_what_they_say() -> None:
    require_tool("promtool")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        ran = subprocess.run(
            ["promtool", *command], cwd=DEPLOYED, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tested_and_has_a_section_that_says_what_to_do() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (DEPLOYED / "rules_test.yml").read_text()))
    assert tested == set(ALERTS)
    page = (ROOT / "docs" / "observability.md").read_text()
    assert all(f"`{alert}`" in page for alert in ALERTS)


def test_panels_do_not_cover_each_other() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    cells = [
        (column, row)
        for x, y, w, h in places
        for column in range(x, x + w)
        for row in range(y, y + h)
    ]
    assert len(cells) == len(set(cells))
