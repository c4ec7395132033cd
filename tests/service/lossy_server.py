"""A server process for tests: its GPU, which is the CPU, is lost by the first image."""

import asyncio
import sys
from typing import Any

from service.bundle import Bundle
from service.classification.engine import ClassificationEngine
from service.devices import Devices
from service.logs import configure_logging
from service.server import Server, leave
from service.settings import Settings
from tests.losses import ILLEGAL_ACCESS
from tests.service.fakes import FakeTranslator
from tests.service.faulty import FaultyRunner


async def main() -> int:
    settings = Settings.load(sys.argv[1:])
    configure_logging(settings.log_level, settings.log_format, contents=settings.log_contents)
    devices = Devices(choose=lambda setting: "cuda")

    def open_runner(bundle: Bundle, **given: Any) -> FaultyRunner:
        runner = FaultyRunner(bundle, **given)
        if runner.device == "cuda":
            runner.fault = lambda images: ILLEGAL_ACCESS
        return runner

    def make(bundle: Bundle) -> Any:
        if bundle.task == "translation":
            return FakeTranslator(bundle, metrics=server.metrics)
        return ClassificationEngine(
            bundle,
            settings=settings,
            metrics=server.metrics,
            devices=devices,
            open_runner=open_runner,
        )

    server = Server(settings, factory=make, devices=devices)
    return await server.run()


if __name__ == "__main__":
    leave(asyncio.run(main()))
