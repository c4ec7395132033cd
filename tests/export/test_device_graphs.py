"""The graphs for devices that the server ships are the ones we build, and do what they say."""

import numpy as np
import onnx
import pytest

from export.graphs.device import GRAPHS, path_of
from service.translation.caches import CacheSizes
from service.translation.device_memory import DeviceBuffer
from service.translation.device_runner import Candidates, DeviceModel, Layout, RowTransfer
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
    sizes = CacheSizes(2, 1, 8, np.dtype(np.float32), 8, 8)
    model = DeviceModel(path_of("fetch"), path_of("fetch"), sizes, vocab_size, "cpu")
    scores, values, tokens = Candidates(model, capture=True).find(on_device.view(), count)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    possible = np.isfinite(scores)
    assert possible.sum() == 32 * count + 1
    assert (tokens[possible] == expected[possible]).all()
    assert (values == np.take_along_axis(logits, tokens, axis=1)).all()
    own = values - log_sum_exp(logits)[:, None]
    assert scores[possible] == pytest.approx(own[possible], abs=1e-5)


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
    RowTransfer("cpu").copy(layouts[0], from_rows, layouts[1], to_rows, 9)
    expected = target.copy()
    expected[:, to_rows, :, :9] = source[:, from_rows, :, :9]
    assert (buffers[1].read() == expected).all()
    assert (buffers[0].read() == source).all()


def test_rows_that_change_places_do_not_lose_what_they_have() -> None:
    values = np.arange(2 * 4 * 1 * 16 * 8, dtype=np.float32).reshape(2, 4, 1, 16, 8)
    buffer = DeviceBuffer("cpu", values.shape, np.float32, "caches")
    buffer.write(values)
    layout = Layout(buffer.address, 2, 4, 1, 16, 32)
    rows = np.array([0, 3])
    RowTransfer("cpu").copy(layout, rows, layout, rows[::-1], 8)
    expected = values.copy()
    expected[:, [3, 0], :, :8] = values[:, [0, 3], :, :8]
    assert (buffer.read() == expected).all()
