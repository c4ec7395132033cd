"""The comparison with `generate` finds what differs, and its command prints what it found."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from export.verify.exactness import Comparison, Hypotheses, Reference, compare
from service.translation.options import DecodingOptions, FinishReason
from service.translation.sequence import ScoredTokens

ROOT = Path(__file__).resolve().parent.parent
EOS = 2


class ScoredByTable:
    """Stands where a reference does: it knows the float64 scores of some targets."""

    def __init__(self, scores: dict[tuple[int, ...], float]) -> None:
        self.scores = scores

    def exact_score(self, source: Any, target: Sequence[int], options: Any) -> float:
        return self.scores[tuple(target)]


def answer(*hypotheses: tuple[list[int], float]) -> Hypotheses:
    return [ScoredTokens(score, ids, FinishReason.EOS) for ids, score in hypotheses]


def compared(
    ours: Hypotheses, theirs: Hypotheses, scores: dict[tuple[int, ...], float] | None = None
) -> Comparison:
    """Of two sentences, the second of which is the same on both sides."""
    same = answer(([9, EOS], -0.5))
    requests = [([5, EOS], DecodingOptions(beam_size=4))] * 2
    reference = cast(Reference, ScoredByTable(scores or {}))
    return compare(reference, requests, [ours, same], [theirs, same])


def test_the_same_ids_and_nearly_the_same_scores_are_identical() -> None:
    found = compared(answer(([7, EOS], -0.70001)), answer(([7, EOS], -0.7)))
    assert (found.num_sentences, found.num_identical) == (2, 2)
    assert found.largest_score_error == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "theirs",
    [
        answer(([7, EOS], -0.71)),
        answer(([7, EOS], -0.7), ([8, EOS], -0.9)),
        answer(([8, EOS], -0.7)),
        [ScoredTokens(-0.7, [7, EOS], FinishReason.LENGTH)],
    ],
    ids=["score", "number of hypotheses", "ids", "finish reason"],
)
def test_anything_else_is_a_difference(theirs: Hypotheses) -> None:
    scores = {(7, EOS): -0.7, (8, EOS): -0.70002}
    found = compared(answer(([7, EOS], -0.7)), theirs, scores)
    assert (found.num_identical, len(found.differences), found.ties) == (1, 1, ())


def test_other_ids_of_the_same_score_tie_and_are_listed() -> None:
    scores = {(7, EOS): -0.7, (8, EOS): -0.700004}
    found = compared(answer(([7, EOS], -0.7)), answer(([8, EOS], -0.7)), scores)
    assert (found.num_identical, found.differences) == (1, ())
    assert "[7, 2] has -0.7000000, [8, 2] -0.7000040" in found.ties[0]


def test_a_tie_beside_a_wrong_score_is_a_difference() -> None:
    ours, theirs = (
        answer(([first, EOS], -0.7), ([6, EOS], second))
        for first, second in ((7, -0.9), (8, -0.95))
    )
    found = compared(ours, theirs, {(7, EOS): -0.7, (8, EOS): -0.7})
    assert (len(found.ties), len(found.differences)) == (0, 1)


def test_the_command_prints_a_line_a_setting_and_both_precisions(tmp_path: Path) -> None:
    source, target = tmp_path / "text.en", tmp_path / "text.de"
    source.write_text("A man is riding a horse.\nTwo dogs.\n", "utf-8")
    target.write_text("Ein Mann reitet auf einem Pferd.\nZwei Hunde.\n", "utf-8")
    command = [sys.executable, "-m", "bench.exactness", "--settings", "greedy", "beam 4"]
    found = subprocess.run(
        [*command, "--data", str(source), "--references", str(target)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    for name in ("greedy", "beam 4"):
        assert re.search(rf"^\| {name} \| 2 \| 2 \| 0 \| 0 \| \S+ \|", found.stdout, re.MULTILINE)
    assert re.search(
        r"^\| beam 5, heuristic \| \d+\.\d+ \| \d+\.\d+ \|", found.stdout, re.MULTILINE
    )
