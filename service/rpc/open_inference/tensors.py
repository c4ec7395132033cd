"""Tensors of the Open Inference Protocol v2 <-> bytes and numbers. Knows no model.

A tensor's elements come in one of two ways for a whole call: `contents` with each tensor, or all of
them in `raw_input_contents`, where an element of BYTES has its length before it (4 bytes, little
endian, as Triton has it). The answer goes back the way the request came.

Specification: https://github.com/kserve/open-inference-protocol
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import InvalidArgument
from service.rpc.open_inference.grpc_predict_v2_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)

InferInputTensor = ModelInferRequest.InferInputTensor
InferOutputTensor = ModelInferResponse.InferOutputTensor

SHOWN_NAMES = 8

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor to be returned: BYTES or FP32, by what is in it, row by row."""

    name: str
    shape: tuple[int, ...]
    elements: Sequence[bytes] | Sequence[float]


def read_bytes_input(request: ModelInferRequest, name: str, limit: int) -> list[bytes]:
    """The elements of the one input a model has: BYTES [n], n from 1 to `limit`.

    Raises InvalidArgument.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != name:
        raise InvalidArgument(
            f"expected one input, {name}, found {_named(request.inputs)}", field="inputs"
        )
    tensor = request.inputs[0]
    _check_description(tensor, limit)
    elements = _raw(request, tensor) if request.raw_input_contents else _contents(tensor)
    if len(elements) != tensor.shape[0]:
        raise InvalidArgument(
            f"{name} has {len(elements)} elements, its shape says {tensor.shape[0]}",
            field="inputs[0].contents",
        )
    return elements


def _named(tensors: Sequence[InferInputTensor]) -> str:
    """How many, and the names of the first: a message may have millions."""
    names = ", ".join(repr(tensor.name) for tensor in tensors[:SHOWN_NAMES])
    return f"{len(tensors)}: {names:.100}" if tensors else "none"


def _check_description(tensor: InferInputTensor, limit: int) -> None:
    if tensor.datatype != "BYTES":
        raise InvalidArgument(
            f"{tensor.name} has the datatype {tensor.datatype!r:.40}, expected BYTES",
            field="inputs[0].datatype",
        )
    if len(tensor.shape) != 1 or not 1 <= tensor.shape[0] <= limit:
        raise InvalidArgument(
            f"{tensor.name} has the shape {list(tensor.shape[:8])}, expected [n], n 1 to {limit}",
            field="inputs[0].shape",
        )
    if tensor.parameters:
        raise InvalidArgument(
            f"{tensor.name} has parameters {', '.join(sorted(tensor.parameters)):.100}; inputs take"
            " none",
            field="inputs[0].parameters",
        )


def _contents(tensor: InferInputTensor) -> list[bytes]:
    others = [field.name for field, _ in tensor.contents.ListFields()]
    if others not in ([], ["bytes_contents"]):
        raise InvalidArgument(
            f"{tensor.name} has {', '.join(others)}, expected bytes_contents alone",
            field="inputs[0].contents",
        )
    return list(tensor.contents.bytes_contents)


def _raw(request: ModelInferRequest, tensor: InferInputTensor) -> list[bytes]:
    if tensor.HasField("contents"):
        raise InvalidArgument(
            f"{tensor.name} has contents, and the request raw_input_contents: expected one of them",
            field="raw_input_contents",
        )
    if len(request.raw_input_contents) != 1:
        raise InvalidArgument(
            f"raw_input_contents has {len(request.raw_input_contents)} tensors, inputs has 1",
            field="raw_input_contents",
        )
    try:
        return split_raw(request.raw_input_contents[0], tensor.shape[0])
    except ValueError as error:
        raise InvalidArgument(
            f"raw_input_contents of {tensor.name}: {error}", field="raw_input_contents[0]"
        ) from error


def split_raw(content: bytes, num_elements: int) -> list[bytes]:
    """So many elements, each behind its length, and nothing else. Raises ValueError."""
    elements = []
    place = 0
    for index in range(num_elements):
        start = place + _LENGTH.size
        if start > len(content):
            raise ValueError(
                f"expected {num_elements} elements, found {len(content) - place} bytes where the "
                f"length of element {index} should be"
            )
        (length,) = _LENGTH.unpack_from(content, place)
        place = start + length
        if place > len(content):
            raise ValueError(
                f"element {index} has {length} bytes by its length, {len(content) - start} are left"
            )
        elements.append(content[start:place])
    if place != len(content):
        raise ValueError(f"{len(content) - place} bytes follow the last of {num_elements} elements")
    return elements


def join_raw(elements: Sequence[bytes]) -> bytes:
    """Each behind its length."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def choose_outputs(request: ModelInferRequest, names: Sequence[str]) -> list[str]:
    """The outputs that are asked for, in that order; all of them if none is named.

    Raises InvalidArgument.
    """
    if len(request.outputs) > len(names):
        raise InvalidArgument(
            f"{len(request.outputs)} outputs are asked for; there are: {', '.join(names)}",
            field="outputs",
        )
    asked = [output.name for output in request.outputs]
    for index, output in enumerate(request.outputs):
        field = f"outputs[{index}]"
        if output.name not in names:
            raise InvalidArgument(
                f"no output {output.name!r:.100}; there are: {', '.join(names)}", field=field
            )
        if output.name in asked[:index]:
            raise InvalidArgument(f"output {output.name} is asked for twice", field=field)
        if output.parameters:
            raise InvalidArgument(
                f"output {output.name} has parameters "
                f"{', '.join(sorted(output.parameters)):.100}; outputs take none",
                field=f"{field}.parameters",
            )
    return asked or list(names)


def response_of(
    request: ModelInferRequest, model: str, outputs: Sequence[Output]
) -> ModelInferResponse:
    """The response of the model "NAME/VERSION", as raw as the request."""
    name, version = model.rsplit("/", 1)
    response = ModelInferResponse(model_name=name, model_version=version, id=request.id)
    for output in outputs:
        binary = [element for element in output.elements if isinstance(element, bytes)]
        numbers = [element for element in output.elements if isinstance(element, float)]
        tensor = response.outputs.add(
            name=output.name, shape=output.shape, datatype="BYTES" if binary else "FP32"
        )
        if not request.raw_input_contents:
            contents = InferTensorContents(bytes_contents=binary, fp32_contents=numbers)
            tensor.contents.CopyFrom(contents)
        elif binary:
            response.raw_output_contents.append(join_raw(binary))
        else:
            response.raw_output_contents.append(struct.pack(f"<{len(numbers)}f", *numbers))
    return response
