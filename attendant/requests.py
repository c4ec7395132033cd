"""What callers ask for, turned into request messages. Knows the wire, not the network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from attendant.results import EarlyStopping
from attendant.v1 import classification_pb2, common_pb2, translation_pb2

Texts: TypeAlias = list[str] | tuple[str, ...]
Image: TypeAlias = bytes | str | os.PathLike[str]
Images: TypeAlias = list[Image] | tuple[Image, ...]


Priority: TypeAlias = Literal["interactive", "bulk"]


class CallOptions(TypedDict, total=False):
    """What every call takes: its deadline and the id that logs know it by (random if none).

    `priority` says whether somebody waits for the answer. `traceparent` and `tracestate` are the
    trace it belongs to, by default OpenTelemetry's current one. `metadata` goes along as it is, for
    what is between here and the server: gateways, Ray Serve.
    """

    timeout_seconds: float
    request_id: str
    priority: Priority
    traceparent: str
    tracestate: str
    metadata: Mapping[str, str]


class TranslateOptions(CallOptions, total=False):
    """How to translate; whatever is left out is the model's default.

    `to` and `source` are BCP-47 codes, `model` is "NAME" or "NAME/VERSION". What each of the others
    means, and its limits, is said in attendant/v1/common.proto.
    """

    to: str
    source: str
    model: str
    segmentation: Literal["sentences", "none"]
    beam_size: int
    num_hypotheses: int
    length_penalty: float
    early_stopping: EarlyStopping
    max_target_tokens: int
    min_target_tokens: int
    repetition_penalty: float
    no_repeat_ngram_size: int
    return_scores: bool


class ClassifyOptions(CallOptions, total=False):
    """How to classify: the model, "NAME" or "NAME/VERSION", and how many labels (5 by default)."""

    model: str
    top_k: int


# Decoding options that are called on the wire what they are called here, and have the same values.
_DECODING_FIELDS = (
    "beam_size",
    "num_hypotheses",
    "length_penalty",
    "max_target_tokens",
    "min_target_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "return_scores",
)


def translate_request(
    texts: str | Texts, options: TranslateOptions
) -> translation_pb2.TranslateRequest:
    """Raises TypeError for an option there is not and ValueError for a value it cannot have."""
    _reject_unknown(options, TranslateOptions)
    return translation_pb2.TranslateRequest(
        contents=[texts] if isinstance(texts, str) else texts,
        model=options.get("model", ""),
        source_language_code=options.get("source", ""),
        target_language_code=options.get("to", ""),
        options=_decoding_options(options),
        segmentation=_enum_value(
            translation_pb2.Segmentation, "SEGMENTATION", options.get("segmentation")
        ),
    )


def classify_request(
    contents: list[bytes], options: ClassifyOptions
) -> classification_pb2.ClassifyRequest:
    """Raises TypeError for an option there is not."""
    _reject_unknown(options, ClassifyOptions)
    return classification_pb2.ClassifyRequest(
        images=[classification_pb2.Image(content=content) for content in contents],
        model=options.get("model", ""),
        top_k=options.get("top_k"),
    )


def read_images(images: Image | Images) -> list[bytes]:
    """The bytes of each image; what is not bytes is the path of a file."""
    several = images if isinstance(images, (list, tuple)) else [images]
    return [image if isinstance(image, bytes) else Path(image).read_bytes() for image in several]


def _decoding_options(options: TranslateOptions) -> common_pb2.DecodingOptions:
    given: dict[str, Any] = {name: options.get(name) for name in _DECODING_FIELDS}
    early_stopping = _enum_value(
        common_pb2.EarlyStopping, "EARLY_STOPPING", options.get("early_stopping")
    )
    return common_pb2.DecodingOptions(early_stopping=early_stopping, **given)


def _enum_value(enum: Any, prefix: str, name: str | None) -> Any:
    return enum.Value(f"{prefix}_{(name or 'unspecified').upper()}")


def _reject_unknown(options: Mapping[str, object], kind: Any) -> None:
    unknown = options.keys() - kind.__optional_keys__
    if unknown:
        names = ", ".join(sorted(unknown))
        raise TypeError(
            f"unknown options: {names}; known: {', '.join(sorted(kind.__optional_keys__))}"
        )
