"""The public data sets that the default models are trained on, fetched from where they are kept."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.data.downloads import RemoteFile, download
from export.data.parallel import read_lines

MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
CIFAR10 = "https://www.cs.toronto.edu/~kriz"

LANGUAGES = ("en", "de", "fr")
MULTI30K_FILES = {
    "train": {
        "en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    },
    "val": {
        "en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    },
    "test_2016_flickr": {
        "en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56b90987c40c8b90",
    },
}
CIFAR10_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9dddda3db29a59bca1dd",
)
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_SIDE = 32
CIFAR10_RECORD = 1 + 3 * CIFAR10_SIDE**2  # bytes: the label, then all reds, greens and blues


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to fetch from, if not from the authors, and whether other content may be there."""

    base: str | None = None
    any_content: bool = False

    def fetch(self, file: RemoteFile, default_base: str, folder: Path) -> Path:
        """Download a file into the folder."""
        wanted = replace(file, sha256=None) if self.any_content else file
        return download(wanted, self.base or default_base, folder)


def download_multi30k(folder: Path, origin: Origin) -> None:
    """Fetch Multi30k (Elliott et al. 2016, 2017), task 1: SPLIT.LANGUAGE.gz, lines parallel.

    The captions derive from Flickr30k, whose terms allow research and education only.
    """
    for split, digests in MULTI30K_FILES.items():
        num_lines = set()
        for language in LANGUAGES:
            file = RemoteFile(f"{split}.{language}.gz", digests[language])
            num_lines.add(len(read_lines(origin.fetch(file, MULTI30K, folder))))
        if len(num_lines) > 1:
            raise ValueError(f"{split} is not parallel: its files have {sorted(num_lines)} lines")


def download_cifar10(folder: Path, origin: Origin) -> None:
    """Fetch CIFAR-10 (Krizhevsky 2009) as folder/train/LABEL/NNNN.png and folder/test/..."""
    archive = origin.fetch(CIFAR10_ARCHIVE, CIFAR10, folder)
    with tarfile.open(archive) as tar:
        labels = _read_member(tar, "batches.meta.txt").decode().split()
        train = [f"data_batch_{number}.bin" for number in range(1, 6)]
        for split, members in (("train", train), ("test", ["test_batch.bin"])):
            if not (folder / split).exists():
                _write_pictures(tar, members, labels, folder / split)


def _write_pictures(
    tar: tarfile.TarFile, members: list[str], labels: list[str], output: Path
) -> None:
    """Write FOLDER/LABEL/NNNN.png; the folder gets its name when all are there."""
    partial = output.with_name(output.name + ".partial")
    counts = dict.fromkeys(labels, 0)
    for label in labels:
        (partial / label).mkdir(parents=True, exist_ok=True)
    for member in members:
        for target, pixels in _records(_read_member(tar, member)):
            label = labels[target]
            Image.fromarray(pixels).save(partial / label / f"{counts[label]:04}.png")
            counts[label] += 1
    partial.rename(output)


def _records(content: bytes) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Label and picture (height, width, 3) of every record."""
    if len(content) % CIFAR10_RECORD:
        raise ValueError(f"expected records of {CIFAR10_RECORD} bytes, found {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
    planes = records[:, 1:].reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE)
    for target, picture in zip(records[:, 0], planes, strict=True):
        yield int(target), np.ascontiguousarray(picture.transpose(1, 2, 0))


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        stream = tar.extractfile(f"{CIFAR10_FOLDER}/{name}")
    except KeyError:
        stream = None
    if stream is None:
        raise ValueError(f"expected {CIFAR10_FOLDER}/{name} in the archive, found none")
    return stream.read()
