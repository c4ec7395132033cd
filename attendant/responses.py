"""Response messages turned into results. Knows the wire, not the network."""

from google.protobuf.duration_pb2 import Duration

from attendant.errors import error_from_status
from attendant.results import (
    Classification,
    ClassificationModel,
    DecodingOptions,
    EarlyStopping,
    FinishReason,
    Health,
    Hypothesis,
    Label,
    LanguagePair,
    ModelDescription,
    ModelState,
    Provenance,
    StreamSummary,
    TextDelta,
    TextFinished,
    Timing,
    Translation,
    TranslationEvent,
    TranslationModel,
)
from attendant.v1 import classification_pb2, common_pb2, model_pb2, translation_pb2

_FINISH_REASONS: dict[int, FinishReason] = {
    translation_pb2.FINISH_REASON_EOS: "eos",
    translation_pb2.FINISH_REASON_LENGTH: "length",
}
_EARLY_STOPPING: dict[int, EarlyStopping] = {
    common_pb2.EARLY_STOPPING_ALL_FINISHED: "all_finished",
    common_pb2.EARLY_STOPPING_HEURISTIC: "heuristic",
    common_pb2.EARLY_STOPPING_NEVER: "never",
}
_MODEL_STATES: dict[int, ModelState] = {
    model_pb2.MODEL_STATE_UNLOADED: "unloaded",
    model_pb2.MODEL_STATE_LOADING: "loading",
    model_pb2.MODEL_STATE_READY: "ready",
    model_pb2.MODEL_STATE_DEGRADED: "degraded",
    model_pb2.MODEL_STATE_FAILED: "failed",
}
_HEALTH: dict[int, Health] = {1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def translations(response: translation_pb2.TranslateResponse) -> list[Translation]:
    """One for each text, in order."""
    timing = _timing(response.timing)
    return [
        _translation(result, response.model, response.model_version, timing)
        for result in response.results
    ]


def translation_event(
    response: translation_pb2.StreamTranslateResponse,
) -> TranslationEvent | None:
    """One event of a stream; None for a kind that this client does not know yet."""
    match response.WhichOneof("event"):
        case "partial":
            return TextDelta(response.partial.content_index, response.partial.text_delta)
        case "finished":
            finished = response.finished
            return TextFinished(finished.content_index, _translation(finished.result))
        case "summary":
            summary = response.summary
            return StreamSummary(summary.model, summary.model_version, _timing(summary.timing))
        case _:
            return None


def classifications(response: classification_pb2.ClassifyResponse) -> list[Classification]:
    """One for each image, in order."""
    timing = _timing(response.timing)
    return [
        Classification(
            error=error_from_status(result.status),
            labels=tuple(
                Label(label.label, label.index, label.probability) for label in result.labels
            ),
            model=response.model,
            model_version=response.model_version,
            timing=timing,
        )
        for result in response.results
    ]


def model_description(model: model_pb2.Model) -> ModelDescription:
    """One version of a model."""
    provenance = model.provenance
    return ModelDescription(
        name=model.name,
        version=model.version,
        state=_MODEL_STATES.get(model.state),
        state_message=model.state_message,
        precision=model.precision,
        device=model.device,
        provenance=Provenance(
            data=provenance.data,
            licence=provenance.licence,
            recipe=provenance.recipe,
            trained_hours=provenance.trained_hours,
            metrics=dict(provenance.metrics),
        ),
        task=_task(model),
    )


def health(status: int) -> Health:
    """The name of a grpc.health.v1 serving status."""
    return _HEALTH.get(status, "UNKNOWN")


def _translation(
    result: translation_pb2.TranslationResult,
    model: str = "",
    model_version: str = "",
    timing: Timing | None = None,
) -> Translation:
    return Translation(
        error=error_from_status(result.status),
        hypotheses=tuple(_hypothesis(hypothesis) for hypothesis in result.hypotheses),
        source_tokens=result.source_tokens,
        num_sequences=result.num_sequences,
        model=model,
        model_version=model_version,
        timing=timing,
    )


def _hypothesis(hypothesis: translation_pb2.Hypothesis) -> Hypothesis:
    return Hypothesis(
        text=hypothesis.text,
        score=hypothesis.score if hypothesis.HasField("score") else None,
        target_tokens=hypothesis.target_tokens,
        finish_reason=_FINISH_REASONS.get(hypothesis.finish_reason, "eos"),
    )


def _timing(timing: common_pb2.Timing) -> Timing:
    return Timing(
        queue_seconds=_seconds(timing.queue_duration),
        preprocess_seconds=_seconds(timing.preprocess_duration),
        encode_seconds=_seconds(timing.encode_duration),
        decode_seconds=_seconds(timing.decode_duration),
        total_seconds=_seconds(timing.total_duration),
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _task(model: model_pb2.Model) -> TranslationModel | ClassificationModel | None:
    match model.WhichOneof("task"):
        case "translation":
            return _translation_model(model.translation)
        case "classification":
            limits = model.classification.limits
            labels = tuple(model.classification.labels)
            return ClassificationModel(labels, limits.max_images, limits.max_image_pixels)
        case _:
            return None


def _translation_model(model: model_pb2.TranslationModel) -> TranslationModel:
    limits = model.limits
    return TranslationModel(
        language_pairs=tuple(
            LanguagePair(pair.source_language_code, pair.target_language_code)
            for pair in model.language_pairs
        ),
        default_options=_decoding_options(model.default_options),
        max_source_tokens=limits.max_source_tokens,
        max_target_tokens=limits.max_target_tokens,
        max_beam_size=limits.max_beam_size,
        max_contents=limits.max_contents,
        max_text_bytes=limits.max_text_bytes,
        source_languages=tuple(model.source_language_codes),
        target_languages=tuple(model.target_language_codes),
    )


def _decoding_options(options: common_pb2.DecodingOptions) -> DecodingOptions:
    return DecodingOptions(
        beam_size=options.beam_size,
        num_hypotheses=options.num_hypotheses,
        length_penalty=options.length_penalty,
        early_stopping=_EARLY_STOPPING.get(options.early_stopping),
        max_target_tokens=options.max_target_tokens,
        min_target_tokens=options.min_target_tokens,
        repetition_penalty=options.repetition_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        return_scores=options.return_scores,
    )
