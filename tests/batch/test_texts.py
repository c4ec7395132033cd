"""Data sets of texts, with the default model: what comes out, in which order, what is set aside."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from batch.cli import FAILED, OK, USAGE, main
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from tests.server_process import ROOT

BUNDLE = ROOT / "models" / "captions-en-de" / "1"
# Of many lengths, so that those that come first are not those that are done first.
TEXTS = (ROOT / "bench" / "sentences.txt").read_text().splitlines()[:60]
MODELS = f"--models={ROOT / 'models'}"


def batch(*arguments: object) -> int:
    return main([*map(str, arguments), MODELS, "--shard-records=16"])


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What the engine answers when it is asked for each text alone."""

    async def ask() -> list[str]:
        bundle = Bundle.open(BUNDLE)
        engine = TranslationEngine(
            bundle, settings=Settings.model_validate({}), metrics=Metrics.create()
        )
        engine.start()
        try:
            found = [await engine.translate([text], engine.default_options) for text in TEXTS]
        finally:
            await engine.stop()
        return [one.results[0].hypotheses[0].text for one in found]

    return asyncio.run(ask())


def test_line_n_of_the_output_is_the_translation_of_line_n(tmp_path: Path, expected: list[str]):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))  # no line feed at the end

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == OK

    assert (tmp_path / "out.txt").read_text().splitlines() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def test_json_lines_keep_their_fields(tmp_path: Path, expected: list[str]):
    lines = [json.dumps({"id": number, "en": text}) for number, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")

    flags = ["--field=en", "--num-hypotheses=2"]
    assert batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl", *flags) == OK

    found = json_lines(tmp_path / "out.jsonl")
    assert [(one["id"], one["en"]) for one in found] == list(enumerate(TEXTS))
    assert [one["hypotheses"][0] for one in found] == [one["translation"] for one in found]
    assert {len(one["hypotheses"]) for one in found} == {2}


def test_parquet_in_and_out(tmp_path: Path, expected: list[str]):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"text": TEXTS, "id": list(range(len(TEXTS)))}
    parquet.write_table(
        pytest.importorskip("pyarrow").table(table), tmp_path / "in.parquet", row_group_size=25
    )

    assert batch(tmp_path / "in.parquet", tmp_path / "out.parquet") == OK

    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found == {**table, "translation": expected}


def test_parquet_has_every_field_of_every_line(tmp_path: Path, expected: list[str]):
    """Regression: a part had the columns of its first line alone."""
    parquet = pytest.importorskip("pyarrow.parquet")
    lines: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    lines[1]["id"] = 7
    lines[2]["id"] = "eight"
    lines[20]["id"] = 9.5  # another part
    lines[40]["tags"] = {"of": ["dogs"]}
    lines[59]["tags"] = {"of": ["cats"], "and": 1}
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))

    assert batch(tmp_path / "in.jsonl", tmp_path / "out.parquet") == OK

    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["text"] == TEXTS
    assert found["translation"] == expected
    assert {n: one for n, one in enumerate(found["id"]) if one is not None} == {
        **{1: "7", 2: "eight", 20: "9.5"},
    }
    assert found["tags"][40]["of"] == ["dogs"]
    assert found["tags"][59] == {"of": ["cats"], "and": 1}


@pytest.mark.parametrize("name", ["out.txt", "out.jsonl", "out.parquet"])
def test_of_nothing_comes_nothing(tmp_path: Path, name: str):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / "in.txt").write_text("")

    assert batch(tmp_path / "in.txt", tmp_path / name) == OK

    if name.endswith("parquet"):
        assert pytest.importorskip("pyarrow.parquet").read_table(tmp_path / name).num_rows == 0
    else:
        assert (tmp_path / name).read_text() == ""


def test_a_field_of_the_name_of_the_answer_is_kept_beside_it(tmp_path: Path, expected: list[str]):
    line = {"text": TEXTS[0], "translation": "of somebody else", "reason": "mine"}
    line |= {"input_translation": "of another"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + '\n{"text": 7, "reason": "mine"}\n')

    assert batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl") == OK

    [found] = json_lines(tmp_path / "out.jsonl")
    assert found == {
        **{"text": TEXTS[0], "reason": "mine"},
        **{"input_translation": "of another", "translation": expected[0]},
        **{"input_input_translation": "of somebody else"},
    }
    [aside] = json_lines(tmp_path / "out.jsonl.set-aside.jsonl")
    assert aside["reason"] == "NO_TEXT"
    assert aside["record"] == {"text": 7, "reason": "mine"}


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path, expected: list[str], kind: str):
    text = TEXTS[0] if kind == "txt" else json.dumps({"text": TEXTS[0]})
    (tmp_path / f"in.{kind}").write_text(text, "utf-8-sig")

    assert batch(tmp_path / f"in.{kind}", tmp_path / "out.txt") == OK

    assert (tmp_path / "out.txt").read_text().splitlines() == expected[:1]


