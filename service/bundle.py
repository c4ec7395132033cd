"""The bundle format: one folder `NAME/VERSION/` that holds everything needed to serve one model.

    bundle.json        a `TranslationCard` or a `ClassificationCard`, with the sha256 of every file
    fp32/ int8/ fp16/  the ONNX graphs of a precision and the weights file they share
    source.spm ...     what the card's tokenizer names
    golden.json        answers to compare with, if the card names it; see `service.golden`
    MODEL_CARD.md      the same for people

This file reads and verifies bundles. It knows nothing of ONNX Runtime: `expected_tensors` says
which tensors a graph must have, and whoever opens a session compares. Every refusal is a
`BundleError` that says what was expected and what was found.
Letters: B batch, R rows, S source length, T target capacity, H heads, D head size, V vocabulary.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from service.errors import BundleError

SCHEMA_VERSION = 1
CARD_FILE = "bundle.json"

Precision = Literal["fp32", "int8", "fp16"]
GraphName = Literal["encoder", "decoder", "classifier"]
Activation = Literal["relu", "gelu", "swish"]
TokenId = Annotated[int, Field(ge=0)]


def _inside_the_folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ValueError("expected a relative path that stays inside the bundle")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_folder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    """Immutable, no unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TranslationArchitecture(_Model):
    """Sizes and switches of an encoder-decoder Transformer."""

    encoder_layers: PositiveInt
    decoder_layers: PositiveInt
    d_model: PositiveInt
    num_heads: PositiveInt
    head_size: PositiveInt
    ffn_size: PositiveInt
    vocab_size: PositiveInt
    max_positions: PositiveInt
    norm: Literal["post", "pre"]
    activation: Activation
    positions: Literal["sinusoidal"]

    @model_validator(mode="after")
    def _heads_fill_the_model(self) -> "TranslationArchitecture":
        if self.num_heads * self.head_size != self.d_model:
            found = f"{self.num_heads} * {self.head_size}"
            raise ValueError(
                f"expected num_heads * head_size = d_model {self.d_model}, not {found}"
            )
        return self


class VisionArchitecture(_Model):
    """Sizes of a Vision Transformer."""

    layers: PositiveInt
    d_model: PositiveInt
    num_heads: PositiveInt
    ffn_size: PositiveInt
    image_size: PositiveInt
    patch_size: PositiveInt
    stem: Literal["convolution", "patches"]


class Tokens(_Model):
    """Ids with a meaning. `forced_bos` is the first generated token of a model that wants one."""

    pad: TokenId
    eos: TokenId
    unk: TokenId
    decoder_start: TokenId
    forced_bos: TokenId | None = None


class Decoding(_Model):
    """Defaults of a request's options, and what a generation_config forces on every request."""

    beam_size: PositiveInt = 1
    num_hypotheses: PositiveInt = 1
    length_penalty: float = 1.0
    early_stopping: Literal["all_finished", "heuristic", "never"] = "heuristic"
    max_target_tokens: PositiveInt
    min_target_tokens: Annotated[int, Field(ge=0)] = 0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    forced_eos: TokenId | None = None
    suppressed_tokens: tuple[TokenId, ...] = ()
    renormalize: bool = False


class LanguagePair(_Model):
    """BCP 47 codes, such as en and de."""

    source: Annotated[str, Field(min_length=2)]
    target: Annotated[str, Field(min_length=2)]


class Tokenizer(_Model):
    """Two SentencePiece models (the same file, often) whose piece ids are the model's token ids."""

    kind: Literal["sentencepiece"]
    source: RelativePath
    target: RelativePath


class TranslationLimits(_Model):
    """The longest sentences the graphs take; the end token counts."""

    max_source_tokens: PositiveInt
    max_target_tokens: PositiveInt


class ImagePreprocessing(_Model):
    """The steps of a Hugging Face PIL image processor; `resample` as in PIL.Image.Resampling."""

    size: PositiveInt
    resample: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    rescale_factor: float = 1 / 255
    resize: bool = True
    convert_rgb: bool = True
    center_crop: PositiveInt | None = None
    shortest_edge: bool = False


class Provenance(_Model):
    """Where the weights come from, and what was measured about them."""

    data: str
    licence: str
    recipe: str
    trained_hours: float | None = None
    metrics: dict[str, dict[str, float]] = {}
    measured_with: dict[str, str] = {}  # the command that gives these figures, the machine, ...
    parity: dict[str, JsonValue] = {}


