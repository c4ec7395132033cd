"""`attendant-batch --ray` on a cluster of two nodes: who is killed, and the same comes out."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.cli import OK, main
from tests.scale.ray_cluster import RayCluster, ray_nodes, wait_for
from tests.server_process import ROOT

pytestmark = pytest.mark.slow

TEXTS = (ROOT / "bench" / "sentences.txt").read_text().splitlines()
NUM_LINES = 16_000
SHARD_RECORDS = 100
FLAGS = [f"--models={ROOT / 'models'}", f"--shard-records={SHARD_RECORDS}", "--beam-size=1"]
PATIENCE_SECONDS = 240


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with ray_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No two of its lines are the same, nor their translations."""
    path = tmp_path_factory.mktemp("source") / "in.txt"
    lines = [f"{number}: {TEXTS[number % len(TEXTS)]}" for number in range(NUM_LINES)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(source: Path) -> list[str]:
    """What comes out without Ray."""
    output = source.with_name("expected.txt")
    assert main([str(source), str(output), *FLAGS]) == OK
    return output.read_text().splitlines()


def start(cluster: RayCluster, source: Path, output: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "batch", str(source), str(output), *FLAGS]
    command += ["--ray", cluster.address, "--cpus-per-actor=1"]
    return subprocess.Popen(
        command, cwd=ROOT, env=cluster.environment(), stderr=subprocess.PIPE, text=True
    )


def num_parts(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.parts").glob("part-*.txt")))


def wait_for_parts(run: "subprocess.Popen[str]", output: Path, count: int) -> None:
    def are_there() -> bool:
        assert run.poll() is None, run.communicate()[1]
        return num_parts(output) >= count

    wait_for(are_there)
    assert num_parts(output) < NUM_LINES // SHARD_RECORDS


def finish(run: "subprocess.Popen[str]") -> str:
    """What it has said."""
    try:
        _, said = run.communicate(timeout=PATIENCE_SECONDS)
    finally:
        run.kill()
    assert run.returncode == OK, said
    return said


def test_a_node_that_is_killed_takes_no_line_with_it(
    cluster: RayCluster, source: Path, expected: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out.txt"
    run = start(cluster, source, output)
    wait_for_parts(run, output, 40)
    cluster.kill_node()

    said = finish(run)

    assert output.read_text().splitlines() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    # One line is of Ray's core, which nothing but its own level silences, and that it announces.
    *others, last = said.splitlines()
    assert last == f"{output}: {NUM_LINES} of {NUM_LINES} records answered, 0 set aside"
    assert len(others) <= 1


def test_a_run_that_is_killed_goes_on_when_it_is_started_again(
    cluster: RayCluster, source: Path, expected: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out.txt"
    with start(cluster, source, output) as run:
        wait_for_parts(run, output, 40)
        run.send_signal(signal.SIGKILL)
    done = sorted(output.with_name("out.txt.parts").glob("part-*.txt"))
    # Were this part done again, its first line would be another.
    kept = done[0].read_text().splitlines()
    done[0].write_text("\n".join(["kept", *kept[1:]]) + "\n")

    finish(start(cluster, source, output))

    first = int(done[0].stem.removeprefix("part-")) * SHARD_RECORDS
    assert output.read_text().splitlines() == [
        *expected[:first],
        "kept",
        *expected[first + 1 :],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
