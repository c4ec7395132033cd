"""The selection graph that the server ships is the one we build, and chooses what a sort would."""

import numpy as np
import onnx
import pytest

from export.graphs.selection import PATH, selection_graph
from service.translation.graphs import Selection
from service.translation.selection import log_sum_exp


def test_the_graph_that_ships_is_the_one_we_build() -> None:
    assert onnx.load(PATH) == selection_graph()


@pytest.mark.parametrize("vocab_size", [7, 64, 210, 419, 5000, 32_000])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_best_tokens_are_those_of_a_full_sort(vocab_size: int, count: int) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(0, 3, (33, vocab_size)).astype(np.float32)
    logits[3, 1:] = -np.inf  # a token alone
    values, tokens = Selection(vocab_size, "cpu").best_tokens(logits.copy(), count)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    possible = np.isfinite(values)
    assert possible.sum() == 32 * count + 1
    assert (tokens[possible] == expected[possible]).all()
    scores = np.take_along_axis(logits, expected, axis=1) - log_sum_exp(logits)[:, None]
    assert values[possible] == pytest.approx(scores[possible], abs=1e-5)


def test_what_is_chosen_for_a_row_does_not_depend_on_the_others() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (120, 5000)).astype(np.float32)
    selection = Selection(5000, "cpu")
    together = selection.best_tokens(logits, 10)
    for row in range(len(logits)):
        alone = selection.best_tokens(logits[row : row + 1], 10)
        assert all((a[0] == b[row]).all() for a, b in zip(alone, together, strict=True))
        fewer = selection.best_tokens(logits[row : row + 1], 5)
        assert all((a[0] == b[row, :5]).all() for a, b in zip(fewer, together, strict=True))
