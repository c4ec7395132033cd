"""What calls answer with, as plain immutable data. Knows nothing of the wire."""

from dataclasses import dataclass
from typing import Literal

from attendant.errors import AttendantError

EarlyStopping = Literal["all_finished", "heuristic", "never"]
FinishReason = Literal["eos", "length"]
ModelState = Literal["unloaded", "loading", "ready", "degraded", "failed"]
Health = Literal["SERVING", "NOT_SERVING", "SERVICE_UNKNOWN", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a call went, in the server. Stages of one call may overlap."""

    queue_seconds: float
    preprocess_seconds: float
    encode_seconds: float
    decode_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation of a text. `score` is None unless asked for with return_scores."""

    text: str
    score: float | None
    target_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of one text: an error, or hypotheses, best first.

    In a stream `model`, `model_version` and `timing` come with the StreamSummary, not here.
    """

    error: AttendantError | None
    hypotheses: tuple[Hypothesis, ...]
    source_tokens: int
    num_sequences: int
    model: str = ""
    model_version: str = ""
    timing: Timing | None = None

    @property
    def best(self) -> Hypothesis:
        """The best hypothesis; raises the text's error if it has one."""
        if self.error is not None:
            raise self.error
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The best translation; raises the text's error if it has one."""
        return self.best.text

    @property
    def score(self) -> float | None:
        """The best translation's score; raises the text's error if it has one."""
        return self.best.score


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the translation of text `content_index`, to be appended to what came before."""

    content_index: int
    text: str


@dataclass(frozen=True, slots=True)
class TextFinished:
    """Text `content_index` is done."""

    content_index: int
    translation: Translation


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """All texts are done: the last event of a stream."""

    model: str
    model_version: str
    timing: Timing


TranslationEvent = TextDelta | TextFinished | StreamSummary


@dataclass(frozen=True, slots=True)
class Label:
    """One label of an image: its name, its place in the model's labels, and how probable it is."""

    name: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Classification:
    """What became of one image: an error, or labels, most probable first."""

    error: AttendantError | None
    labels: tuple[Label, ...]
    model: str
    model_version: str
    timing: Timing

    @property
    def label(self) -> Label:
        """The most probable label; raises the image's error if it has one."""
        if self.error is not None:
            raise self.error
        return self.labels[0]


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a model decodes what a request leaves open."""

    beam_size: int
    num_hypotheses: int
    length_penalty: float
    early_stopping: EarlyStopping | None
    max_target_tokens: int
    min_target_tokens: int
    repetition_penalty: float
    no_repeat_ngram_size: int
    return_scores: bool


@dataclass(frozen=True, slots=True)
class LanguagePair:
    """One direction of translation, in BCP-47 codes."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class TranslationModel:
    """What a translation model offers, and the limits of a request.

    A multilingual model has no pairs: it translates each of its sources into each other target.
    """

    language_pairs: tuple[LanguagePair, ...]
    default_options: DecodingOptions
    max_source_tokens: int
    max_target_tokens: int
    max_beam_size: int
    max_contents: int
    max_text_bytes: int
    source_languages: tuple[str, ...] = ()
    target_languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassificationModel:
    """What a classification model offers, and the limits of a request."""

    labels: tuple[str, ...]
    max_images: int
    max_image_pixels: int


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from, and its measured quality at the precision that serves."""

    data: str
    licence: str
    recipe: str
    trained_hours: float
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One version of a model. `task` is None for one that could not be opened."""

    name: str
    version: str
    state: ModelState | None
    state_message: str
    precision: str
    device: str
    provenance: Provenance
    task: TranslationModel | ClassificationModel | None
