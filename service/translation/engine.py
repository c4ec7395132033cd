"""The translation engine of one bundle: admission, hand-over to the decode workers, and back.

Knows text and sequences; neither gRPC nor ONNX Runtime. Constructing it loads the model; everything
else happens on the event loop, but for the decode workers' own threads.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as SequenceOf
from functools import partial
from typing import Protocol

from service.admission import Admission, Admitted, Demand
from service.bundle import Bundle, Direction, TranslationCard
from service.errors import (
    AttendantError,
    BundleError,
    Draining,
    InternalError,
    InvalidArgument,
    ModelUnavailable,
    Overloaded,
    ResourceExhausted,
)
from service.metrics import Metrics
from service.runtime import Device, choose_device, choose_precision
from service.settings import Settings
from service.translation.caches import CacheSizes
from service.translation.call import Call, Emit
from service.translation.expectation import Expectation
from service.translation.measures import TranslationMeasures
from service.translation.options import (
    DecodingOptions,
    Segmentation,
    default_options,
    limits_of,
    num_decode_workers,
)
from service.translation.preparation import PreparedText, TextPreparer
from service.translation.processors import TokenRules
from service.translation.results import StreamEvent, Summary, Translation
from service.translation.runner import Workers, open_runners
from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from service.translation.tokenizer import Tokenizer
from service.translation.warmup import Speed, warm_up
from service.translation.worker import DecodeWorker, StepResults, StepRunner

logger = logging.getLogger(__name__)

# Texts of a call with more characters than this are prepared in a thread: 1 ms of the event loop.
INLINE_CHARACTERS = 4000

# Of the speed of the first steps, as long as there is no measured rate; encoding takes the rest.
GUESSED_SHARE = 0.5


class OpenRunners(Protocol):
    """Makes what the decode workers run on; see `runner.open_runners`."""

    def __call__(
        self, bundle: Bundle, precision: str, device: Device, workers: Workers
    ) -> SequenceOf[StepRunner]:
        """One runner for each worker."""


class TranslationEngine:
    """Serves one bundle. Constructing it opens and warms up the model: do that in a thread."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        settings: Settings,
        metrics: Metrics,
        open_runners: OpenRunners = open_runners,
    ) -> None:
        card = bundle.translation
        self.model_name = f"{bundle.name}/{bundle.version}"
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device, bundle.precisions)
        self.limits = limits_of(card, self.precision, settings)
        if not self.limits.max_beam_size:
            raise BundleError(_too_little_memory(card, self.precision, settings))
        self.default_options = default_options(card, max_beam_size=self.limits.max_beam_size)
        self._narrowed = _narrowed(card, self.limits.max_beam_size)
        self.degraded = self._narrowed
        self.failed: str | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._segmentation = Segmentation(card.segmentation)
        self._tokenizer = Tokenizer.from_bundle(bundle)
        self._card = card
        self._preparer = TextPreparer(
            self._tokenizer,
            card.limits.max_source_tokens,
            settings.max_text_bytes,
            settings.max_queued_sequences,
        )
        self._measures = TranslationMeasures(metrics, self.model_name)
        workers = Workers.of(settings)
        runners = open_runners(bundle, self.precision, self.device, workers)
        self._scheduler = Scheduler(
            num_workers=len(runners), encode_tokens_per_step=settings.encode_tokens_per_step
        )
        self._log_caches(card, settings)
        speeds = [warm_up(runner, card) for runner in runners]
        self._expectation = Expectation(max(speed.seconds for speed in speeds))
        self._admission = Admission(
            self._scheduler.backlog,
            unit="sequences",
            max_queued=settings.max_queued_sequences,
            caller_share=settings.caller_queue_share,
            on_ended=self._measures.deadline_ended,
        )
        self._admission.rate.suppose(_guessed_rate(speeds))
        rules = TokenRules.from_card(card)
        self._workers = [
            DecodeWorker(
                runner,
                self._scheduler,
                rules,
                self._measures,
                self._deliver,
                self._deliver_death,
            )
            for runner in runners
        ]

    def _log_caches(self, card: TranslationCard, settings: Settings) -> None:
        row_bytes = CacheSizes.of(card, self.precision).longest_row_bytes
        logger.info(
            "%s: attention caches take at most %.0f MiB, %d rows of the longest sentences",
            self.model_name,
            settings.cache_memory / (1 << 20),
            settings.cache_memory // row_bytes,
        )

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Begin to serve, on the running loop.

        `on_change` is called on it when a decode thread has died: see `degraded` and `failed`.
        """
        self._loop = asyncio.get_running_loop()
        self.on_change = on_change
        self._measures.show_wait(self._admission.watch_wait())
        for worker in self._workers:
            worker.start()

    async def stop(self) -> None:
        """End the decode workers, after what they still have to do."""
        self._scheduler.close()
        for worker in self._workers:
            await asyncio.to_thread(worker.join)

    async def translate(
        self,
        contents: SequenceOf[str],
        options: DecodingOptions,
        segmentation: Segmentation | None = None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> Translation:
        """Translate every text; one that cannot be has an error of its own.

        Cancelling it frees its rows within one step. Raises Overloaded, CallerQueueFull and
        DeadlineUnreachable before anything is decoded, and InvalidArgument where a multilingual
        model gets no direction.
        """
        begun = time.monotonic()
        direction = direction or self._only_direction
        deadline = None if deadline_seconds is None else begun + deadline_seconds
        prepared = await self._prepare(contents, direction, options, segmentation, deadline)
        preprocess_seconds = time.monotonic() - begun
        call = self._submit(prepared, direction, options, begun, deadline)
        try:
            await call.done
        finally:
            self._end(call)
        return Translation(call.results, call.timing(preprocess_seconds, time.monotonic() - begun))

    async def stream(
        self,
        contents: SequenceOf[str],
        options: DecodingOptions,
        segmentation: Segmentation | None = None,
        *,
        direction: Direction | None = None,
        deadline_seconds: float | None = None,
    ) -> AsyncIterator[StreamEvent]:
        """Translate every text, sending what can no longer change; the summary is last.

        Closing the iterator frees its rows within one step. Raises as `translate` does.
        """
        begun = time.monotonic()
        direction = direction or self._only_direction
        deadline = None if deadline_seconds is None else begun + deadline_seconds
        prepared = await self._prepare(contents, direction, options, segmentation, deadline)
        preprocess_seconds = time.monotonic() - begun
        events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        call = self._submit(prepared, direction, options, begun, deadline, emit=events.put_nowait)
        call.done.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            self._end(call)
        yield Summary(call.timing(preprocess_seconds, time.monotonic() - begun))

    @property
    def _only_direction(self) -> Direction:
        """What a caller means who names none. Raises InvalidArgument where there are several."""
        languages = self._card.languages
        if languages is not None and len(languages.sources) * len(languages.targets) > 1:
            raise InvalidArgument(f"{self.model_name} translates between several languages")
        return self._card.first_direction

    async def _prepare(
        self,
        contents: SequenceOf[str],
        direction: Direction,
        options: DecodingOptions,
        segmentation: Segmentation | None,
        deadline: float | None,
    ) -> list[PreparedText | AttendantError]:
        """Segment and tokenize; `deadline` is by time.monotonic().

        Refuses by the look of the texts what cannot be let in, before it costs anything.
        """
        self._admit(self._expectation.demand_of_texts(contents, options), deadline)
        abandoned = threading.Event()
        segmentation = segmentation or self._segmentation
        arguments = (contents, direction, options, segmentation, abandoned)
        num_characters = sum(map(len, contents))
        try:
            if num_characters <= INLINE_CHARACTERS:
                return self._preparer.prepare(*arguments)
            return await asyncio.to_thread(self._preparer.prepare, *arguments)
        except Overloaded:
            self._measures.rejected(Overloaded.reason)
            raise
        finally:
            abandoned.set()  # a thread cannot be cancelled, but it looks at this

    def _submit(
        self,
        prepared: SequenceOf[PreparedText | AttendantError],
        direction: Direction,
        options: DecodingOptions,
        arrived_at: float,
        deadline: float | None,
        emit: Emit | None = None,
    ) -> Call:
        rules = TokenRules.from_card(self._card, direction.target)
        call = Call(
            prepared, options, self._tokenizer, rules=rules, arrived_at=arrived_at, emit=emit
        )
        self._expectation.prepared(one for one in prepared if isinstance(one, PreparedText))
        if call.sequences:
            demand = self._expectation.demand(call.sequences, options)
            call.take_place(self._admit(demand, deadline))
            self._measures.queued(len(call.sequences))
            self._scheduler.add(call.sequences)
        call.begin()
        return call

    def _admit(self, demand: Demand, deadline: float | None) -> Admitted:
        """Take a call whole or refuse it whole."""
        if self.failed is not None:
            raise ModelUnavailable(f"{self.model_name} cannot serve: {self.failed}")
        if self._scheduler.is_closed:
            raise Draining(f"{self.model_name} is being unloaded")
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            return self._admission.admit(demand, remaining)
        except ResourceExhausted as error:
            self._measures.rejected(error.reason)
            raise

    def _end(self, call: Call) -> None:
        """The call is done, or nobody waits for it: then what is not done of it, leaves."""
        is_answered = call.done.done() and not call.done.cancelled()
        if call.admitted is not None and self._admission.ended(
            call.admitted, is_answered=is_answered
        ):
            self._measures.answered_in_time(call.num_target_tokens)
        if is_answered:
            return
        for sequence in call.sequences:
            sequence.is_cancelled = True
        removed = self._scheduler.remove(call.sequences)
        self._measures.queued(-removed)
        self._measures.left_the_queue(removed, "cancelled")

    def _deliver_death(self) -> None:
        """Called by a decode worker, on its thread."""
        self._loop.call_soon_threadsafe(self._worker_died)

    def _worker_died(self) -> None:
        """Say so; where no decode thread is left, end those who wait and refuse whoever comes."""
        self.degraded = "; ".join(filter(None, (self._narrowed, "a decode thread has died")))
        if all(worker.is_dead for worker in self._workers):
            self.failed = "its decode threads have died"
            waiting = self._scheduler.take_all()
            self._measures.queued(-len(waiting))
            self._measures.left_the_queue(len(waiting), "error")
            for sequence in waiting:
                sequence.error = InternalError()
                if not sequence.is_cancelled:
                    sequence.receiver.finish(sequence)
        self.on_change()

    def _deliver(self, results: StepResults) -> None:
        """Called by the decode workers, on their threads."""
        self._loop.call_soon_threadsafe(self._receive, results)

    def _receive(self, results: StepResults) -> None:
        for sequence, token_ids in results.extended:
            if not sequence.is_cancelled:
                _tell(sequence, partial(sequence.receiver.extend, token_ids))
        for sequence in results.finished:
            if not sequence.is_cancelled:
                self._learn(sequence)
                _tell(sequence, partial(sequence.receiver.finish, sequence))

    def _learn(self, sequence: Sequence) -> None:
        if sequence.num_steps:
            self._expectation.finished(sequence)
            self._admission.rate.finished(
                sequence.beam_size * sequence.num_steps,
                others_wait=self._scheduler.num_waiting > 0,
            )


def _guessed_rate(speeds: SequenceOf[Speed]) -> float:
    """Row-steps a second."""
    return GUESSED_SHARE * sum(speed.num_rows / speed.seconds for speed in speeds)


def _too_little_memory(card: TranslationCard, precision: str, settings: Settings) -> str:
    num_bytes = CacheSizes.of(card, precision).longest_row_bytes
    workers = num_decode_workers(settings)
    return (
        f"the longest sequence needs {num_bytes:,} bytes of attention caches; {workers} decode "
        f"workers share a cache_memory of {settings.cache_memory:,}"
    )


def _narrowed(card: TranslationCard, max_beam_size: int) -> str | None:
    """What to say of a model whose own beam is wider than what this server decodes with."""
    if card.decoding.beam_size <= max_beam_size:
        return None
    return (
        f"the bundle's beam_size of {card.decoding.beam_size} is over the limit of "
        f"{max_beam_size}, which is the default instead"
    )


def _tell(sequence: Sequence, news: Callable[[], None]) -> None:
    """A bug in what becomes of one sequence is its own error: no other waits for ever."""
    try:
        news()
    except Exception:
        logger.exception("what the model chose could not be used")
        sequence.is_cancelled = True
        sequence.error = InternalError()
        sequence.receiver.finish(sequence)
