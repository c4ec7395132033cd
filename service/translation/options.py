"""How a caller wants a text decoded, checked against the model's limits."""

import dataclasses
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from service.errors import InvalidOption
from service.translation.caches import CacheSizes

if TYPE_CHECKING:
    from service.bundle import TranslationCard
    from service.translation.workers import Workers

# More beams than this gain nothing (Koehn and Knowles 2017) and crowd others out of the batch.
MAX_BEAM_SIZE = 32


class EarlyStopping(Enum):
    """When a beam search has seen enough; Hugging Face's True, False and "never"."""

    ALL_FINISHED = "all_finished"  # as soon as there are beam_size hypotheses
    HEURISTIC = "heuristic"  # when no beam would beat the worst of them at its present length
    NEVER = "never"  # when no beam could beat the worst of them at any length


class FinishReason(Enum):
    """Why a sequence ended."""

    EOS = "eos"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Segmentation(Enum):
    """Whether a text is split into sentences before it is translated."""

    SENTENCES = "sentences"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """The options of one request, complete and valid for its model."""

    beam_size: int = 1  # 1 is greedy
    num_hypotheses: int = 1  # returned, best first
    length_penalty: float = 1.0  # score = log-probability / num_target_tokens ** length_penalty
    early_stopping: EarlyStopping = EarlyStopping.HEURISTIC
    max_target_tokens: int = 256  # a sequence; the end token counts, the start token does not
    min_target_tokens: int = 0
    repetition_penalty: float = 1.0  # Keskar et al. 2019; 1 is none
    no_repeat_ngram_size: int = 0  # 0 is off
    return_scores: bool = False

    @property
    def changes_scores(self) -> bool:
        """Whether what a sequence has so far changes the scores of what comes next."""
        return bool(self.no_repeat_ngram_size or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest values that a model's options may take."""

    max_source_tokens: int  # a sequence; longer sentences are cut
    max_target_tokens: int
    max_beam_size: int


def limits_of(card: "TranslationCard", precision: str, workers: "Workers") -> Limits:
    """What a decode worker takes: the longest sequence must fit, with a row for each beam."""
    max_rows = workers.cache_bytes_each // CacheSizes.of(card, precision).longest_row_bytes
    return Limits(
        max_source_tokens=card.limits.max_source_tokens,
        max_target_tokens=card.limits.max_target_tokens,
        max_beam_size=min(MAX_BEAM_SIZE, workers.max_rows, max_rows),
    )


def default_options(
    card: "TranslationCard", *, max_beam_size: int = MAX_BEAM_SIZE
) -> DecodingOptions:
    """What a model does unless it is asked for something else; never more beams than it can."""
    decoding = card.decoding
    beam_size = min(decoding.beam_size, max_beam_size)
    return DecodingOptions(
        beam_size=beam_size,
        num_hypotheses=min(decoding.num_hypotheses, beam_size),
        length_penalty=decoding.length_penalty,
        early_stopping=EarlyStopping(decoding.early_stopping),
        max_target_tokens=decoding.max_target_tokens,
        min_target_tokens=decoding.min_target_tokens,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
    )


def merge_options(  # noqa: PLR0913  # one keyword an option
    defaults: DecodingOptions,
    limits: Limits,
    *,
    beam_size: int | None = None,
    num_hypotheses: int | None = None,
    length_penalty: float | None = None,
    early_stopping: EarlyStopping | None = None,
    max_target_tokens: int | None = None,
    min_target_tokens: int | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    return_scores: bool | None = None,
) -> DecodingOptions:
    """The model's defaults with what the caller has set. Raises InvalidOption."""
    given = {
        "beam_size": beam_size,
        "num_hypotheses": num_hypotheses,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "max_target_tokens": max_target_tokens,
        "min_target_tokens": min_target_tokens,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "return_scores": return_scores,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if beam_size is not None and num_hypotheses is None:
        # The default number of hypotheses goes with the default beam.
        chosen["num_hypotheses"] = max(1, min(defaults.num_hypotheses, beam_size))
    if max_target_tokens is not None and min_target_tokens is None:
        chosen["min_target_tokens"] = max(0, min(defaults.min_target_tokens, max_target_tokens))
    options = dataclasses.replace(defaults, **chosen)  # type: ignore[arg-type]
    _validate(options, limits)
    return options


def _validate(options: DecodingOptions, limits: Limits) -> None:
    _in_range("beam_size", options.beam_size, 1, limits.max_beam_size)
    _in_range("num_hypotheses", options.num_hypotheses, 1, options.beam_size, "beam_size")
    _in_range("max_target_tokens", options.max_target_tokens, 1, limits.max_target_tokens)
    _in_range("min_target_tokens", options.min_target_tokens, 0, options.max_target_tokens)
    _in_range("no_repeat_ngram_size", options.no_repeat_ngram_size, 0, limits.max_target_tokens)
    if not math.isfinite(options.length_penalty):
        _refuse("length_penalty", f"is {options.length_penalty}, expected a finite number")
    if not (math.isfinite(options.repetition_penalty) and options.repetition_penalty > 0):
        _refuse("repetition_penalty", f"is {options.repetition_penalty}, expected more than 0")


def _in_range(name: str, value: int, low: int, high: int, high_name: str = "") -> None:
    if not low <= value <= high:
        named = f"{high_name} {high}" if high_name else str(high)
        _refuse(name, f"is {value}, expected {low} to {named}")


def _refuse(name: str, complaint: str) -> None:
    raise InvalidOption(f"{name} {complaint}", field=f"options.{name}")
