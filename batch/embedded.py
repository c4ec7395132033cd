"""The engine in this process: a shard's records in, their outcomes out.

What it is asked, and what it answers, is what the service's callers ask and are answered.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain, islice
from typing import Any, Protocol, cast

from attendant.requests import (
    ClassifyOptions,
    TranslateOptions,
    classify_request,
    translate_request,
)
from batch.inputs import Task
from batch.records import Answered, Outcome, Record, SetAside, Shard, renamed
from service.bundle import CARD_FILE
from service.classification.engine import ClassificationResult
from service.metrics import Metrics
from service.repository import ModelRepository
from service.rpc.classification import ClassificationServicer
from service.rpc.conversion import no_deadline
from service.rpc.translation import TranslationServicer
from service.server import engine_factory
from service.settings import Settings
from service.translation.results import TranslationResult

# Records of one call to the engine, and calls at a time: enough that decode workers choose from
# many sentences of like length and never wait, few enough that images fit in memory.
RECORDS_A_CALL: dict[Task, int] = {"translate": 512, "classify": 16}
CALLS_AT_A_TIME: dict[Task, int] = {"translate": 16, "classify": 8}


class Asking(Protocol):
    """What differs between tasks."""

    model_name: str  # of the model that has answered, "NAME/VERSION"

    async def ask(self, records: Sequence[Record]) -> list[Outcome]:
        """One outcome each. Raises AttendantError for what no record is to blame for."""


class Translating:
    """Texts in, the best hypothesis out, or as many as were asked for."""

    def __init__(self, repository: ModelRepository, options: TranslateOptions) -> None:
        self.model_name = ""
        self._servicer = TranslationServicer(repository)
        self._options = options

    async def ask(self, records: Sequence[Record]) -> list[Outcome]:
        """One call. Raises AttendantError."""
        texts = [cast(str, one.content) for one in records]
        found, self.model_name = await self._servicer.run(
            translate_request(texts, self._options), no_deadline
        )
        return list(map(self._outcome, records, found.results))

    def _outcome(self, record: Record, result: TranslationResult) -> Outcome:
        if result.error is not None:
            return _set_aside(record, result.error.reason, result.error.message)
        texts = [hypothesis.text for hypothesis in result.hypotheses]
        answer: dict[str, Any] = {"translation": texts[0]}
        if "num_hypotheses" in self._options:
            answer["hypotheses"] = texts
        return _answered(record, answer, texts[0])


class Classifying:
    """Images in, their most probable labels out."""

    def __init__(self, repository: ModelRepository, options: ClassifyOptions) -> None:
        self.model_name = ""
        self._servicer = ClassificationServicer(repository)
        self._options = options

    async def ask(self, records: Sequence[Record]) -> list[Outcome]:
        """One call. Raises AttendantError."""
        images = [cast(bytes, one.content) for one in records]
        found, self.model_name = await self._servicer.run(
            classify_request(images, self._options), no_deadline
        )
        return list(map(self._outcome, records, found.results))

    def _outcome(self, record: Record, result: ClassificationResult) -> Outcome:
        if result.error is not None:
            return _set_aside(record, result.error.reason, result.error.message)
        labels = [{"name": one.label, "probability": one.probability} for one in result.labels]
        return _answered(record, {"labels": labels}, result.labels[0].label)


class EmbeddedEngine:
    """A models folder of this machine, asked by whole shards."""

    def __init__(self, repository: ModelRepository, asking: Asking, task: Task) -> None:
        self._repository = repository
        self._asking = asking
        self._records_a_call = RECORDS_A_CALL[task]
        self._room = asyncio.Semaphore(CALLS_AT_A_TIME[task])

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, task: Task, options: dict[str, Any]
    ) -> AsyncIterator["EmbeddedEngine"]:
        """Load the model; ends its threads at the end. Raises AttendantError."""
        metrics = Metrics.create()
        num_records = RECORDS_A_CALL[task] * CALLS_AT_A_TIME[task]
        settings = settings.model_copy(
            update={
                # A text may have many sentences; nothing of a data set is refused for its queue.
                "max_queued_sequences": max(settings.max_queued_sequences, 1000 * num_records),
                "max_queued_images": max(settings.max_queued_images, num_records),
            }
        )
        repository = ModelRepository(
            settings.models,
            factory=engine_factory(settings, metrics),
            metrics=metrics,
            default_models=settings.default_models,
            load_models="first-use",
        )
        await repository.rescan()
        asking: Asking
        if task == "translate":
            asking = Translating(repository, cast(TranslateOptions, options))
        else:
            asking = Classifying(repository, cast(ClassifyOptions, options))
        try:
            yield cls(repository, asking, task)
        finally:
            await repository.close()

    @property
    def model(self) -> str:
        """What has answered, and nothing else does as it did; "" where nothing was asked yet."""
        if not self._asking.model_name:
            return ""
        model = self._repository.get(self._asking.model_name)
        precision = model.engine.precision if model.engine is not None else "none"
        card = hashlib.sha256((model.folder / CARD_FILE).read_bytes()).hexdigest()
        return f"{model.full_name} in {precision} (its bundle.json has SHA-256 {card[:16]})"

    async def answer(
        self, shard: Shard, on_answered: Callable[[int], object] = lambda num_records: None
    ) -> list[Outcome]:
        """What becomes of each record, in their order; tells how many more have been answered.

        Raises AttendantError for what no record is to blame for, OSError and ValueError for files.
        """
        records = shard.read()
        calls: list[asyncio.Task[list[Outcome]]] = []
        async with asyncio.TaskGroup() as group:
            while True:
                await self._room.acquire()
                some = await asyncio.to_thread(list, islice(records, self._records_a_call))
                if not some:
                    self._room.release()
                    break
                calls.append(group.create_task(self._ask(some, on_answered)))
        return list(chain.from_iterable(call.result() for call in calls))

    async def _ask(
        self, found: Sequence[Record | SetAside], on_answered: Callable[[int], object]
    ) -> list[Outcome]:
        try:
            records = [one for one in found if isinstance(one, Record)]
            answers = iter(await self._asking.ask(records) if records else ())
        finally:
            self._room.release()
        on_answered(len(found))
        return [one if isinstance(one, SetAside) else next(answers) for one in found]


def _answered(record: Record, answer: dict[str, Any], text: str) -> Answered:
    """The record's own fields, then the answer's."""
    return Answered({**renamed(record.fields), **answer}, text)


def _set_aside(record: Record, reason: str, message: str) -> SetAside:
    return SetAside(record.where, reason, message, record.fields)
