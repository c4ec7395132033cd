"""Our translation engine, called directly: texts in, texts out, without gRPC.

Calls are those of `bench.contenders.callers`, a process that also holds the engine.
"""

import asyncio
from pathlib import Path
from typing import Any

from bench.contenders.protocol import serve, timed
from service.bundle import Bundle
from service.metrics import Metrics
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import EarlyStopping, Segmentation, merge_options


class Contender:
    """The handlers."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def load(self, bundle: str, precision: str) -> dict[str, Any]:
        """Open a bundle, with the server's default settings."""
        settings = Settings.model_validate({"precision": precision})
        self._engine = TranslationEngine(
            Bundle.open(Path(bundle)), settings=settings, metrics=Metrics.create()
        )
        self._loop.run_until_complete(self._start())
        return {}

    def closed(self, requests: list[dict[str, Any]], num_callers: int) -> dict[str, Any]:
        """So many callers share the requests."""
        return self._loop.run_until_complete(self._closed(requests, num_callers))

    async def _start(self) -> None:
        self._engine.start()

    async def _closed(self, requests: list[dict[str, Any]], num_callers: int) -> dict[str, Any]:
        pending = iter(enumerate(requests))
        texts: list[list[str]] = [[] for _ in requests]

        async def caller() -> None:
            for index, request in pending:
                texts[index] = await self._translate(**request)

        with timed() as times:
            await asyncio.gather(*(caller() for _ in range(num_callers)))
        return {**times, "texts": texts}

    async def _translate(self, texts: list[str], **asked: Any) -> list[str]:
        options = merge_options(
            self._engine.default_options,
            self._engine.limits,
            early_stopping=EarlyStopping.ALL_FINISHED,
            **asked,
        )
        found = await self._engine.translate(texts, options, Segmentation.NONE)
        for result in found.results:
            if result.error is not None:
                raise result.error
        return [result.hypotheses[0].text for result in found.results]


if __name__ == "__main__":
    contender = Contender()
    serve(load=contender.load, closed=contender.closed)
