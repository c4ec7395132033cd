"""The decode workers of one model and the queue that feeds them, wherever the model runs.

A thread that dies is seen here, and so is a GPU that is lost: then the workers are replaced by some
on the CPU, and who ran or waited begins anew there. Knows sequences, and neither text nor calls.
Lives on the event loop; its workers report from their own threads.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Protocol

from service.bundle import Bundle
from service.devices import Devices
from service.errors import (
    AttendantError,
    BundleError,
    InternalError,
    ModelUnavailable,
    Unavailable,
)
from service.runtime import Device
from service.settings import Settings
from service.translation.caches import CacheSizes
from service.translation.measures import TranslationMeasures
from service.translation.options import DecodingOptions
from service.translation.placement import Placement
from service.translation.processors import TokenRules
from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from service.translation.warmup import Speed, warm_up
from service.translation.worker import DecodeWorker, StepResults, StepRunner
from service.translation.workers import Workers

logger = logging.getLogger(__name__)

# Of the speed of the first steps, as long as there is no measured rate; encoding takes the rest.
GUESSED_SHARE = 0.5

# What became of a model that cannot follow from a lost GPU.
CANNOT_MOVE = "it cannot be opened on the CPU; the server's log has it"


class OpenRunners(Protocol):
    """Makes what the decode workers run on; see `runner.open_runners`."""

    def __call__(
        self, bundle: Bundle, precision: str, device: Device, workers: Workers
    ) -> SequenceOf[StepRunner]:
        """One runner for each worker."""


class Crew:
    """Constructing it opens and warms up the model: do that in a thread.

    `receive` is called on the event loop with what the workers found.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        devices: Devices,
        open_runners: OpenRunners,
        measures: TranslationMeasures,
        receive: Callable[[StepResults], None],
    ) -> None:
        """Raises BundleError."""
        self._bundle = bundle
        self._name = f"{bundle.name}/{bundle.version}"
        self._settings = settings
        self._devices = devices
        self._open_runners = open_runners
        self._measures = measures
        self._receive = receive
        self._deaths: str | None = None
        self._moving: asyncio.Task[None] | None = None
        self._speeds: list[Speed] = []
        self.failed: str | None = None
        self.placement = Placement.choose(bundle, settings, devices)
        runners = self._open()
        self.scheduler = self._new_scheduler(len(runners))
        self._workers = self._employ(runners)

    @property
    def degraded(self) -> str | None:
        """Why it does not decode as it was meant to; None while it does."""
        trouble = self._devices.trouble(self._settings, self._bundle)
        return "; ".join(filter(None, (self.placement.narrowed, trouble, self._deaths))) or None

    @property
    def step_seconds(self) -> float:
        """Of a decode step, as first seen; 0 while the model is being moved."""
        return max((speed.seconds for speed in self._speeds), default=0.0)

    @property
    def guessed_rate(self) -> float | None:
        """Row-steps a second, before any was measured."""
        steps = sum(speed.num_rows / speed.seconds for speed in self._speeds)
        return GUESSED_SHARE * steps or None

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to decode, on the running loop; `on_change` tells there of all that is public."""
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        for worker in self._workers:
            worker.start()
        if self.placement.device != "cpu":
            self._devices.watch(self._hear_of_loss)

    async def stop(self) -> None:
        """End the workers, after what they still have to do."""
        self._devices.unwatch(self._hear_of_loss)
        if self._moving is not None:
            await self._moving
        self.scheduler.close()
        for worker in self._workers:
            await asyncio.to_thread(worker.join)

    def check(self, options: DecodingOptions) -> None:
        """Raise Unavailable for options from before the limits were lowered."""
        if (obstacle := self._too_wide(options)) is not None:
            raise obstacle

    def _open(self) -> SequenceOf[StepRunner]:
        """Warm runners. Raises BundleError."""
        place = self.placement
        runners = self._open_runners(self._bundle, place.precision, place.device, place.workers)
        if place.device == "cpu":
            self._log_caches()
        self._speeds = [warm_up(runner, self._bundle.translation) for runner in runners]
        return runners

    def _new_scheduler(self, num_workers: int) -> Scheduler:
        return Scheduler(
            num_workers=num_workers, encode_tokens_per_step=self._settings.encode_tokens_per_step
        )

    def _employ(self, runners: SequenceOf[StepRunner]) -> list[DecodeWorker]:
        """A worker for each runner, fed by the present scheduler."""
        rules = TokenRules.from_card(self._bundle.translation)
        arguments = (self.scheduler, rules, self._measures, self._deliver, self._deliver_death)
        return [DecodeWorker(runner, *arguments) for runner in runners]

    def _log_caches(self) -> None:
        sizes = CacheSizes.of(self._bundle.translation, self.placement.precision)
        logger.info(
            "%s: attention caches take at most %.0f MiB, %d rows of the longest sentences",
            self._name,
            self._settings.cache_memory / (1 << 20),
            self._settings.cache_memory // sizes.longest_row_bytes,
        )

    def _deliver_death(self) -> None:
        """Called by a decode worker, on its thread."""
        self._loop.call_soon_threadsafe(self._worker_died)

    def _worker_died(self) -> None:
        """Say so; where no decode thread is left, end those who wait and refuse whoever comes."""
        self._deaths = "a decode thread has died"
        if self._workers and all(worker.is_dead for worker in self._workers):
            self.failed = "its decode threads have died"
            self._end(self.scheduler.take_all(), InternalError())
        self._on_change()

    def _hear_of_loss(self) -> None:
        """On any thread."""
        self._loop.call_soon_threadsafe(self._begin_moving)

    def _begin_moving(self) -> None:
        """The GPU is gone: whoever waits, waits for the CPU, or for the server to end."""
        self._devices.keep(*self._workers)
        self._workers, self._speeds = [], []
        self.scheduler.close()  # threads that had nothing to do end
        if not self._settings.exit_on_device_loss:
            waiting = self.scheduler.take_all()
            self.scheduler = self._new_scheduler(Workers.of(self._settings, "cpu").count)
            try:
                self.placement = Placement.choose(self._bundle, self._settings, self._devices)
                self._moving = asyncio.create_task(self._move())
            except BundleError as error:
                logger.error("%s cannot go on on the CPU: %s", self._name, error)
                self.failed = CANNOT_MOVE
            self._resume(waiting)
        self._on_change()

    async def _move(self) -> None:
        """Open the model on the CPU and go on there."""
        begun = time.monotonic()
        try:
            runners = await asyncio.to_thread(self._open)
        except Exception:  # whatever it is, those who wait have to be answered
            logger.exception("%s cannot go on on the CPU", self._name)
            self.failed = CANNOT_MOVE
            self._resume(self.scheduler.take_all())
        else:
            self._workers = self._employ(runners)
            for worker in self._workers:
                worker.start()
            logger.warning(
                "%s goes on on the CPU: %s, opened in %.2f s",
                *(self._name, self.placement.precision, time.monotonic() - begun),
            )
        self._on_change()

    def _resume(self, sequences: SequenceOf[Sequence]) -> None:
        """Let sequences begin anew that a lost GPU ran or was to run; who cannot, ends."""
        staying = []
        for sequence in sequences:
            if (obstacle := self._obstacle(sequence)) is not None:
                self._end([sequence], obstacle)
            else:
                staying.append(sequence)
        self.scheduler.give_back(sorted(staying, key=lambda one: one.arrived_at))

    def _obstacle(self, sequence: Sequence) -> AttendantError | None:
        """Why a sequence of a lost GPU cannot begin anew."""
        if self.failed is not None:
            return ModelUnavailable(f"{self._name} cannot serve: {self.failed}")
        if sequence.num_streamed:  # another device may choose other words
            return Unavailable("the GPU was lost when a part of the translation was sent")
        return self._too_wide(sequence.options)

    def _too_wide(self, options: DecodingOptions) -> AttendantError | None:
        """What is wrong with options from before the limits changed."""
        if options.beam_size <= self.placement.limits.max_beam_size:
            return None
        return Unavailable(
            f"the GPU was lost: beam_size is {options.beam_size}, the limit is now "
            f"{self.placement.limits.max_beam_size}"
        )

    def _end(self, waiting: SequenceOf[Sequence], error: AttendantError) -> None:
        """Tell those who wait that they wait in vain."""
        self._measures.queued(-len(waiting))
        self._measures.left_the_queue(len(waiting), "error")
        for sequence in waiting:
            sequence.error = error
            if not sequence.is_cancelled:
                sequence.receiver.finish(sequence)

    def _deliver(self, results: StepResults) -> None:
        """Called by the decode workers, on their threads."""
        if results.device_loss:
            self._devices.lose(results.device_loss)
        self._loop.call_soon_threadsafe(self._hear, results)

    def _hear(self, results: StepResults) -> None:
        self._receive(results)
        if not self._settings.exit_on_device_loss:
            self._resume(results.handed_back)
