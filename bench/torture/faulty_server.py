"""Our server with a fault in the runners of its translation models.

    python -m bench.torture.faulty_server step|memory|famine|death [flags of the server]

`step`: no step can be run with a row of the sentence POISON. `memory`: after SIGUSR1 so many steps
over more than FEW_ROWS find none, and so many runs of the encoder over more than one sentence.
`famine`: none at all for NUM_STARVED of them. `death`: each SIGUSR1 ends the decode thread that
works next.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence

from service.bundle import Bundle
from service.logs import configure_logging
from service.metrics import Metrics
from service.model import Engine, EngineFactory
from service.runtime import Device
from service.server import Server, engine_factory
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.rows import RowTable
from service.translation.runner import Room, Runner, open_runners
from service.translation.selection import Floats
from service.translation.sequence import Sequence as DecodedSequence
from service.translation.tokenizer import Tokenizer
from service.translation.workers import Workers

POISON = "A very small penguin is reading a newspaper."
NO_MEMORY = "Failed to allocate memory for requested buffer of size 1"
FEW_ROWS = 8
NUM_LEAN_STEPS = 20
NUM_STARVED = 400


class Fault:
    """Nothing yet; told of signals on the event loop."""

    def signalled(self) -> None:
        """SIGUSR1 has come."""

    def install(self, runner: Runner, bundle: Bundle) -> None:
        """Break a runner."""
        raise NotImplementedError


class FailingStep(Fault):
    """Of a step that has a row of one sentence."""

    def install(self, runner: Runner, bundle: Bundle) -> None:
        (poison,) = Tokenizer.from_bundle(bundle).encode([POISON])

        def check(table: RowTable, rows: range) -> None:
            owners = [table.owners[row] for row in rows]
            if any(one is not None and list(one.source_ids) == list(poison) for one in owners):
                raise RuntimeError("a row that no step can be run with")

        _before_each_step(runner, check)


class NoMemory(Fault):
    """For many rows or sentences, for a while, as ONNX Runtime says it."""

    num_rows, num_sentences, num_times = FEW_ROWS, 1, NUM_LEAN_STEPS

    def __init__(self) -> None:
        self._steps_left = self._encodings_left = 0

    def signalled(self) -> None:
        self._steps_left = self._encodings_left = self.num_times

    def install(self, runner: Runner, bundle: Bundle) -> None:
        def check_step(table: RowTable, rows: range) -> None:
            if self._steps_left and len(rows) > self.num_rows:
                self._steps_left -= 1
                raise RuntimeError(NO_MEMORY)

        def check_encoding(sequences: Sequence[DecodedSequence]) -> None:
            if self._encodings_left and len(sequences) > self.num_sentences:
                self._encodings_left -= 1
                raise RuntimeError(NO_MEMORY)

        _before_each_step(runner, check_step)
        _before_each_encoding(runner, check_encoding)


class Famine(NoMemory):
    """For nobody, for a while."""

    num_rows, num_sentences, num_times = 0, 0, NUM_STARVED


class Death(Fault):
    """Between two steps, of whichever thread works next."""

    def __init__(self) -> None:
        self._num_due = 0

    def signalled(self) -> None:
        self._num_due += 1

    def install(self, runner: Runner, bundle: Bundle) -> None:
        room = runner.room

        def dying_room() -> Room:
            if self._num_due:
                self._num_due -= 1
                raise RuntimeError("a bug between two steps")
            return room()

        runner.room = dying_room  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], Fault]] = {
    "step": FailingStep,
    "memory": NoMemory,
    "famine": Famine,
    "death": Death,
}


def _before_each_step(runner: Runner, check: Callable[[RowTable, range], None]) -> None:
    step = runner.step

    def checked(rows: range | None = None) -> Floats:
        check(runner.table, rows or range(runner.table.num_rows))
        return step(rows)

    runner.step = checked  # type: ignore[method-assign]


def _before_each_encoding(
    runner: Runner, check: Callable[[Sequence[DecodedSequence]], None]
) -> None:
    admit = runner.admit

    def checked(sequences: Sequence[DecodedSequence]) -> int:
        check(sequences)
        return admit(sequences)

    runner.admit = checked  # type: ignore[method-assign]


def faulty_factory(settings: Settings, metrics: Metrics, fault: Fault) -> EngineFactory:
    """As the server's own, but for the runners."""
    usual = engine_factory(settings, metrics)

    def open_faulty(
        bundle: Bundle, precision: str, device: Device, workers: Workers
    ) -> list[Runner]:
        runners = open_runners(bundle, precision, device, workers)
        found = [runner for runner in runners if isinstance(runner, Runner)]
        for runner in found:
            fault.install(runner, bundle)
        return found

    def make(bundle: Bundle) -> Engine:
        if bundle.task != "translation":
            return usual(bundle)
        return TranslationEngine(
            bundle, settings=settings, metrics=metrics, open_runners=open_faulty
        )

    return make


async def main() -> None:
    """Serve until SIGTERM."""
    fault = FAULTS[sys.argv[1]]()
    settings = Settings.load(sys.argv[2:])
    configure_logging(settings.log_level, settings.log_format, contents=settings.log_contents)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, fault.signalled)
    metrics = Metrics.create()
    factory = faulty_factory(settings, metrics, fault)
    await Server(settings, metrics=metrics, factory=factory).run()


if __name__ == "__main__":
    asyncio.run(main())
