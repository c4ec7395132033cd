"""How many engines a cluster gets; tests/scale runs some."""

import pytest

from batch.cluster import _actors


@pytest.mark.parametrize(
    ("cpus", "wanted", "expected"),
    [
        ([8, 8], None, (8, 2)),
        ([32, 8], None, (8, 5)),
        ([0, 4], None, (4, 1)),  # a head that computes nothing
        ([32, 8], 3, (3, 12)),
        ([8, 2], 4, (4, 2)),
    ],
)
def test_actors_fit_on_the_machines(
    cpus: list[int], wanted: int | None, expected: tuple[int, int]
) -> None:
    assert _actors(cpus, wanted) == expected


@pytest.mark.parametrize(("cpus", "wanted"), [([8, 4], 16), ([0], None)])
def test_an_actor_that_fits_nowhere_is_refused(cpus: list[int], wanted: int | None) -> None:
    """Regression: it was waited for, for ever."""
    with pytest.raises(ValueError, match="the largest machine of the cluster has"):
        _actors(cpus, wanted)
