"""The benchmark for GPUs runs from end to end on a CPU, with what a GPU machine has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.agreement import Agreement, Answers, Share, share_of
from bench.gpu.chip import Chip
from bench.gpu.floors import Floor, step_floor
from bench.gpu.models import TRANSLATION

ROOT = Path(__file__).resolve().parent.parent

# What serving needs and a machine with PyTorch does not have.
ABSENT = ("pydantic", "pydantic_settings", "prometheus_client", "grpc", "aiohttp", "sentencex")
RUN = f"""
import runpy, sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # importing it is an ImportError
sys.argv = ["bench.gpu", *sys.argv[1:]]
runpy.run_module("bench.gpu", run_name="__main__")
"""


def test_everything_runs_on_a_cpu_with_what_a_gpu_machine_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--device", "cpu", "--quick", "--output", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tables = done.stdout[done.stdout.index("us an empty kernel") :]
    assert tables.rstrip().endswith("PASSED")
    assert "HF compiled: " not in tables  # which would say why it was not measured
    found = json.loads((tmp_path / "gpu.json").read_text())
    checks = [(one["is_trained"], one["beam_size"]) for one in found["agreements"]]
    assert checks == [(True, 1), (True, 4), (False, 1), (False, 4)]
    assert {one["num_sentences"] for one in found["agreements"]} == {8}
    assert [(one["beam_size"], one["in_flight"]) for one in found["translation"]] == [
        (1, 1), (1, 4), (4, 1), (4, 4),
    ]  # fmt: skip
    assert all(one["tokens_per_second"] > 0 for one in found["translation"])
    assert [one["batch"] for one in found["vision"]] == [1, 2]
    assert (tmp_path / "gpu.png").stat().st_size > 1000


def agreement(num_same: int, loss: float, **changes: Any) -> Agreement:
    given = {"beam_size": 1, "peer": Share(90, 0.1), "is_trained": True} | changes
    return Agreement("one", num_sentences=100, ours=Share(num_same, loss, loss, loss), **given)


def test_a_trained_model_fails_by_too_many_other_answers_or_one_much_worse() -> None:
    assert agreement(98, 0.02).passed
    assert not agreement(97, 0.0).passed
    assert agreement(95, 0.0, beam_size=4).passed
    assert not agreement(94, 0.0, beam_size=4).passed
    assert not agreement(99, 0.021).passed


def test_random_weights_fail_where_the_peer_agrees_more_often() -> None:
    assert agreement(85, 0.5, is_trained=False).passed
    assert not agreement(84, 0.0, is_trained=False).passed
    sure = Share(100, 0.0)
    assert not agreement(94, 0.0, is_trained=False, peer=sure, beam_size=4).passed


def test_greedy_is_judged_by_the_token_and_beams_by_the_answer() -> None:
    unlucky = {"num_sentences": 100, "peer": Share(90), "is_trained": True}
    ours = Share(98, mean_loss=0.3, worst_loss=0.3, worst_slip=0.01)
    assert Agreement("one", 1, ours=ours, **unlucky).passed
    assert not Agreement("one", 4, ours=ours, **unlucky).passed


class ByToken:
    """A token's score is its negative."""

    def token_scores(self, sources: Answers, targets: Answers) -> list[list[float]]:
        return [[-float(token) for token in target] for target in targets]


def test_only_answers_that_differ_are_scored_and_a_better_one_is_no_loss() -> None:
    sources = [[1], [2], [3]]
    expected = [[5, 6], [7, 8], [9]]
    assert share_of(expected, expected, sources, ByToken()) == Share(3)
    better = share_of([[5, 6], [7, 7], [9]], expected, sources, ByToken())
    assert better == Share(2, mean_loss=-0.5)
    worse = share_of([[5, 6], [9, 10], [9]], expected, sources, ByToken())
    assert worse == Share(2, mean_loss=2.0, worst_loss=2.0, worst_slip=2.0)
    unlucky = share_of([[5, 6], [7, 8], [8, 20]], expected, sources, ByToken())
    assert unlucky == Share(2, mean_loss=5.0, worst_loss=5.0)


def test_a_floor_is_the_slower_of_bytes_and_operations_and_all_kernels() -> None:
    chip = Chip("made up", operations_per_second=1e12, bytes_per_second=1e9, kernel_seconds=1e-6)
    assert Floor(1e6, 1e6, 10).seconds(chip) == pytest.approx(1e-3 + 1e-5)
    assert Floor(1e3, 1e12, 0).seconds(chip) == pytest.approx(1.0)


def test_the_weights_of_a_base_step_are_read_once() -> None:
    base = TRANSLATION[0].config
    floor = step_floor(base, num_rows=0, source_tokens=0, target_tokens=0, kernels=0)
    # 6 layers of 4.2 million, and 16.4 million of the vocabulary, two bytes each
    assert floor.num_bytes == pytest.approx(2 * (6 * 4.19e6 + 16.38e6), rel=0.01)
