"""Reads and verifies a bundle: every file is there and is what bundle.json says it is."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from service.bundle.cards import BundleCard, ClassificationCard, TranslationCard
from service.bundle.fields import GraphName
from service.errors import BundleError

SCHEMA_VERSION = 1
CARD_FILE = "bundle.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: every file is there and is what bundle.json says it is."""

    folder: Path
    version: int
    card: BundleCard

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Read and verify the bundle in `folder`, whose name is its version. Raises BundleError."""
        if not folder.name.isascii() or not folder.name.isdigit():
            raise BundleError(f"expected a folder named by an integer version, found {folder.name}")
        card = read_card(folder)
        _verify_files(folder, card)
        return cls(folder=folder, version=int(folder.name), card=card)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def task(self) -> str:
        """ "translation" or "classification"."""
        return self.card.task

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions it ships."""
        return tuple(self.card.precisions)

    @property
    def translation(self) -> TranslationCard:
        """The card of a translation bundle. Raises BundleError for another task."""
        if not isinstance(self.card, TranslationCard):
            raise BundleError(f"expected a translation bundle, found {self.card.task}")
        return self.card

    @property
    def classification(self) -> ClassificationCard:
        """The card of a classification bundle. Raises BundleError for another task."""
        if not isinstance(self.card, ClassificationCard):
            raise BundleError(f"expected a classification bundle, found {self.card.task}")
        return self.card

    def path(self, precision: str, graph: GraphName) -> Path:
        """Where a graph is. Raises BundleError when the bundle does not ship it."""
        for shipped, graphs in self.card.precisions.items():
            if shipped == precision and graph in graphs:
                return self.folder / graphs[graph]
        found = ", ".join(self.precisions)
        raise BundleError(f"{self.name} has no {precision} {graph}; it ships {found}")


def is_version_folder(folder: Path) -> bool:
    """Whether a folder is named as a version: 7, neither 007 nor latest."""
    name = folder.name
    is_number = name.isascii() and name.isdigit() and name == str(int(name))
    return is_number and not folder.parent.name.startswith(".")


def read_card(folder: Path) -> BundleCard:
    """Parse bundle.json alone, without looking at the other files. Raises BundleError."""
    path = folder / CARD_FILE
    try:
        text = path.read_bytes()
        fields = json.loads(text)
    except FileNotFoundError as error:
        raise BundleError(f"expected {path}, found no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"expected JSON in {path}, found: {error}") from error
    if not isinstance(fields, dict):
        raise BundleError(f"expected an object in {path}, found {type(fields).__name__}")
    return _validate(path, text, fields)


def _validate(path: Path, text: bytes, fields: dict[str, object]) -> BundleCard:
    version, task = fields.get("schema_version"), fields.get("task")
    if version != SCHEMA_VERSION:
        raise BundleError(f"{path}: expected schema_version {SCHEMA_VERSION}, found {version!r}")
    cards: dict[str, type[BundleCard]] = {
        "translation": TranslationCard,
        "classification": ClassificationCard,
    }
    if not isinstance(task, str) or task not in cards:
        raise BundleError(f"{path}: expected task {' or '.join(cards)}, found {task!r}")
    try:
        return cards[task].model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{path}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    """The first few problems, each with its place, what was expected and what was found."""
    problems = []
    for detail in error.errors()[:5]:
        place = ".".join(map(str, detail["loc"]))
        found = detail["input"]
        shown = "" if isinstance(found, dict | list) else f", found {found!r:.100}"
        problems.append(f"{place}: {detail['msg']}{shown}" if place else detail["msg"])
    return "; ".join(problems)


def _verify_files(folder: Path, card: BundleCard) -> None:
    missing = sorted(set(card.required_files()) - set(card.files))
    if missing:
        raise BundleError(f"expected {folder / CARD_FILE} to list {', '.join(missing)} in `files`")
    root = folder.resolve()
    # Hidden files, too: they are not listed, but a graph may name one as its weights.
    for path in folder.rglob("*"):
        if not path.resolve().is_relative_to(root):
            name = path.relative_to(folder).as_posix()
            raise BundleError(f"expected {name} inside {folder}, found it at {path.resolve()}")
    for name, expected in card.files.items():
        path = (root / name).resolve()  # a symbolic link may lead out where the name does not
        if not path.is_relative_to(root):
            raise BundleError(f"expected {name} inside {folder}, found it at {path}")
        if not path.is_file():
            raise BundleError(f"expected {name} in {folder}, found no such file")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise BundleError(f"expected {name} in {folder}, found: {error}") from error
        if found != expected:
            raise BundleError(f"{folder}/{name}: expected sha256 {expected}, found {found}")
    unlisted = sorted(bundle_files(folder) - set(card.files))
    if unlisted:
        raise BundleError(f"expected only listed files in {folder}, found {', '.join(unlisted)}")


def precision_bytes(folder: Path, card: BundleCard, precision: str) -> int:
    """The size of a precision's files, graphs and weights; those that are missing count nothing."""
    graphs = next(graphs for name, graphs in card.precisions.items() if name == precision)
    folders = {(folder / path).parent for path in graphs.values()}
    listed = (folder / path for path in card.files)
    return sum(path.stat().st_size for path in listed if path.parent in folders and path.is_file())


def bundle_files(folder: Path) -> set[str]:
    """Relative paths of all files but bundle.json; names with a leading dot do not count."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in paths
        if path.as_posix() != CARD_FILE and not any(part.startswith(".") for part in path.parts)
    }


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