def test_the_files_of_a_folder_are_one_data_set(tmp_path: Path, expected: list[str]):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("\n".join(TEXTS[20:]))
    (tmp_path / "in" / "a.txt").write_text("\n".join(TEXTS[:20]))

    assert batch(tmp_path / "in", tmp_path / "out.txt") == OK

    assert (tmp_path / "out.txt").read_text().splitlines() == expected


def test_a_folder_for_the_output_keeps_the_parts(tmp_path: Path, expected: list[str]):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    (tmp_path / "out").mkdir()

    assert batch(tmp_path / "in.txt", tmp_path / "out", "--format=jsonl") == OK

    parts = sorted((tmp_path / "out").glob("part-*.jsonl"))
    assert len(parts) == 4  # 60 lines, 16 in each
    assert [one["translation"] for part in parts for one in json_lines(part)] == expected


def test_lines_that_cannot_be_translated_are_set_aside_with_their_reasons(tmp_path: Path):
    good = [json.dumps({"text": text}).encode() for text in TEXTS[:3]]
    bad = {
        b'{"text": "ab': "INVALID_JSON",
        b'["A dog."]': "INVALID_JSON",
        b"[" * 100_000: "INVALID_JSON",
        b'{"en": "A dog."}': "NO_TEXT",
        b'{"text": 7}': "NO_TEXT",
        b'{"text": "A \xff dog."}': "INVALID_UTF8",
        b'{"text": "half of a \\ud83d"}': "INVALID_TEXT",
        json.dumps({"text": "dog " * 30_000}).encode(): "TEXT_TOO_LONG",
    }
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([*good[:2], *bad, good[2]]))

    assert batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl") == OK

    assert [one["text"] for one in json_lines(tmp_path / "out.jsonl")] == TEXTS[:3]
    aside = json_lines(tmp_path / "out.jsonl.set-aside.jsonl")
    assert [one["reason"] for one in aside] == list(bad.values())
    assert [one["where"] for one in aside] == [f"in.jsonl:{n}" for n in range(3, 3 + len(bad))]


def test_a_text_that_is_set_aside_leaves_an_empty_line(tmp_path: Path, expected: list[str]):
    (tmp_path / "in.txt").write_text("\n".join([TEXTS[0], "dog " * 30_000, TEXTS[1]]))

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == OK

    assert (tmp_path / "out.txt").read_text().split("\n") == [expected[0], "", expected[1], ""]


def test_what_is_there_already_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in.txt").write_text(TEXTS[0])
    (tmp_path / "out.txt").write_text("mine")

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == USAGE

    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["out.txt", "out.txt.set-aside.jsonl"])
def test_what_came_there_after_a_run_that_failed_is_not_overwritten(tmp_path: Path, name: str):
    """Regression: what the first left made the second take the file for its own."""
    (tmp_path / "in.txt").write_text(TEXTS[0])
    assert batch(tmp_path / "in.txt", tmp_path / "out.txt", "--model=none") == FAILED
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
    ledger = tmp_path / "out.txt.parts"
    ledger.mkdir()
    (ledger / "plan.json").write_text("{}")  # as a killed run leaves it
    (tmp_path / name).write_text("mine")

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == USAGE

    assert (tmp_path / name).read_text() == "mine"


ODD = {
    "a number beyond 64 bits": [{"id": 1}, {"id": 10**20}],
    "numbers that no type has together": [{"id": 2**60 + 1}, {"id": 1.5}],
    "signed and beyond": [{"id": -1}, {"id": 2**63}],
    "half a character": [{"note": "\ud800"}, {"\ud800": 1}],
    "an object without keys": [{"m": {}}, {"m": [{}]}],
    "a thing and its opposite": [{"m": {"a": 1}}, {"m": [1]}],
    "no number": [{"x": float("nan")}, {"x": 1.0}],
    "two names that are one as UTF-8": [{"\ud800": 1, "\\ud800": 2}, {}],
}


