"""Server reflection under both of its names: v1, and v1alpha for older tools.

grpcio-reflection has v1alpha alone; the messages of the two are the same bytes. What is described
is gathered in a pool of its own, because not all of it is in protobuf's default one.
"""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


def add_reflection(server: grpc.aio.Server, files: Sequence[Any]) -> None:
    """Let clients ask for these files, as descriptors: the services in them are listed."""
    pool = DescriptorPool()
    # What errors carry, too: tools look up the details of a status by reflection.
    others: list[Any] = [error_details_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR]
    for file in (*files, *others):
        _add(file, pool)
    names = [service.full_name for file in files for service in file.services_by_name.values()]
    servicer = reflection.aio.ReflectionServicer([*names, *SERVICE_NAMES], pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            for name in SERVICE_NAMES
        )
    )


def _add(file: FileDescriptor, pool: DescriptorPool) -> None:
    for dependency in file.dependencies:
        _add(dependency, pool)
    pool.AddSerializedFile(file.serialized_pb)
