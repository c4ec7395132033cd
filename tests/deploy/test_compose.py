"""The Compose file is held against the settings, the files it mounts, and a real server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.environment import settings_from
from tests.server_process import serving

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def seconds(duration: str) -> float:
    [number] = re.findall(r"^(\d+)s$", duration)
    return float(number)


def volumes(service: str) -> list[tuple[str, ...]]:
    return [tuple(volume.split(":")) for volume in SERVICES[service].get("volumes", [])]


def test_the_services_are_a_server_what_watches_it_and_a_caller() -> None:
    assert SERVICES.keys() == {"attendant", "prometheus", "grafana", "load"}


def test_the_server_is_set_by_its_settings_and_publishes_its_ports_to_this_machine_alone() -> None:
    server = SERVICES["attendant"]
    settings = settings_from(server["environment"])

    assert server["ports"] == [
        f"127.0.0.1:{port}:{port}" for port in (settings.grpc_port, settings.http_port)
    ]
    drain = settings.drain_pause_seconds + settings.drain_seconds
    assert seconds(server["stop_grace_period"]) > drain
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])


def test_the_build_arguments_are_the_image_s() -> None:
    build = SERVICES["attendant"]["build"]
    dockerfile = (DEPLOY / build["context"] / "Dockerfile").read_text()

    assert build["args"].keys() <= set(re.findall(r"^ARG (\w+)=", dockerfile, re.MULTILINE))


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists_and_is_read_only(service: str) -> None:
    for source, _, *mode in volumes(service):
        if source in COMPOSE["volumes"]:
            continue
        assert (DEPLOY / source).exists(), source
        assert mode == ["ro"]


def test_what_prometheus_has_seen_outlives_its_container() -> None:
    assert ("prometheus", "/prometheus") in volumes("prometheus")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_for_services_that_there_are(service: str) -> None:
    assert set(SERVICES[service].get("depends_on", [])) <= SERVICES.keys()


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target
        for scrape in scraped["scrape_configs"]
        for static in scrape["static_configs"]
        for target in static["targets"]
    ]
    assert "attendant:8080" in targets
    for name in scraped["rule_files"]:
        assert (DEPLOY / "prometheus" / name).is_file()

    provisioning = DEPLOY / "grafana" / "provisioning"
    sources = [
        source
        for path in (provisioning / "datasources").iterdir()
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    assert [source["url"] for source in sources] == ["http://prometheus:9090"]
    dashboard = json.loads((DEPLOY / "grafana" / "attendant.json").read_text())
    assert dashboard["panels"]


def test_grafana_finds_the_dashboard_where_it_is_mounted() -> None:
    [place] = [place for _, place, _ in volumes("grafana") if place.endswith("attendant.json")]
    providers = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/dashboards/attendant.yml").read_text()
    )["providers"]

    assert [provider["options"]["path"] for provider in providers] == [str(Path(place).parent)]


def test_the_load_is_answered_by_a_real_server(tmp_path: Path) -> None:
    load = SERVICES["load"]
    shell, flag, command = load["entrypoint"]
    [(source, place, _)] = volumes("load")
    (tmp_path / "attendant").write_text(f'#!/bin/sh\nexec {sys.executable} -m attendant "$@"\n')
    (tmp_path / "attendant").chmod(0o755)
    with serving() as ports:
        environment = {"ATTENDANT_TARGET": f"localhost:{ports.grpc}", "PYTHONPATH": str(ROOT)}
        assert environment.keys() >= load["environment"].keys()
        process = subprocess.Popen(
            [shell, flag, command.replace(place, str(DEPLOY / source)) + " | head -n 100"],
            env=os.environ | environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        printed, _ = process.communicate(timeout=60)
    assert len(printed.splitlines()) == 100
    assert printed.startswith("Ein Mann reitet auf einem Pferd am Strand.\n")
