"""Parameters of an inference request, as options of our own messages.

The specification knows booleans, integers and strings: a number with a fraction is sent as a
string, "0.6". Triton's clients send fields of Triton's own, `double_param` and `uint64_param`,
which are understood, too.
"""

import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from attendant.v1 import classification_pb2, common_pb2, translation_pb2
from service.errors import AttendantError, InvalidOption
from service.rpc.open_inference.grpc_predict_v2_pb2 import InferParameter

Value = bool | int | float | str
Parameters = Mapping[str, InferParameter]

_LANGUAGES = ("source_language_code", "target_language_code")
_ENUMS: dict[str, tuple[Any, str]] = {
    "early_stopping": (common_pb2.EarlyStopping, "EARLY_STOPPING_"),
    "segmentation": (translation_pb2.Segmentation, "SEGMENTATION_"),
}
_INTEGERS = ("beam_size", "max_target_tokens", "min_target_tokens", "no_repeat_ngram_size")
_FLOATS = ("length_penalty", "repetition_penalty")

TRANSLATION_PARAMETERS = (*_LANGUAGES, *_INTEGERS, *_FLOATS, *_ENUMS)
CLASSIFICATION_PARAMETERS = ("top_k",)

# Number and wire type.
_DOUBLE_PARAM = (4, 1)
_UINT64_PARAM = (5, 0)


def translate_request(parameters: Parameters) -> translation_pb2.TranslateRequest:
    """A request with these options, and without model and texts. Raises InvalidOption."""
    given = _values(parameters, TRANSLATION_PARAMETERS)
    request = translation_pb2.TranslateRequest()
    for name, value in given.items():
        if name in _LANGUAGES:
            setattr(request, name, _string(name, value))
        elif name == "segmentation":
            setattr(request, name, _enum_value(name, value))
        else:
            setattr(request.options, name, _option(name, value))
    # One translation a text is all that the output has room for, whatever the model's default.
    request.options.num_hypotheses = 1
    return request


def classify_request(parameters: Parameters) -> classification_pb2.ClassifyRequest:
    """A request with these options, and without model and images. Raises InvalidOption."""
    given = _values(parameters, CLASSIFICATION_PARAMETERS)
    request = classification_pb2.ClassifyRequest()
    if "top_k" in given:
        request.top_k = _integer("top_k", given["top_k"])
    return request


def name_parameter(error: AttendantError) -> None:
    """Where the error is about an option of our own messages, its path becomes the parameter's."""
    path = (error.field or "").removeprefix("options.")
    if path in (*TRANSLATION_PARAMETERS, *CLASSIFICATION_PARAMETERS):
        error.field = f"parameters.{path}"


def _values(parameters: Parameters, known: tuple[str, ...]) -> dict[str, Value]:
    if unknown := sorted(set(parameters) - set(known)):
        raise InvalidOption(
            f"unknown parameters {', '.join(unknown):.200}, expected: {', '.join(known)}",
            field="parameters",
        )
    return {name: _value(name, parameter) for name, parameter in parameters.items()}


def _value(name: str, parameter: InferParameter) -> Value:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is not None:
        value: Value = getattr(parameter, choice)
        return value
    unknown: Any = UnknownFieldSet(parameter)  # its type stubs leave out that it is a sequence
    for field in unknown:
        if (field.field_number, field.wire_type) == _DOUBLE_PARAM:
            (number,) = struct.unpack("<d", struct.pack("<Q", field.data))
            return float(number)
        if (field.field_number, field.wire_type) == _UINT64_PARAM:
            return int(field.data)
    raise InvalidOption(
        f"{name} has no value: expected bool_param, int64_param or string_param",
        field=f"parameters.{name}",
    )


def _option(name: str, value: Value) -> int | float:
    if name in _ENUMS:
        return _enum_value(name, value)
    return _integer(name, value) if name in _INTEGERS else _float(name, value)


def _string(name: str, value: Value) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _integer(name: str, value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise _wrong(name, value, "an integer of 32 bits")
    return value


def _float(name: str, value: Value) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise _wrong(name, value, 'a number, or a string such as "0.6"')


def _enum_value(name: str, value: Value) -> int:
    enum, prefix = _ENUMS[name]
    names = [key.removeprefix(prefix).lower() for key, number in enum.items() if number]
    if value not in names:
        raise _wrong(name, value, f"one of {', '.join(names)}")
    return int(enum.Value(f"{prefix}{value}".upper()))


def _wrong(name: str, value: Value, expected: str) -> InvalidOption:
    return InvalidOption(
        f"{name} is {value!r:.40}, expected {expected}", field=f"parameters.{name}"
    )
