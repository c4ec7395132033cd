"""Which sentences the encoder is given together."""

import pytest

from service.translation.runner import RUN_TOKENS, encoded_together
from tests.translation.fakes import make_sequence


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([7], [[7]]),
        ([9, 3, 5], [[3, 5, 9]]),
        ([4, 4 + RUN_TOKENS], [[4, 4 + RUN_TOKENS]]),
        ([4, 5 + RUN_TOKENS], [[4], [5 + RUN_TOKENS]]),
        ([8] * 20 + [9], [[8] * 20, [9]]),  # padding twenty takes longer than another run
        ([50, 8, 48, 8, 51, 9], [[8, 8, 9], [48, 50, 51]]),
    ],
)
def test_sentences_are_padded_where_that_takes_less_than_another_run(
    lengths: list[int], expected: list[list[int]]
) -> None:
    groups = encoded_together([make_sequence(range(length)) for length in lengths])
    assert [[len(one.source_ids) for one in group] for group in groups] == expected
