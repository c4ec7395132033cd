"""What /metrics shows is what is declared, and what is declared is documented."""

import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from attendant.v1 import (
    classification_pb2,
    classification_pb2_grpc,
    translation_pb2,
    translation_pb2_grpc,
)
from service.gpus import Gpus
from service.metric_kinds import Declaration, declarations
from service.metrics import Metrics
from service.server import Server
from tests.server_process import Ports, serving
from tests.service.conftest import StartServer, image_file, samples

ROOT = Path(__file__).resolve().parents[2]
DECLARED = {declaration.name: declaration for _, declaration in declarations(Metrics)}


@dataclass
class FakeNvml:
    """Two GPUs, the second of which does not tell what it does."""

    NVMLError = RuntimeError
    used: dict[int, int] = field(default_factory=lambda: {0: 3 << 30, 1: 1 << 30})

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:
        return SimpleNamespace(used=self.used[device], total=80 << 30)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:
        if device == 1:
            raise RuntimeError("not supported")
        return SimpleNamespace(gpu=35)


def declaration_of(sample_name: str) -> Declaration:
    """Of a sample as it is scraped."""
    name = re.sub(r"_(bucket|sum|count)$", "", sample_name)
    return DECLARED.get(sample_name) or DECLARED.get(name) or DECLARED[f"{name}_total"]


async def scrape(server: Server) -> str:
    url = f"http://127.0.0.1:{server.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def check_labels(text: str) -> set[str]:
    """All values are of their closed sets -> the metrics that have some."""
    checked = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            is_ours = sample.name.startswith(("attendant_", "grpc_"))
            if not is_ours or sample.name.endswith("_created"):
                continue
            declaration = declaration_of(sample.name)
            known = {label.name: label.values for label in declaration.labels}
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            assert labels.keys() == known.keys(), sample
            for name, value in labels.items():
                assert not known[name] or value in known[name], sample
            checked.add(declaration.name)
    return checked


async def call_everything(channel: grpc.aio.Channel) -> None:
    """Calls that end in several ways."""
    translation: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    classification: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
    image = classification_pb2.Image(content=image_file())
    for text in ("a man", "BAD", "FULL", "BUG"):
        request = translation_pb2.TranslateRequest(contents=[text])
        with suppress(grpc.aio.AioRpcError):
            await translation.Translate(request, timeout=10)
    await classification.Classify(
        classification_pb2.ClassifyRequest(images=[image, image]), timeout=10
    )


async def test_every_label_has_a_value_of_its_closed_set(
    server: Server, channel: grpc.aio.Channel
) -> None:
    await call_everything(channel)
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{server.http_port}") as session,
        session.get("/what/a/caller/says"),
    ):
        pass

    checked = check_labels(await scrape(server))
    assert {"attendant_images_total", "attendant_http_requests_total"} <= checked
    assert len(checked) > 15


def test_the_page_of_metrics_is_current(tmp_path: Path) -> None:
    command = [sys.executable, "bin/generate-metrics-page", str(tmp_path / "page.md")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs" / "metrics.md").read_text()


def test_the_page_names_what_a_process_shows() -> None:
    """The client library of Prometheus has its own names, and a server all of them."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    metrics = Metrics.create()
    metrics.add_process_collectors()
    families = list(text_string_to_metric_families(metrics.render().decode()))
    names = {sample.name for family in families for sample in family.samples} | set(DECLARED)
    documented = {
        name for name in re.findall(r"`(\w+)`", page) if re.match("(process|python)_", name)
    }
    assert documented == {name for name in names if re.match("(process|python)_", name)}


async def test_goodput_counts_what_was_answered_in_time(
    server: Server, channel: grpc.aio.Channel
) -> None:
    stub: Any = classification_pb2_grpc.ClassificationServiceStub(channel)
    images = [
        classification_pb2.Image(content=content)
        for content in (image_file(), b"no image", image_file())
    ]
    await stub.Classify(classification_pb2.ClassifyRequest(images=images), timeout=10)
    late = stub.Classify(classification_pb2.ClassifyRequest(images=images), timeout=1e-6)
    with pytest.raises(grpc.aio.AioRpcError):
        await late
    assert [value for _, value in samples(server.metrics, "attendant_goodput_images_total")] == [2]


async def test_a_refused_model_is_shown_beside_the_one_that_serves(
    start_server: StartServer, models: Path
) -> None:
    async with start_server() as server:
        assert 'attendant_model_refused{model="colours/1"} 0.0' in await scrape(server)
        card = models / "colours" / "1" / "bundle.json"
        card.write_text("no card")
        await server.reload()
        text = await scrape(server)
    assert 'attendant_model_refused{model="colours/1"} 1.0' in text
    assert 'attendant_model_failed{model="colours/1"} 0.0' in text
    assert 'attendant_model_degraded{model="colours/1"} 1.0' in text
    assert 'attendant_model_refused{model="en-de/1"} 0.0' in text


async def test_a_model_that_was_never_loaded_has_failed(
    start_server: StartServer, models: Path
) -> None:
    (models / "colours" / "1" / "bundle.json").write_text("no card")
    async with start_server() as server:
        text = await scrape(server)
    assert 'attendant_model_failed{model="colours/1"} 1.0' in text
    assert 'attendant_model_refused{model="colours/1"} 1.0' in text
    assert 'attendant_model_degraded{model="colours/1"}' not in text


async def test_the_runtime_says_its_version_and_threads(start_server: StartServer) -> None:
    async with start_server(decode_workers=3, image_threads=5) as server:
        [(labels, value)] = samples(server.metrics, "attendant_runtime_info")
    assert value == 1
    assert labels["onnxruntime"].count(".") == 2
    assert labels["providers"].endswith("CPUExecutionProvider")
    assert (labels["decode_workers"], labels["image_threads"]) == ("3", "5")


def test_gpus_are_shown_as_nvml_sees_them() -> None:
    metrics, library = Metrics.create(), FakeNvml()
    metrics.observers.append(Gpus(library, metrics).observe)
    metrics.render()
    library.used[0] = 5 << 30
    values = {
        (sample.name, sample.labels["gpu"]): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if "gpu" in sample.labels
    }
    assert values == {
        ("attendant_gpu_memory_used_bytes", "0"): 5 << 30,
        ("attendant_gpu_memory_used_bytes", "1"): 1 << 30,
        ("attendant_gpu_memory_total_bytes", "0"): 80 << 30,
        ("attendant_gpu_memory_total_bytes", "1"): 80 << 30,
        ("attendant_gpu_utilization_ratio", "0"): 0.35,
    }


def test_without_nvml_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus.find(Metrics.create()) is None


@pytest.fixture(scope="module")
def real_server() -> Any:
    with serving() as ports:
        yield ports


async def test_goodput_of_translations_is_what_they_returned(real_server: Ports) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{real_server.grpc}") as channel:
        stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        request = translation_pb2.TranslateRequest(contents=["Two dogs play.", "A man sleeps."])
        answer = await stub.Translate(request, timeout=30)
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{real_server.http}") as session,
        session.get("/metrics") as response,
    ):
        text = await response.text()
    assert "attendant_wasted_tokens_total" in check_labels(text)
    found = re.search(r"attendant_goodput_tokens_total\{.*\} (.*)", text)
    expected = sum(result.hypotheses[0].target_tokens for result in answer.results)
    assert found is not None
    assert float(found[1]) == expected > 4
