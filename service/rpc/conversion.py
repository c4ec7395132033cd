"""Messages of the public API <-> the engines' own objects. Pure functions; no gRPC.

HTTP's JSON goes through the same messages, so nothing is converted twice.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf import duration_pb2
from google.rpc import status_pb2

from attendant.v1 import (
    classification_pb2,
    common_pb2,
    model_pb2,
    translation_pb2,
)
from service.bundle import BundleCard, ClassificationCard, TranslationCard
from service.classification.engine import ClassificationResult, ClassificationTiming
from service.errors import InvalidArgument, InvalidOption
from service.model import Model, ModelState
from service.rpc.status import to_status
from service.settings import Settings
from service.translation.options import (
    DecodingOptions,
    EarlyStopping,
    FinishReason,
    Limits,
    Segmentation,
    default_options,
    limits_of,
)
from service.translation.results import Hypothesis, Timing, TranslationResult
from service.translation.workers import Workers

MAX_CONTENTS = 1024
MAX_IMAGES = 64

_INTEGER_OPTIONS = (
    "beam_size",
    "num_hypotheses",
    "max_target_tokens",
    "min_target_tokens",
    "no_repeat_ngram_size",
)
_FLOAT_OPTIONS = ("length_penalty", "repetition_penalty")

_EARLY_STOPPING = {
    common_pb2.EARLY_STOPPING_ALL_FINISHED: EarlyStopping.ALL_FINISHED,
    common_pb2.EARLY_STOPPING_HEURISTIC: EarlyStopping.HEURISTIC,
    common_pb2.EARLY_STOPPING_NEVER: EarlyStopping.NEVER,
}
_EARLY_STOPPING_NUMBERS = {ours: number for number, ours in _EARLY_STOPPING.items()}

_SEGMENTATION: dict[int, Segmentation | None] = {
    translation_pb2.SEGMENTATION_UNSPECIFIED: None,
    translation_pb2.SEGMENTATION_SENTENCES: Segmentation.SENTENCES,
    translation_pb2.SEGMENTATION_NONE: Segmentation.NONE,
}

_FINISH_REASON = {
    FinishReason.EOS: translation_pb2.FINISH_REASON_EOS,
    FinishReason.LENGTH: translation_pb2.FINISH_REASON_LENGTH,
}

_STATE = {
    ModelState.UNLOADED: model_pb2.MODEL_STATE_UNLOADED,
    ModelState.LOADING: model_pb2.MODEL_STATE_LOADING,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.DEGRADED: model_pb2.MODEL_STATE_DEGRADED,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
}


TimeRemaining = Callable[[], float | None]  # seconds to a call's deadline, or None


def no_deadline() -> float | None:
    """The call has as long as it takes."""
    return None


def check_count(num_items: int, limit: int, field: str) -> None:
    """Raise InvalidArgument unless there are 1 to `limit` items in `field`."""
    if not 1 <= num_items <= limit:
        raise InvalidArgument(f"{field} has {num_items} items, expected 1 to {limit}", field=field)


def decoding_overrides(options: common_pb2.DecodingOptions) -> dict[str, Any]:
    """The options that a request sets, by the names of DecodingOptions. Raises InvalidOption."""
    overrides: dict[str, Any] = {}
    for name in (*_INTEGER_OPTIONS, *_FLOAT_OPTIONS, "return_scores"):
        if options.HasField(name):
            overrides[name] = getattr(options, name)
    for name in _FLOAT_OPTIONS:
        if name in overrides:
            overrides[name] = _shortest_decimal(overrides[name])
    if options.early_stopping != common_pb2.EARLY_STOPPING_UNSPECIFIED:
        if options.early_stopping not in _EARLY_STOPPING:
            raise InvalidOption(
                f"early_stopping is {options.early_stopping}, expected 0 to 3",
                field="options.early_stopping",
            )
        overrides["early_stopping"] = _EARLY_STOPPING[options.early_stopping]
    return overrides


def _shortest_decimal(value: float) -> float:
    """0.6 for the float32 0.60000002384: what the caller wrote, not what the wire made of it."""
    return float(str(np.float32(value)))  # NumPy writes the shortest that reads the same


def segmentation_from_proto(segmentation: int) -> Segmentation | None:
    """None is the model's own way. Raises InvalidOption."""
    if segmentation not in _SEGMENTATION:
        raise InvalidOption(
            f"segmentation is {segmentation}, expected 0 to 2", field="segmentation"
        )
    return _SEGMENTATION[segmentation]


def translation_result_to_proto(
    index: int, result: TranslationResult
) -> translation_pb2.TranslationResult:
    """The result of contents[index]."""
    if result.error is not None:
        status = to_status(result.error, field=f"contents[{index}]")
        return translation_pb2.TranslationResult(status=status)
    return translation_pb2.TranslationResult(
        status=status_pb2.Status(),
        hypotheses=map(_hypothesis_to_proto, result.hypotheses),
        source_tokens=result.num_source_tokens,
        num_sequences=result.num_sequences,
    )


