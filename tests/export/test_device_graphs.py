"""The graphs for devices that the server ships are the ones we build, and do what they say."""

import numpy as np
import onnx
import pytest

from export.graphs.device import GRAPHS, path_of
from service.translation import device_runner
from service.translation.device_memory import DeviceBuffer, DeviceGraph
from service.translation.device_runner import Candidates, Layout, RowCopies
from service.translation.selection import log_sum_exp


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_that_ships_is_the_one_we_build(name: str) -> None:
    assert onnx.load(path_of(name)) == GRAPHS[name]()


@pytest.mark.parametrize("vocab_size", [7, 64, 210, 419, 5000, 58_101])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_candidates_are_those_of_a_full_sort(vocab_size: int, count: int) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(0, 3, (33, vocab_size)).astype(np.float32)
    logits[3, 1:] = -np.inf  # a token alone
    on_device = DeviceBuffer("cpu", logits.shape, np.float32, "logits")
    on_device.write(logits)
    scores, values, tokens = Candidates("cpu", capture=True).find(on_device.view(), count)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    possible = np.isfinite(scores)
    assert possible.sum() == 32 * count + 1
    assert (tokens[possible] == expected[possible]).all()
    assert (values == np.take_along_axis(logits, tokens, axis=1)).all()
    own = values - log_sum_exp(logits)[:, None]
    assert scores[possible] == pytest.approx(own[possible], abs=1e-5)


def row_copies(source: Layout, target: Layout, lengths: list[int]) -> RowCopies:
    graph = DeviceGraph(path_of("transfer"), "cpu", capture=True)
    return RowCopies(graph, source, target, lengths, "cpu")


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_rows_are_copied_to_where_they_are_asked_for_and_nowhere_else(kind: type) -> None:
    rng = np.random.default_rng(2)
    planes, heads, head_size = 4, 3, 8
    source, target = (
        rng.normal(0, 1, (planes, rows, heads, capacity, head_size)).astype(kind)
        for rows, capacity in ((5, 11), (7, 24))
    )
    buffers, layouts = [], []
    for values in (source, target):
        buffers.append(DeviceBuffer("cpu", values.shape, kind, "caches"))
        buffers[-1].write(values)
        head_bytes = head_size * values.itemsize
        _, rows, _, capacity, _ = values.shape
        layouts.append(Layout(buffers[-1].address, planes, rows, heads, capacity, head_bytes))
    from_rows, to_rows = np.array([4, 0, 2]), np.array([1, 6, 3])
    row_copies(layouts[0], layouts[1], [9, 11]).copy(from_rows, to_rows, 8)
    expected = target.copy()
    expected[:, to_rows, :, :9] = source[:, from_rows, :, :9]
    assert (buffers[1].read() == expected).all()
    assert (buffers[0].read() == source).all()


@pytest.mark.parametrize("capacity", [40, 48, 512])
@pytest.mark.parametrize("num_pairs", [1, 2, 5, 9])
def test_rows_of_a_cache_are_copied_onto_others(
    capacity: int, num_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some at a time where they are long: four rows of 64 tokens are one time's bytes."""
    planes, num_rows, heads, head_size = 2, 19, 1, 8
    monkeypatch.setattr(device_runner, "COPIED_BYTES", 4 * planes * heads * 64 * head_size * 4)
    rng = np.random.default_rng(num_pairs)
    values = rng.normal(0, 1, (planes, num_rows, heads, capacity, head_size)).astype(np.float32)
    buffer = DeviceBuffer("cpu", values.shape, np.float32, "caches")
    layout = Layout(buffer.address, planes, num_rows, heads, capacity, 4 * head_size)
    copies = row_copies(layout, layout, [8, 32, capacity])
    copies.warm_up()
    buffer.write(values)
    for length in (1, 16, 17, capacity - 1, capacity):
        before = buffer.read()
        rows = rng.permutation(num_rows)
        sources, targets = rows[:num_pairs], rows[-num_pairs:]
        copies.copy(sources, targets, length)
        after = buffer.read()
        assert (after[:, targets, :, :length] == before[:, sources, :, :length]).all()
        others = rows[:-num_pairs]
        assert (after[:, others] == before[:, others]).all()
