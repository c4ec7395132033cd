"""attendant.v1.ModelService: what the repository holds, as messages."""

import grpc.aio

from attendant.v1 import model_pb2, model_pb2_grpc
from service.errors import InvalidArgument
from service.model import Model
from service.repository import ModelRepository
from service.rpc.conversion import model_to_proto
from service.settings import Settings

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Answers while models are loading, too: their state is what it tells."""

    def __init__(self, repository: ModelRepository, settings: Settings) -> None:
        self._repository = repository
        self._settings = settings

    async def ListModels(
        self,
        request: model_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> model_pb2.ListModelsResponse:
        """Every version of every model, by name and then from the highest version down."""
        size = request.page_size or _DEFAULT_PAGE_SIZE
        if not 1 <= size <= _MAX_PAGE_SIZE:
            raise InvalidArgument(
                f"page_size is {size}, expected 1 to {_MAX_PAGE_SIZE}", field="page_size"
            )
        models = _after(self._repository.models, request.page_token)
        page, rest = models[:size], models[size:]
        return model_pb2.ListModelsResponse(
            models=[model_to_proto(model, self._settings) for model in page],
            next_page_token=page[-1].full_name if rest else "",
        )

    async def GetModel(
        self,
        request: model_pb2.GetModelRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> model_pb2.GetModelResponse:
        """One model."""
        model = self._repository.get(request.name)
        return model_pb2.GetModelResponse(model=model_to_proto(model, self._settings))


def _after(models: list[Model], page_token: str) -> list[Model]:
    """What follows the model that the token names, even if it is gone by now."""
    if not page_token:
        return models
    name, slash, version = page_token.rpartition("/")
    if not slash or not (version.isascii() and version.isdigit() and len(version) < 20):
        raise InvalidArgument("page_token is none that ListModels gave", field="page_token")
    last = (name, -int(version))
    return [model for model in models if (model.name, -model.version) > last]