def _hypothesis_to_proto(hypothesis: Hypothesis) -> translation_pb2.Hypothesis:
    return translation_pb2.Hypothesis(
        text=hypothesis.text,
        score=hypothesis.score,
        target_tokens=hypothesis.num_target_tokens,
        finish_reason=_FINISH_REASON[hypothesis.finish_reason],
    )


def classification_result_to_proto(
    index: int, result: ClassificationResult
) -> classification_pb2.ClassificationResult:
    """The result of images[index]."""
    if result.error is not None:
        status = to_status(result.error, field=f"images[{index}]")
        return classification_pb2.ClassificationResult(status=status)
    return classification_pb2.ClassificationResult(
        status=status_pb2.Status(),
        labels=(
            classification_pb2.LabelScore(
                label=score.label, index=score.index, probability=score.probability
            )
            for score in result.labels
        ),
    )


def timing_to_proto(timing: Timing) -> common_pb2.Timing:
    """Where the time of a translation went."""
    return common_pb2.Timing(
        queue_duration=_duration(timing.queue_seconds),
        preprocess_duration=_duration(timing.preprocess_seconds),
        encode_duration=_duration(timing.encode_seconds),
        decode_duration=_duration(timing.decode_seconds),
        total_duration=_duration(timing.total_seconds),
    )


def classification_timing_to_proto(timing: ClassificationTiming) -> common_pb2.Timing:
    """Where the time of a classification went."""
    return common_pb2.Timing(
        queue_duration=_duration(timing.queue_seconds),
        preprocess_duration=_duration(timing.preprocess_seconds),
        encode_duration=_duration(timing.inference_seconds),
        decode_duration=_duration(0.0),
        total_duration=_duration(timing.total_seconds),
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def model_to_proto(model: Model, settings: Settings) -> model_pb2.Model:
    """What ListModels and GetModel say of a model; of one that failed, as much as is known."""
    message = model_pb2.Model(
        name=model.name,
        version=str(model.version),
        state=_STATE[model.state],
        state_message=model.state_message,
        precision=model.engine.precision if model.engine is not None else "",
        device=model.engine.device if model.engine is not None else "",
    )
    if model.card is not None:
        message.provenance.CopyFrom(_provenance_to_proto(model.card, message.precision))
    if isinstance(model.card, TranslationCard):
        workers = Workers.of(settings, "cuda" if message.device == "cuda" else "cpu")
        limits = limits_of(model.card, message.precision, workers)
        message.translation.CopyFrom(_translation_model(model.card, limits, settings))
    elif isinstance(model.card, ClassificationCard):
        message.classification.CopyFrom(_classification_model(model.card, settings))
    return message


def _provenance_to_proto(card: BundleCard, precision: str) -> model_pb2.Provenance:
    provenance = card.provenance
    return model_pb2.Provenance(
        data=provenance.data,
        licence=provenance.licence,
        recipe=provenance.recipe,
        trained_hours=provenance.trained_hours or 0.0,
        metrics=provenance.metrics.get(precision, {}),
    )


def _translation_model(
    card: TranslationCard, options_limits: Limits, settings: Settings
) -> model_pb2.TranslationModel:
    limits = model_pb2.TranslationLimits(
        max_source_tokens=options_limits.max_source_tokens,
        max_target_tokens=options_limits.max_target_tokens,
        max_beam_size=options_limits.max_beam_size,
        max_contents=MAX_CONTENTS,
        max_text_bytes=settings.max_text_bytes,
    )
    pairs = (
        model_pb2.LanguagePair(source_language_code=pair.source, target_language_code=pair.target)
        for pair in card.language_pairs
    )
    languages = card.languages
    return model_pb2.TranslationModel(
        language_pairs=pairs,
        source_language_codes=[one.code for one in languages.sources] if languages else (),
        target_language_codes=[one.code for one in languages.targets] if languages else (),
        limits=limits,
        default_options=_options_to_proto(
            default_options(card, max_beam_size=options_limits.max_beam_size)
        ),
    )


def _options_to_proto(options: DecodingOptions) -> common_pb2.DecodingOptions:
    names = (*_INTEGER_OPTIONS, *_FLOAT_OPTIONS, "return_scores")
    return common_pb2.DecodingOptions(
        early_stopping=_EARLY_STOPPING_NUMBERS[options.early_stopping],
        **{name: getattr(options, name) for name in names},
    )


def _classification_model(
    card: ClassificationCard, settings: Settings
) -> model_pb2.ClassificationModel:
    return model_pb2.ClassificationModel(
        labels=card.labels,
        limits=model_pb2.ClassificationLimits(
            max_images=MAX_IMAGES, max_image_pixels=settings.max_image_pixels
        ),
    )
