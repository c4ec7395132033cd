"""The manifests are rendered, held to Kubernetes' schemas, to each other and to the settings."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import ByteSize, TypeAdapter, ValidationError

from service.classification.pixels import pixels_at_a_time
from service.http import bodies as arriving
from service.http import json_requests as parsed
from service.metrics import Metrics
from service.settings import Settings
from tests.deploy.environment import of_container, settings_from
from tests.deploy.kustomize import render
from tests.deploy.validation import validate

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# gRPC's own time to hang up on what did not finish, and the interpreter's to end.
EXIT_SECONDS = 5

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def manifests(overlay: str) -> Manifests:
    """By kind, of which there is one each."""
    rendered = render(KUBERNETES / "overlays" / overlay)
    by_kind = {manifest["kind"]: manifest for manifest in rendered}
    assert len(by_kind) == len(rendered)
    return by_kind


@pytest.fixture
def pod(manifests: Manifests) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [container] = pod["spec"]["containers"]
    return container


def test_the_manifests_are_valid(manifests: Manifests) -> None:
    assert manifests.keys() == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceMonitor",
        "PrometheusRule",
    }
    for manifest in manifests.values():
        validate(manifest)


@pytest.mark.parametrize("path", sorted((DEPLOY / "kserve").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_resources_of_kserve_are_valid(path: Path) -> None:
    validate(yaml.safe_load(path.read_text()))


def test_an_unknown_kind_or_field_is_refused() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate({"apiVersion": "v1", "kind": "Servise", "metadata": {"name": "attendant"}})
    for path in (
        KUBERNETES / "base" / "service.yaml",
        KUBERNETES / "base" / "service-monitor.yaml",
    ):
        manifest = yaml.safe_load(path.read_text())
        manifest["spec"]["prots"] = []
        with pytest.raises(jsonschema.ValidationError, match="prots"):
            validate(manifest)


def test_a_feature_of_kustomize_that_is_not_rendered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: x-\n")

    with pytest.raises(ValueError, match="namePrefix"):
        render(tmp_path)
    pairs = "{ pairs: { app: x }, includeSelectors: true, includeTemplates: true }"
    (tmp_path / "kustomization.yaml").write_text(f"resources: []\nlabels: [{pairs}]\n")
    with pytest.raises(ValueError, match="includeSelectors"):
        render(tmp_path)


def test_pods_end_after_the_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    settings = settings_from(of_container(container))
    drain = settings.drain_pause_seconds + settings.drain_seconds

    assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + EXIT_SECONDS


def test_a_pod_stays_in_the_service_no_longer_than_it_takes_calls(
    container: dict[str, Any],
) -> None:
    settings = settings_from(of_container(container))
    probe = container["readinessProbe"]

    seconds = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert probe["failureThreshold"] > 1, "one late answer would be an outage"
    # A pod that leaves says so at once: only one that does not answer is waited for.
    assert probe["periodSeconds"] * probe["failureThreshold"] < settings.drain_pause_seconds
    assert seconds < settings.drain_pause_seconds + settings.drain_seconds


def test_what_callers_can_make_a_pod_take_is_within_its_memory(container: dict[str, Any]) -> None:
    assert takes_at_most(settings_from(of_container(container))) <= memory_limit(container)


def memory_limit(container: dict[str, Any]) -> int:
    limit = container["resources"]["limits"]["memory"]  # as 3Gi
    return TypeAdapter(ByteSize).validate_python(f"{limit}B")


def takes_at_most(settings: Settings) -> int:
    """Bytes: caches, pictures that are unpacked, bodies on their way, and the rest."""
    pictures = 16 * pixels_at_a_time(settings)
    bodies = (arriving.BODIES_IN_MEMORY + parsed.BODIES_IN_MEMORY) * settings.max_message_bytes
    return settings.cache_memory + pictures + bodies + (256 << 20)


def test_the_environment_is_made_of_settings(overlay: str, container: dict[str, Any]) -> None:
    settings = settings_from(of_container(container))

    assert settings.device == {"cpu": "cpu", "gpu": "cuda"}[overlay]
    with pytest.raises(ValidationError, match="worker"):
        settings_from({"ATTENDANT_WORKER": "2"})


def test_probes_and_services_meet_the_ports_of_the_server(
    manifests: Manifests, container: dict[str, Any]
) -> None:
    settings = settings_from(of_container(container))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = manifests["Service"]["spec"]

    assert ports == {"grpc": settings.grpc_port, "http": settings.http_port}
    assert container["startupProbe"]["grpc"]["port"] == settings.grpc_port
    assert container["readinessProbe"]["grpc"]["port"] == settings.grpc_port
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert {(port["port"], port["targetPort"]) for port in service["ports"]} == {
        (settings.grpc_port, "grpc"),
        (settings.http_port, "http"),
    }
    assert service["clusterIP"] == "None"
    [endpoint] = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["ports"]}
    for rule in manifests["NetworkPolicy"]["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= ports.keys()


def test_what_selects_pods_selects_these(manifests: Manifests, pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"].items()
    spread = [one["labelSelector"] for one in pod["spec"]["topologySpreadConstraints"]]
    selectors = [
        manifests["Service"]["spec"]["selector"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        *(selector["matchLabels"] for selector in spread),
    ]

    assert all(selector and selector.items() <= labels for selector in selectors)
    wanted = manifests["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    assert wanted <= manifests["Service"]["metadata"]["labels"].items()
    # Its callers are other pods than these.
    [callers, _] = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert callers["from"] == [{"podSelector": {"matchLabels": {"attendant-caller": "true"}}}]
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        manifests["Deployment"]["metadata"]["name"],
    )
    assert len(spread) == 2


def test_pods_run_as_the_user_of_the_image_and_write_nothing(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    [user] = re.findall(r"^USER (\d+):\1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert pod["spec"]["securityContext"]["runAsUser"] == int(user)
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_autoscaler_s_metric_is_the_server_s_and_the_adapter_offers_it(
    manifests: Manifests,
) -> None:
    spec = manifests["HorizontalPodAutoscaler"]["spec"]
    [metric] = [one["pods"]["metric"]["name"] for one in spec["metrics"] if one["type"] == "Pods"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    families = {family.name for family in Metrics.create().registry.collect()}

    assert metric in families
    assert [rule["seriesQuery"].partition("{")[0] for rule in adapter["rules"]["custom"]] == [
        metric
    ]
    assert "replicas" not in manifests["Deployment"]["spec"]
    # The wait of interactive calls says nothing of bulk ones: they take cores.
    assert {one["type"] for one in spec["metrics"]} == {"Pods", "Resource"}


def test_the_rules_are_those_of_prometheus(manifests: Manifests) -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())

    assert manifests["PrometheusRule"]["spec"] == rules, "bin/update-prometheus-rule renews it"


def test_the_update_of_the_rules_makes_what_is_there(tmp_path: Path) -> None:
    made = tmp_path / "prometheus-rule.yaml"
    subprocess.run([sys.executable, ROOT / "bin" / "update-prometheus-rule", made], check=True)

    assert made.read_text() == (KUBERNETES / "base" / "prometheus-rule.yaml").read_text()


def test_the_gpu_overlay_asks_for_one_and_the_other_for_none(
    overlay: str, container: dict[str, Any]
) -> None:
    assert (
        container["resources"]["limits"].get("nvidia.com/gpu") == {"cpu": None, "gpu": "1"}[overlay]
    )
    assert container["image"].endswith({"cpu": ":cpu", "gpu": ":cuda"}[overlay])


def test_kserve_starts_a_server_that_speaks_its_protocol() -> None:
    runtime = yaml.safe_load((DEPLOY / "kserve" / "serving-runtime.yaml").read_text())
    service = yaml.safe_load((DEPLOY / "kserve" / "inference-service.yaml").read_text())
    [container] = runtime["spec"]["containers"]
    model = service["spec"]["predictor"]["model"]
    formats = {one["name"] for one in runtime["spec"]["supportedModelFormats"]}

    settings = Settings.load(container["args"])
    assert settings.models == Path("/mnt/models")
    assert takes_at_most(settings) <= memory_limit(container)
    assert container["ports"][0]["containerPort"] == settings.grpc_port
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
