"""What the engine answers with: whole translations, or the events of a stream."""

from dataclasses import dataclass, field

from service.errors import AttendantError
from service.translation.options import FinishReason


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation of a text. The score is set where it was asked for."""

    text: str
    score: float | None
    num_target_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class TranslationResult:
    """The hypotheses of one text, best first, or why there are none."""

    error: AttendantError | None = None
    hypotheses: tuple[Hypothesis, ...] = ()
    num_source_tokens: int = 0
    num_sequences: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call. Of several sequences, the longest counts for each phase."""

    queue_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    total_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Translation:
    """One result for each text of a call, in order."""

    results: list[TranslationResult]
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Further text of one content; what was sent before stays."""

    content_index: int
    text: str


@dataclass(frozen=True, slots=True)
class TextFinished:
    """The result of one content, equal to what a call without a stream returns."""

    content_index: int
    result: TranslationResult


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a stream."""

    timing: Timing


StreamEvent = TextDelta | TextFinished | Summary
