"""How a bundle is written: whole or not at all, shown as it goes, however large its weights are."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.graphs.builder import GraphBuilder
from export.graphs.weights_file import WEIGHTS_FILE, WeightsFile
from export.huggingface.importing import ImportOptions, import_checkpoint
from export.huggingface.progress import Progress
from service.bundle import Bundle, BundleCard
from service.runtime import open_session
from tests.export.huggingface.classifiers import vit
from tests.export.huggingface.conftest import Checkpoints, Imports

ROOT = Path(__file__).resolve().parents[3]
FIVE_GIB = 5 << 30
EXACT = ImportOptions(precisions=("fp32",))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_an_export_killed_on_the_way_leaves_no_bundle_and_hinders_no_other(
    checkpoints: Checkpoints, output: Path
) -> None:
    folder = checkpoints("marian").folder
    command = [sys.executable, "-m", "export", "huggingface", str(folder), "--output", str(output)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if "writing int8" in line), None)
        process.kill()
    assert said is not None, "it ended before it could be killed"
    assert process.returncode == -signal.SIGKILL
    left = [path.name for path in output.parent.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".partial-")
    assert not list(output.parent.parent.glob("*/*/bundle.json"))  # what a server looks for
    assert import_checkpoint(folder, output, EXACT).bundle == Bundle.open(output)


class Terminal(io.StringIO):
    """Where people look on."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := stream())
    progress = Progress(2)
    for text in ("reading", "writing"):
        with progress.step(text):
            pass
    between = "\r" if stream is Terminal else "\n"
    first, second, last = (line for line in shown.getvalue().split(between) if line)
    assert first.startswith(f"[{'.' * 24}]")
    assert "s  reading" in first
    assert second.startswith(f"[{'#' * 12}{'.' * 12}]")
    assert "s  writing" in second
    assert last.startswith(f"[{'#' * 24}]")
    assert "s  done" in last
    assert shown.getvalue().endswith("\n")


def small_tensors_alone(bundle: Bundle, card: BundleCard) -> None:
    for precision, graphs in card.precisions.items():
        for name in graphs:
            graph = onnx.load(bundle.path(precision, name), load_external_data=False).graph
            for tensor in graph.initializer:
                if tensor.data_location != onnx.TensorProto.EXTERNAL:
                    assert np.prod(tensor.dims, dtype=int) * 8 <= 1024, tensor.name


def test_the_graphs_stay_small_whatever_the_weights(
    imports: Imports, tmp_path: Path, output: Path
) -> None:
    """protobuf holds 2 GB: every tensor of more than a kilobyte is in weights.bin, where offsets
    have 64 bits. So nothing in an .onnx grows with the model but the number of its layers."""
    pictures = import_checkpoint(vit(tmp_path / "vit").folder, output)
    for bundle in (imports("marian").bundle, imports("nllb").bundle, pictures.bundle):
        small_tensors_alone(bundle, bundle.card)


class FarWeightsFile(WeightsFile):
    """Begins behind a hole, which takes no room on the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file.seek(FIVE_GIB)


def test_weights_behind_the_fourth_gibibyte_are_found(tmp_path: Path) -> None:
    """As a large model has them."""
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    with FarWeightsFile(tmp_path) as weights:
        builder = GraphBuilder("far", weights)
        builder.input("x", "float32", [2, 3])
        total = builder.node("Add", "x", builder.weight("far", expected))
        builder.output(total, "float32", [2, 3])
        builder.save(tmp_path / "far.onnx")
    assert (tmp_path / WEIGHTS_FILE).stat().st_size > FIVE_GIB
    session = open_session(tmp_path / "far.onnx", device="cpu", threads=1, mapped=True)
    (found,) = session.run(None, {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(found, expected + 1)
