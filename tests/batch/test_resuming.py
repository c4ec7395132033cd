"""A run that is killed goes on where it was: nothing is lost, nothing is done twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.cli import OK, USAGE, main
from tests.server_process import ROOT

TEXTS = (ROOT / "bench" / "sentences.txt").read_text().splitlines()
# Long enough to be killed in the middle.
NUM_LINES = 2000
SHARD_RECORDS = 50
PATIENCE_SECONDS = 60
FLAGS = [f"--models={ROOT / 'models'}", f"--shard-records={SHARD_RECORDS}", "--beam-size=1"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    lines = [f"{TEXTS[number % len(TEXTS)]} {number}" for number in range(NUM_LINES)]
    path.write_text("\n".join(lines) + "\n")
    return path


def start(source: Path, output: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "batch", str(source), str(output), *FLAGS]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ)


def parts(output: Path) -> list[Path]:
    return sorted(output.with_name(f"{output.name}.parts").glob("part-*.txt"))


def kill_after_parts(source: Path, output: Path, count: int) -> None:
    with start(source, output) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(parts(output)) < count and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(source: Path, tmp_path: Path):
    output = tmp_path / "out.txt"
    assert main([str(source), str(tmp_path / "whole.txt"), *FLAGS]) == OK

    kill_after_parts(source, output, 3)
    kill_after_parts(source, output, len(parts(output)) + 3)
    done = parts(output)
    assert 6 <= len(done) < NUM_LINES / SHARD_RECORDS
    # Were this part done again, its first line would be another.
    kept = done[0].read_text().splitlines()
    done[0].write_text("\n".join(["kept", *kept[1:]]) + "\n")
    assert main([str(source), str(output), *FLAGS]) == OK

    whole = (tmp_path / "whole.txt").read_text().splitlines()
    first = int(done[0].stem.removeprefix("part-")) * SHARD_RECORDS
    whole[first] = "kept"
    assert output.read_text().splitlines() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt", "whole.txt"]


def test_parts_of_other_options_are_not_mixed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kill_after_parts(source, tmp_path / "out.txt", 1)

    other = [*FLAGS[:2], "--beam-size=2"]
    assert main([str(source), str(tmp_path / "out.txt"), *other]) == USAGE

    said = capsys.readouterr().err
    assert "was begun with options {'beam_size': 1}, now it is {'beam_size': 2}" in said


def test_parts_of_another_input_are_not_mixed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kill_after_parts(source, tmp_path / "out.txt", 1)

    source.write_text(source.read_text() + "One more.\n")
    assert main([str(source), str(tmp_path / "out.txt"), *FLAGS]) == USAGE

    assert "was begun with input" in capsys.readouterr().err
