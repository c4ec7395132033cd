"""A run that is killed goes on where it was: nothing is lost, nothing is done twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batch.cli import FAILED, OK, USAGE, main
from batch.ledger import Ledger
from batch.outputs import JsonLines
from batch.records import Answered, SetAside
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


def wait_for_parts(process: "subprocess.Popen[bytes]", output: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(parts(output)) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_after_parts(source: Path, output: Path, count: int) -> None:
    with start(source, output) as process:
        wait_for_parts(process, output, count)
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


def test_a_run_that_is_killed_while_it_clears_up_keeps_what_it_has_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Regression: the next run took a part for done whose set-aside file was gone."""
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("\n".join(["A dog.", "dog " * 30_000, "A cat."]))
    clear = Ledger.clear

    def be_killed(self: Ledger) -> None:
        for path in self.folder.glob("*.set-aside.jsonl"):
            path.unlink()
        raise OSError("killed")

    monkeypatch.setattr(Ledger, "clear", be_killed)
    assert main([str(source), str(output), *FLAGS]) == FAILED
    aside = output.with_name("out.txt.set-aside.jsonl").read_text()
    monkeypatch.setattr(Ledger, "clear", clear)
    assert main([str(source), str(output), *FLAGS]) == OK

    assert json.loads(aside)["reason"] == "TEXT_TOO_LONG"
    assert output.with_name("out.txt.set-aside.jsonl").read_text() == aside
    assert len(output.read_text().splitlines()) == 3
    assert not output.with_name("out.txt.parts").exists()


def test_what_killed_runs_have_left_unfinished_is_removed(source: Path, tmp_path: Path):
    kill_after_parts(source, tmp_path / "out.txt", 1)
    left = [
        tmp_path / "out.txt.parts" / f".part-000007.txt.{'0' * 32}",
        tmp_path / f".out.txt.{'f' * 32}",
    ]
    for path in left:
        path.write_text("half")

    assert main([str(source), str(tmp_path / "out.txt"), *FLAGS]) == OK

    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_a_shard_that_is_done_again_leaves_nothing_of_its_first_try(tmp_path: Path):
    ledger = Ledger(tmp_path, JsonLines())
    aside = SetAside("in.jsonl:1", "INTERNAL", "internal error", {"text": "A dog."})
    ledger.keep(0, [aside])
    assert ledger.num_set_aside([0]) == 1

    ledger.keep(0, [Answered({"text": "A dog.", "translation": "Ein Hund."}, "Ein Hund.")])

    assert ledger.num_set_aside([0]) == 0


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


def test_parts_of_another_precision_are_not_mixed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kill_after_parts(source, tmp_path / "out.txt", 1)

    assert main([str(source), str(tmp_path / "out.txt"), *FLAGS, "--precision=fp32"]) == USAGE

    said = capsys.readouterr().err
    assert re.search(
        "was begun with the model captions-en-de/1 in int8 .*, now it is .* fp32", said
    )


def test_a_run_is_not_disturbed_by_another_of_the_same_output(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Regression: the second took what the first was writing for what a killed one had left."""
    output = tmp_path / "out.txt"
    with start(source, output) as process:
        wait_for_parts(process, output, 1)
        assert main([str(source), str(output), *FLAGS]) == FAILED
        assert "another run is writing to" in capsys.readouterr().err
        assert process.wait(PATIENCE_SECONDS) == OK
    assert len(output.read_text().splitlines()) == NUM_LINES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]
