"""How many cores a server takes, by what Linux says of its container."""

import math
from pathlib import Path

import pytest

from service.cores import cpu_quota, num_cores

UNIFIED, LEGACY = Path("sys/fs/cgroup"), Path("sys/fs/cgroup/cpu")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_a_container_sees_its_own_quota_alone(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    write(tmp_path / UNIFIED / "cpu.max", "250000 100000")
    assert cpu_quota(tmp_path) == 2.5


def test_the_least_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/pods.slice/pod7.slice")
    write(tmp_path / UNIFIED / "pods.slice/pod7.slice/cpu.max", "max 100000")
    write(tmp_path / UNIFIED / "pods.slice/cpu.max", "400000 100000")
    assert cpu_quota(tmp_path) == 4.0


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:devices:/\n1:cpu,cpuacct:/docker/abc")
    write(tmp_path / LEGACY / "cpu.cfs_quota_us", "-1")
    write(tmp_path / LEGACY / "cpu.cfs_period_us", "100000")
    assert cpu_quota(tmp_path) == math.inf
    write(tmp_path / LEGACY / "docker/abc/cpu.cfs_quota_us", "50000")
    write(tmp_path / LEGACY / "docker/abc/cpu.cfs_period_us", "100000")
    assert cpu_quota(tmp_path) == 0.5


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.9, 1), (2.5, 2), (math.inf, 64)])
def test_there_is_a_thread_for_each_whole_core_of_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    """Regression: two cores' time on a machine of 64 were 64 threads a model."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr("service.cores.cpu_quota", lambda: quota)
    assert num_cores() == expected
