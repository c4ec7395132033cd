"""Golden answers: what the server's engines answered where a bundle was exported.

`golden.json` lies in the bundle, listed and hashed like its other files: a few texts or images and,
for each precision, the answer to each of them alone. `attendant-server --self-test` asks again on
another machine. This file knows the format and when two answers are the same; not who gives them.
"""

import base64
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Annotated, ClassVar, Literal, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from service.bundle import Bundle, LanguagePair, Precision
from service.errors import BundleError

GOLDEN_FILE = "golden.json"

# An image's best labels; a card may have a thousand.
_KEPT_LABELS = 5


def _decode(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


Image = Annotated[bytes, BeforeValidator(_decode), PlainSerializer(_encode, when_used="json")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Answer(Protocol):
    """An engine's answer to one text or image; `==` compares it to the last bit."""

    TOLERANCE: ClassVar[float]  # of `distance`, where other arithmetic must give the same answer

    def is_same(self, other: Self) -> bool:
        """Whether a caller reads the same, or may: the two are tied."""

    def distance(self, other: Self) -> float:
        """The largest difference of a number."""

    def likeness(self, other: Self) -> float:
        """From 0 to 1, nothing in common to identical."""


class TextAnswer(_Model):
    """A translation, its score and its length."""

    # float32 log-probabilities of another CPU differ by some 1e-6; a wrong kernel's by far more.
    TOLERANCE: ClassVar[float] = 1e-4
    TIE: ClassVar[float] = 1e-5

    text: str
    score: float
    num_tokens: int

    def is_same(self, other: Self) -> bool:
        """The same text, or another one that the model finds as good."""
        return self.text == other.text or self.distance(other) <= self.TIE

    def distance(self, other: Self) -> float:
        """Of the scores."""
        return abs(self.score - other.score)

    def likeness(self, other: Self) -> float:
        """The share of characters that are matched, in order."""
        return SequenceMatcher(None, self.text, other.text, autojunk=False).ratio()

    def __str__(self) -> str:
        return f'"{self.text}" (score {self.score:.6f})'


class LabelProbability(_Model):
    """One label of an image."""

    index: int
    label: str
    probability: float


class ImageAnswer(_Model):
    """An image's labels, most probable first."""

    # Also room for a JPEG decoder that rounds differently.
    TOLERANCE: ClassVar[float] = 1e-3
    TIE: ClassVar[float] = 1e-4

    labels: Annotated[tuple[LabelProbability, ...], Field(min_length=1)]

    def kept(self) -> Self:
        """Only the best ones."""
        return self.model_copy(update={"labels": self.labels[:_KEPT_LABELS]})

    def is_same(self, other: Self) -> bool:
        """The same best label, or another one that is as probable."""
        rival = self._probabilities().get(other.labels[0].index, 0.0)
        return abs(self.labels[0].probability - rival) <= self.TIE

    def distance(self, other: Self) -> float:
        """Of the probabilities of this one's labels."""
        found = other._probabilities()
        return max(abs(one.probability - found.get(one.index, 0.0)) for one in self.labels)

    def likeness(self, other: Self) -> float:
        """1 less the distance."""
        return 1.0 - self.distance(other)

    def _probabilities(self) -> dict[int, float]:
        return {one.index: one.probability for one in self.labels}

    def __str__(self) -> str:
        best = self.labels[0]
        return f"{best.label} ({best.probability:.4%})"


class Origin(_Model):
    """Where answers were given, as far as their last bits depend on it."""

    processor: str
    arithmetic: str  # its instructions for products
    onnxruntime: str

    def computes_like(self, other: "Origin") -> bool:
        """Whether even int8, whose rounding may tip over, gives the same answers on both."""
        return (self.arithmetic, self.onnxruntime) == (other.arithmetic, other.onnxruntime)

    def __str__(self) -> str:
        return f"{self.processor}, onnxruntime {self.onnxruntime}"


class GoldenTexts(_Model):
    """Of a translation bundle; `answers` by precision and then by way: "greedy", "beam 4".

    `languages` has a pair for each text, or none where the model has one direction.
    """

    task: Literal["translation"] = "translation"
    origin: Origin
    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    languages: tuple[LanguagePair, ...] = ()
    answers: dict[Precision, dict[str, tuple[TextAnswer, ...]]]

    @model_validator(mode="after")
    def _every_text_is_answered(self) -> "GoldenTexts":
        if self.languages and len(self.languages) != len(self.texts):
            found = len(self.languages)
            raise ValueError(f"expected {len(self.texts)} pairs of languages, not {found}")
        _check_lengths(len(self.texts), self.answers)
        return self


class GoldenImages(_Model):
    """Of a classification bundle, the images as files; `answers` as above, the way is "labels"."""

    task: Literal["classification"] = "classification"
    origin: Origin
    images: Annotated[tuple[Image, ...], Field(min_length=1)]
    answers: dict[Precision, dict[str, tuple[ImageAnswer, ...]]]

    @model_validator(mode="after")
    def _every_image_is_answered(self) -> "GoldenImages":
        _check_lengths(len(self.images), self.answers)
        return self


Golden = GoldenTexts | GoldenImages


def read_golden(bundle: Bundle) -> Golden | None:
    """What the bundle holds; None where its card names no such file. Raises BundleError."""
    if bundle.card.golden is None:
        return None
    path = bundle.folder / bundle.card.golden
    kind = GoldenTexts if bundle.task == "translation" else GoldenImages
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BundleError(f"expected golden answers in {path}, found: {error}") from error


def _check_lengths(
    expected: int, answers: Mapping[Precision, Mapping[str, Sequence[object]]]
) -> None:
    for precision, ways in answers.items():
        for way, found in ways.items():
            if len(found) != expected:
                raise ValueError(
                    f"{precision}, {way}: expected {expected} answers, not {len(found)}"
                )
