from attendant.v1 import common_pb2 as _common_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Segmentation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENTATION_UNSPECIFIED: _ClassVar[Segmentation]
    SEGMENTATION_SENTENCES: _ClassVar[Segmentation]
    SEGMENTATION_NONE: _ClassVar[Segmentation]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_EOS: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
SEGMENTATION_UNSPECIFIED: Segmentation
SEGMENTATION_SENTENCES: Segmentation
SEGMENTATION_NONE: Segmentation
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_EOS: FinishReason
FINISH_REASON_LENGTH: FinishReason

class TranslateRequest(_message.Message):
    __slots__ = ("contents", "model", "source_language_code", "target_language_code", "options", "segmentation")
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_LANGUAGE_CODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_LANGUAGE_CODE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    contents: _containers.RepeatedScalarFieldContainer[str]
    model: str
    source_language_code: str
    target_language_code: str
    options: _common_pb2.DecodingOptions
    segmentation: Segmentation
    def __init__(self, contents: _Optional[_Iterable[str]] = ..., model: _Optional[str] = ..., source_language_code: _Optional[str] = ..., target_language_code: _Optional[str] = ..., options: _Optional[_Union[_common_pb2.DecodingOptions, _Mapping]] = ..., segmentation: _Optional[_Union[Segmentation, str]] = ...) -> None: ...

class TranslateResponse(_message.Message):
    __slots__ = ("results", "model", "model_version", "timing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TranslationResult]
    model: str
    model_version: str
    timing: _common_pb2.Timing
    def __init__(self, results: _Optional[_Iterable[_Union[TranslationResult, _Mapping]]] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ..., timing: _Optional[_Union[_common_pb2.Timing, _Mapping]] = ...) -> None: ...

class TranslationResult(_message.Message):
    __slots__ = ("status", "hypotheses", "source_tokens", "num_sequences")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    hypotheses: _containers.RepeatedCompositeFieldContainer[Hypothesis]
    source_tokens: int
    num_sequences: int
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., hypotheses: _Optional[_Iterable[_Union[Hypothesis, _Mapping]]] = ..., source_tokens: _Optional[int] = ..., num_sequences: _Optional[int] = ...) -> None: ...

class Hypothesis(_message.Message):
    __slots__ = ("text", "score", "target_tokens", "finish_reason")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    text: str
    score: float
    target_tokens: int
    finish_reason: FinishReason
    def __init__(self, text: _Optional[str] = ..., score: _Optional[float] = ..., target_tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class StreamTranslateRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: TranslateRequest
    def __init__(self, request: _Optional[_Union[TranslateRequest, _Mapping]] = ...) -> None: ...

class StreamTranslateResponse(_message.Message):
    __slots__ = ("partial", "finished", "summary")
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    partial: PartialTranslation
    finished: FinishedTranslation
    summary: TranslationSummary
    def __init__(self, partial: _Optional[_Union[PartialTranslation, _Mapping]] = ..., finished: _Optional[_Union[FinishedTranslation, _Mapping]] = ..., summary: _Optional[_Union[TranslationSummary, _Mapping]] = ...) -> None: ...

class PartialTranslation(_message.Message):
    __slots__ = ("content_index", "text_delta")
    CONTENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    content_index: int
    text_delta: str
    def __init__(self, content_index: _Optional[int] = ..., text_delta: _Optional[str] = ...) -> None: ...

class FinishedTranslation(_message.Message):
    __slots__ = ("content_index", "result")
    CONTENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    content_index: int
    result: TranslationResult
    def __init__(self, content_index: _Optional[int] = ..., result: _Optional[_Union[TranslationResult, _Mapping]] = ...) -> None: ...

class TranslationSummary(_message.Message):
    __slots__ = ("model", "model_version", "timing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    model: str
    model_version: str
    timing: _common_pb2.Timing
    def __init__(self, model: _Optional[str] = ..., model_version: _Optional[str] = ..., timing: _Optional[_Union[_common_pb2.Timing, _Mapping]] = ...) -> None: ...
