"""Data sets of images, with the default model: folders, archives, JSON lines, Parquet."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from batch.cli import FAILED, OK, USAGE, main
from batch.ledger import Ledger
from tests.server_process import ROOT

PICTURES = sorted((ROOT / "examples").glob("*.jpg"))
NAMES = [path.name for path in PICTURES]
MODELS = f"--models={ROOT / 'models'}"


def classified(source: Path, output: Path, *flags: str) -> list[dict[str, object]]:
    assert main([str(source), str(output), MODELS, "--shard-records=2", *flags]) == OK
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The labels of each picture, alone in its folder."""
    found = []
    for path in PICTURES:
        folder = tmp_path_factory.mktemp("alone")
        (folder / path.name).write_bytes(path.read_bytes())
        [row] = classified(folder, folder.with_suffix(".jsonl"))
        found.append(row["labels"])
    return found


def test_a_folder_is_classified_in_the_order_of_its_names(tmp_path: Path, expected: list[object]):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for path in PICTURES:
        (tmp_path / "in" / "deeper" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "notes.md").write_text("no image")

    found = classified(tmp_path / "in", tmp_path / "out.jsonl")

    assert [one["image"] for one in found] == [f"deeper/{name}" for name in NAMES]
    assert [one["labels"] for one in found] == expected


def test_an_archive_is_read_where_it_lies(tmp_path: Path, expected: list[object]):
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for path in PICTURES:
            archive.add(path, path.name)
        archive.add(ROOT / "README.md", "README.md")

    found = classified(tmp_path / "in.tar", tmp_path / "out.jsonl")

    assert [one["image"] for one in found] == NAMES
    assert [one["labels"] for one in found] == expected


def test_json_lines_may_name_files(tmp_path: Path, expected: list[object]):
    for path in PICTURES:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = [json.dumps({"image": name, "id": number}) for number, name in enumerate(NAMES)]
    lines.insert(1, json.dumps({"image": "none.jpg"}))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))

    found = classified(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--task=classify")

    assert [one["id"] for one in found] == list(range(len(NAMES)))
    assert [one["labels"] for one in found] == expected
    [aside] = (tmp_path / "out.jsonl.set-aside.jsonl").read_text().splitlines()
    assert json.loads(aside)["reason"] == "UNREADABLE"


def test_a_column_of_parquet_may_hold_them(tmp_path: Path, expected: list[object]):
    pyarrow = pytest.importorskip("pyarrow")
    contents = [path.read_bytes() for path in PICTURES]
    table = pyarrow.table({"image": contents, "id": NAMES})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "in.parquet")

    found = classified(tmp_path / "in.parquet", tmp_path / "out.jsonl", "--task=classify")

    assert [one["id"] for one in found] == NAMES
    assert [one["labels"] for one in found] == expected


def test_a_broken_picture_is_set_aside_and_disturbs_no_other(
    tmp_path: Path, expected: list[object]
):
    (tmp_path / "in").mkdir()
    for path in PICTURES:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "in" / "0-broken.jpg"
    broken.write_bytes(PICTURES[0].read_bytes()[:40])

    found = classified(tmp_path / "in", tmp_path / "out.jsonl", "--top-k=5")

    assert [one["labels"] for one in found] == expected
    [aside] = (tmp_path / "out.jsonl.set-aside.jsonl").read_text().splitlines()
    assert json.loads(aside)["record"] == {"image": "0-broken.jpg"}
    assert json.loads(aside)["reason"] == "INVALID_IMAGE"


def test_a_folder_that_has_changed_since_it_was_begun_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Regression: its shards were others then, so pictures were lost and doubled."""
    (tmp_path / "in").mkdir()
    for path in PICTURES:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(Ledger, "join", _raise_os_error)
    arguments = [str(tmp_path / "in"), str(tmp_path / "out.jsonl"), MODELS, "--shard-records=2"]
    assert main(arguments) == FAILED
    monkeypatch.undo()

    (tmp_path / "in" / "0.jpg").write_bytes(PICTURES[0].read_bytes())
    assert main(arguments) == USAGE

    assert "was begun with input" in capsys.readouterr().err
    (tmp_path / "in" / "0.jpg").unlink()
    assert len(classified(tmp_path / "in", tmp_path / "out.jsonl")) == len(PICTURES)


def _raise_os_error(*given: object) -> None:
    raise OSError("no space left on device")


def test_a_folder_of_images_and_texts_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "logo.jpg").write_bytes(PICTURES[0].read_bytes())
    (tmp_path / "in" / "._logo.jpg").write_bytes(b"what a file system notes")
    (tmp_path / "in" / "page.txt").write_text("A dog.")

    assert main([str(tmp_path / "in"), str(tmp_path / "out.jsonl"), MODELS]) == USAGE

    assert "has images, text, expected files of one kind" in capsys.readouterr().err
    found = classified(tmp_path / "in", tmp_path / "out.jsonl", "--input-format=images")
    assert [one["image"] for one in found] == ["logo.jpg"]


def test_names_that_are_no_utf8_are_shown_as_far_as_they_can_be(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / "in" / name).write_bytes(PICTURES[0].read_bytes())

    output = tmp_path / "out.parquet"
    assert main([str(tmp_path / "in"), str(output), MODELS]) == OK

    assert parquet.read_table(output).to_pydict()["image"] == ["caf\\xe9.jpg"]


def test_a_compressed_archive_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in.tar.gz").write_bytes(b"")

    assert main([str(tmp_path / "in.tar.gz"), str(tmp_path / "out.jsonl")]) == USAGE

    assert "unpack it first" in capsys.readouterr().err