@pytest.mark.parametrize("fields", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("records_a_part", [1, 16])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_any_field_has_a_place_in_the_output(
    tmp_path: Path, expected: list[str], fields: list[Any], records_a_part: int, kind: str
):
    """Regression: one ended the run, and every other that went on with it."""
    lines = [json.dumps({"text": TEXTS[0], **one}) for one in fields]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    output = tmp_path / f"out.{kind}"

    flags = [MODELS, f"--shard-records={records_a_part}"]
    assert main([str(tmp_path / "in.jsonl"), str(output), *flags]) == OK

    if kind == "parquet":
        rows = pyarrow.parquet.read_table(output).to_pylist()
    else:
        refuse = pytest.fail  # NaN is none of JSON's
        rows = [json.loads(one, parse_constant=refuse) for one in output.read_text().splitlines()]
    assert [row["translation"] for row in rows] == [expected[0]] * 2
    assert len(rows[0]) >= 3


def test_columns_of_parquet_keep_their_types(tmp_path: Path, expected: list[str]):
    nanoseconds = pyarrow.array([1_700_000_000_123_456_789] * 2, pyarrow.timestamp("ns"))
    columns = {
        "text": TEXTS[:2],
        "hash": pyarrow.array([1, 2**64 - 1], pyarrow.uint64()),
        "small": pyarrow.array([1, None], pyarrow.int8()),
        "score": pyarrow.array([0.1, 0.2], pyarrow.float32()),
        "when": nanoseconds,
        "bytes": [b"\xff", b""],
        "time": pyarrow.array([1, 2], pyarrow.time64("ns")),
        "far": pyarrow.array([2**60, 0], pyarrow.timestamp("us")),
        "map": pyarrow.array([[("a", float("nan"))], []], pyarrow.map_(pyarrow.string(), "f8")),
    }
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")

    assert batch(tmp_path / "in.parquet", tmp_path / "out.parquet") == OK
    assert batch(tmp_path / "in.parquet", tmp_path / "out.jsonl") == OK

    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    # NaN is not NaN, and of times that Python does not have Arrow reads no text again.
    kept = [name for name in table.column_names if name not in ("map", "time", "far")]
    assert found.select(kept).equals(table.select(kept))
    assert found.schema.field("map").type == table.schema.field("map").type
    first, last = json_lines(tmp_path / "out.jsonl")
    assert first["bytes"] == "/w=="
    assert first["when"] == "2023-11-14 22:13:20.123456789"
    assert last["hash"] == 2**64 - 1
    assert (first["time"], first["map"]) == ("00:00:00.000000001", [["a", None]])
    assert [first["translation"], last["translation"]] == expected[:2]


def test_columns_of_an_answer_s_name_keep_their_types_under_another(tmp_path: Path):
    columns = {
        "text": TEXTS[:1],
        "translation": pyarrow.array([1], pyarrow.int8()),
        "labels": ["x"],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")

    assert batch(tmp_path / "in.parquet", tmp_path / "out.parquet") == OK

    found = pyarrow.parquet.read_schema(tmp_path / "out.parquet")
    assert found.names == ["text", "input_translation", "input_labels", "translation"]
    assert found.field("input_translation").type == pyarrow.int8()


def test_a_table_with_two_columns_of_a_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = pyarrow.table([TEXTS[:1], [1], [2]], names=["text", "id", "id"])
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    assert batch(tmp_path / "in.parquet", tmp_path / "out.jsonl") == USAGE
    assert "has several columns of the name id" in capsys.readouterr().err


def test_a_name_that_ends_in_a_slash_is_a_folder(tmp_path: Path, expected: list[str]):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS[:20]))
    assert batch(tmp_path / "in.txt", f"{tmp_path / 'out'}/") == OK
    parts = sorted((tmp_path / "out").glob("part-*.txt"))
    assert [line for part in parts for line in part.read_text().splitlines()] == expected[:20]


def test_an_unknown_flag_is_the_command_s_own_to_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "in.txt").write_text(TEXTS[0])
    for flags, complaint in (
        (["--bogus"], "attendant-batch: error: unrecognized arguments: --bogus"),
        (["--device", "bogus"], "attendant-batch: setting device"),
    ):
        with pytest.raises(SystemExit) as ended:
            batch(tmp_path / "in.txt", tmp_path / "out.txt", *flags)
        assert complaint in capsys.readouterr().err + str(ended.value)


def test_a_stream_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "in.txt")
    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == USAGE
    assert f"{tmp_path / 'in.txt'} is a stream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "status", "complaint"),
    [
        (["--top-k=3"], USAGE, "--top-k: not to translate"),
        (["--task=classify"], USAGE, "cannot classify what is in"),
        (["--beam-size=1000"], FAILED, "beam_size is 1000"),
        (["--model=none"], FAILED, "no translation model none"),
    ],
)
def test_a_wrong_option_is_one_line_and_may_be_mended(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    status: int,
    complaint: str,
):
    (tmp_path / "in.txt").write_text(TEXTS[0])

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt", *flags) == status
    [line] = capsys.readouterr().err.splitlines()
    assert complaint in line

    assert batch(tmp_path / "in.txt", tmp_path / "out.txt") == OK
