"""Attendant's client: text in, translation out; image in, labels out.

from attendant import Client

with Client("localhost:50051") as client:
    print(client.translate("A man is riding a horse.", to="de").text)
"""

from attendant.aio import AsyncClient
from attendant.client import Client
from attendant.errors import (
    AttendantError,
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from attendant.requests import ClassifyOptions, TranslateOptions
from attendant.results import (
    Classification,
    ClassificationModel,
    DecodingOptions,
    Health,
    Hypothesis,
    Label,
    LanguagePair,
    ModelDescription,
    Provenance,
    StreamSummary,
    TextDelta,
    TextFinished,
    Timing,
    Translation,
    TranslationEvent,
    TranslationModel,
)
from attendant.retry import RetryPolicy
from attendant.tls import Tls

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AttendantError",
    "Cancelled",
    "Classification",
    "ClassificationModel",
    "ClassifyOptions",
    "Client",
    "DeadlineExceeded",
    "DecodingOptions",
    "FieldViolation",
    "Health",
    "Hypothesis",
    "InternalError",
    "InvalidArgument",
    "Label",
    "LanguagePair",
    "ModelDescription",
    "NotFound",
    "Provenance",
    "ResourceExhausted",
    "RetryPolicy",
    "StreamSummary",
    "TextDelta",
    "TextFinished",
    "Timing",
    "Tls",
    "TranslateOptions",
    "Translation",
    "TranslationEvent",
    "TranslationModel",
    "Unauthenticated",
    "Unavailable",
]