class BundleCard(_Model):
    """What the cards of all tasks have."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ()

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    task: Literal["translation", "classification"]
    precisions: dict[Precision, dict[GraphName, RelativePath]]
    golden: RelativePath | None = None  # what `service.golden` reads
    files: dict[RelativePath, Sha256] = {}
    provenance: Provenance

    def required_files(self) -> Iterator[str]:
        """Files that the card names and `files` must list."""
        for graphs in self.precisions.values():
            yield from graphs.values()
        if self.golden is not None:
            yield self.golden

    @model_validator(mode="after")
    def _precisions_are_complete(self) -> "BundleCard":
        if not self.precisions:
            raise ValueError("expected at least one precision, found none")
        for precision, graphs in self.precisions.items():
            if set(graphs) != set(self.GRAPHS):
                expected, found = ", ".join(self.GRAPHS), ", ".join(graphs) or "none"
                raise ValueError(
                    f"precision {precision}: expected graphs {expected}, found {found}"
                )
        return self


class TranslationCard(BundleCard):
    """A model that translates."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ("encoder", "decoder")

    task: Literal["translation"] = "translation"
    architecture: TranslationArchitecture
    tokens: Tokens
    decoding: Decoding
    language_pairs: Annotated[tuple[LanguagePair, ...], Field(min_length=1)]
    segmentation: Literal["sentences", "none"]
    tokenizer: Tokenizer
    limits: TranslationLimits
    quantized_caches: tuple[Precision, ...] = ()  # precisions whose attention caches are int8

    def cache_type(self, precision: str) -> str:
        """What the attention caches of a precision hold, as NumPy names it."""
        if precision in self.quantized_caches:
            return "int8"
        return "float16" if precision == "fp16" else "float32"

    def required_files(self) -> Iterator[str]:
        """The graphs, the tokenizer's files, the golden answers if there are any."""
        yield from super().required_files()
        yield from (self.tokenizer.source, self.tokenizer.target)

    @model_validator(mode="after")
    def _numbers_agree(self) -> "TranslationCard":
        longest = max(self.limits.max_source_tokens, self.limits.max_target_tokens)
        if longest > self.architecture.max_positions:
            positions = self.architecture.max_positions
            raise ValueError(f"expected limits of at most {positions} positions, found {longest}")
        if self.decoding.max_target_tokens > self.limits.max_target_tokens:
            limit, found = self.limits.max_target_tokens, self.decoding.max_target_tokens
            raise ValueError(
                f"expected decoding.max_target_tokens of at most {limit}, found {found}"
            )
        if self.decoding.num_hypotheses > self.decoding.beam_size:
            raise ValueError(
                f"expected decoding.num_hypotheses of at most beam_size {self.decoding.beam_size}, "
                f"found {self.decoding.num_hypotheses}"
            )
        tokens = [*self.tokens.model_dump().values(), self.decoding.forced_eos]
        highest = max(t for t in [*tokens, *self.decoding.suppressed_tokens] if t is not None)
        if highest >= self.architecture.vocab_size:
            raise ValueError(
                f"token {highest} is outside vocab_size {self.architecture.vocab_size}"
            )
        return self


class ClassificationCard(BundleCard):
    """A model that labels images."""

    GRAPHS: ClassVar[tuple[GraphName, ...]] = ("classifier",)

    task: Literal["classification"] = "classification"
    architecture: VisionArchitecture
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    image: ImagePreprocessing
    multi_label: bool = False


class TensorSpec(NamedTuple):
    """A tensor's NumPy type name and its shape, None where a size is free."""

    dtype: str
    shape: tuple[int | None, ...]


class GraphTensors(NamedTuple):
    """The inputs and the outputs, both in the order they are documented in."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


def expected_tensors(
    card: BundleCard, graph: GraphName, *, precision: str = "fp32"
) -> GraphTensors:
    """The tensors that a graph of this card must have in this precision."""
    match card, graph:
        case TranslationCard(), "encoder":
            return _encoder_tensors(card.architecture, card.cache_type(precision))
        case TranslationCard(), "decoder":
            return _decoder_tensors(card.architecture, card.cache_type(precision))
        case ClassificationCard(), "classifier":
            side = card.image.center_crop or card.architecture.image_size
            pixels = TensorSpec("float32", (None, 3, side, side))
            logits = TensorSpec("float32", (None, len(card.labels)))
            return GraphTensors({"pixel_values": pixels}, {"logits": logits})
    raise BundleError(f"a {card.task} bundle has graphs {', '.join(card.GRAPHS)}, not {graph}")


def _encoder_tensors(sizes: TranslationArchitecture, cache_type: str) -> GraphTensors:
    ids = TensorSpec("int64", (None, None))  # (B, S)
    return GraphTensors(
        {"input_ids": ids, "attention_mask": ids}, _caches("present", "encoder", sizes, cache_type)
    )


def _decoder_tensors(sizes: TranslationArchitecture, cache_type: str) -> GraphTensors:
    inputs = {
        "input_ids": TensorSpec("int64", (None, 1)),  # (R, 1)
        "seqlens_k": TensorSpec("int32", (None,)),  # (R,)
        "encoder_seqlens_k": TensorSpec("int32", (None,)),
        "total_sequence_length": TensorSpec("int32", ()),
        "encoder_total_sequence_length": TensorSpec("int32", ()),
    }
    inputs |= _caches("past_key_values", "decoder", sizes, cache_type)
    inputs |= _caches("past_key_values", "encoder", sizes, cache_type)
    outputs = {"logits": TensorSpec("float32", (None, sizes.vocab_size))}
    outputs |= _caches("present", "decoder", sizes, cache_type)
    if cache_type != "float32":  # GroupQueryAttention insists, though nothing is added to them
        outputs |= _caches("present", "encoder", sizes, cache_type)
    return GraphTensors(inputs, outputs)


def _caches(
    prefix: str, side: str, sizes: TranslationArchitecture, cache_type: str
) -> dict[str, TensorSpec]:
    spec = TensorSpec(cache_type, (None, sizes.num_heads, None, sizes.head_size))  # (B, H, S, D)
    return {
        f"{prefix}.{layer}.{side}.{part}": spec
        for layer in range(sizes.decoder_layers)
        for part in ("key", "value")
    }


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
