"""A server process for tests of its life: translations of "WAIT" end on SIGUSR1."""

import asyncio
import signal
import sys

from service.bundle import Bundle
from service.logs import configure_logging
from service.model import Engine
from service.server import Server
from service.settings import Settings
from tests.service.fakes import FakeTranslator


async def main() -> None:
    settings = Settings.load(sys.argv[1:])
    configure_logging(settings.log_level, settings.log_format, contents=settings.log_contents)

    def make(bundle: Bundle) -> Engine:
        translator = FakeTranslator(bundle, metrics=server.metrics)
        loop.call_soon_threadsafe(loop.add_signal_handler, signal.SIGUSR1, translator.release.set)
        return translator

    loop = asyncio.get_running_loop()
    server = Server(settings, factory=make)
    await server.run()


if __name__ == "__main__":
    asyncio.run(main())
