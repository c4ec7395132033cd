"""Public data sets come from a local server here: made-up files under the originals' names."""

import gzip
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.commands import main
from export.data.public import LANGUAGES, MULTI30K_FILES


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `files`; with `break_after` it hangs up in the middle of a file, once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FileHandler)
        self.files: dict[str, bytes] = {}
        self.break_after: int | None = None
        self.ranges: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FileHandler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.removeprefix("/"))
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if begin and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][: self.server.break_after])
        self.server.break_after = None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cifar10_archive(pictures: int = 3) -> tuple[bytes, np.ndarray]:  # type: ignore[type-arg]
    """Labels 0, 1, 0, 1, ... in every file; and the pixels of the test file."""
    pixels = np.random.default_rng(1).integers(0, 256, (pictures, 3, 32, 32), np.uint8)
    records = [bytes([n % 2]) + picture.tobytes() for n, picture in enumerate(pixels)]
    members = {f"data_batch_{n}.bin": b"".join(records) for n in range(1, 6)}
    members["test_batch.bin"] = b"".join(records)
    members["batches.meta.txt"] = b"airplane\nautomobile\n\n"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue(), pixels


def download(dataset: str, server: FileServer, folder: Path, *further: str) -> int:
    command = ["download", dataset, "--output", str(folder), "--from", server.address]
    return main([*command, "--any-content", *further])


def serve_multi30k(server: FileServer) -> None:
    for split in MULTI30K_FILES:
        for language in LANGUAGES:
            text = f"{split} {language}\n" * 50
            server.files[f"{split}.{language}.gz"] = gzip.compress(text.encode(), mtime=0)


def test_multi30k_is_fetched_once(server: FileServer, tmp_path: Path) -> None:
    serve_multi30k(server)
    assert download("multi30k", server, tmp_path) == 0
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == server.files
    assert download("multi30k", server, tmp_path) == 0
    assert len(server.ranges) == len(server.files)


def test_a_broken_download_goes_on_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    serve_multi30k(server)
    server.break_after = 20
    assert download("multi30k", server, tmp_path) == 0
    assert server.ranges[:2] == [None, "bytes=20-"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == server.files


def test_a_complete_file_without_its_name_is_not_fetched_again(
    server: FileServer, tmp_path: Path
) -> None:
    """As a kill between the last byte and the renaming leaves it."""
    serve_multi30k(server)
    (tmp_path / "train.en.gz.partial").write_bytes(server.files["train.en.gz"])
    assert download("multi30k", server, tmp_path) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == server.files


def test_files_that_are_not_the_known_ones_are_refused(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_multi30k(server)
    command = ["download", "multi30k", "--output", str(tmp_path), "--from", server.address]
    assert main(command) == 1
    assert "has another train.en.gz: expected sha256 d79cfa99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_parallel_are_refused(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_multi30k(server)
    server.files["val.fr.gz"] = gzip.compress(b"une ligne\n")
    assert download("multi30k", server, tmp_path) == 1
    assert "val is not parallel: its files have [1, 50] lines" in capsys.readouterr().err


def test_a_missing_file_is_named(
    server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download("cifar10", server, tmp_path) == 1
    expected = f"cannot download {server.address}/cifar-10-binary.tar.gz: HTTP Error 404"
    assert expected in capsys.readouterr().err


def test_cifar10_becomes_a_folder_for_each_label(server: FileServer, tmp_path: Path) -> None:
    archive, pixels = cifar10_archive()
    server.files["cifar-10-binary.tar.gz"] = archive
    assert download("cifar10", server, tmp_path) == 0
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"airplane", "automobile"}
    assert len(list((tmp_path / "train" / "airplane").iterdir())) == 10
    files = [f"airplane/{0:04}.png", f"automobile/{0:04}.png", f"airplane/{1:04}.png"]
    for file, expected in zip(files, pixels, strict=True):
        with Image.open(tmp_path / "test" / file) as picture:
            assert np.array_equal(np.asarray(picture), expected.transpose(1, 2, 0))


def test_pictures_half_written_by_a_killed_process_are_written_anew(
    server: FileServer, tmp_path: Path
) -> None:
    server.files["cifar-10-binary.tar.gz"] = cifar10_archive()[0]
    half = tmp_path / "train.partial" / "airplane"
    half.mkdir(parents=True)
    (half / "0000.png").write_bytes(b"half a picture")
    assert download("cifar10", server, tmp_path) == 0
    with Image.open(tmp_path / "train" / "airplane" / "0000.png") as picture:
        assert picture.size == (32, 32)
    assert not (tmp_path / "train.partial").exists()
