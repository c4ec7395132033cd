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

from service.admission import Admission, Admitted, Demand
from service.bundle import Bundle, Direction
from service.devices import DEVICES, Devices
from service.errors import (
    AttendantError,
    DeadlineUnreachable,
    Draining,
    InternalError,
    InvalidArgument,
    ModelUnavailable,
    Overloaded,
    ResourceExhausted,
)
from service.metrics import Metrics
from service.runtime import Device
from service.settings import Settings
from service.timeline import current_timeline
from service.translation.call import Call, Emit
from service.translation.crew import Crew, OpenRunners
from service.translation.expectation import Expectation
from service.translation.measures import TranslationMeasures
from service.translation.options import DecodingOptions, Limits, Segmentation
from service.translation.preparation import PreparedText, TextPreparer
from service.translation.processors import TokenRules
from service.translation.results import StreamEvent, Summary, Translation
from service.translation.runner import open_runners
from service.translation.scheduler import Scheduler
from service.translation.sequence import Sequence
from service.translation.story import describe
from service.translation.tokenizer import Tokenizer
from service.translation.worker import StepResults

logger = logging.getLogger(__name__)

# Texts of a call with more characters than this are prepared in a thread: 1 ms of the event loop.
INLINE_CHARACTERS = 4000


class TranslationEngine:
    """Serves one bundle. Constructing it opens and warms up the model: do that in a thread."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        settings: Settings,
        metrics: Metrics,
        devices: Devices = DEVICES,
        open_runners: OpenRunners = open_runners,
    ) -> None:
        card = bundle.translation
        self.model_name = f"{bundle.name}/{bundle.version}"
        self.on_change: Callable[[], None] = lambda: None
        self._settings = settings
        self._segmentation = Segmentation(card.segmentation)
        self._tokenizer = Tokenizer.from_bundle(bundle)
        self._card = card
        self._measures = TranslationMeasures(metrics, self.model_name)
        self._crew = Crew(bundle, settings, devices, open_runners, self._measures, self._receive)
        self._take_place()

    @property
    def device(self) -> Device:
        """ "cpu" or "cuda"."""
        return self._placement.device

    @property
    def precision(self) -> str:
        """ "fp32", "int8" or "fp16"."""
        return self._placement.precision

    @property
    def limits(self) -> Limits:
        """What a call may ask for."""
        return self._placement.limits

    @property
    def default_options(self) -> DecodingOptions:
        """What a call gets that asks for nothing else."""
        return self._placement.default_options

    @property
    def degraded(self) -> str | None:
        """Why it does not serve as it was meant to; None while it does."""
        return self._crew.degraded

    @property
    def failed(self) -> str | None:
        """Why it can no longer serve at all; None while it can."""
        return self._crew.failed

    @property
    def _scheduler(self) -> Scheduler:
        return self._crew.scheduler

    def _take_place(self) -> None:
        """Admit what can be served where the model runs now."""
        self._placement = self._crew.placement
        self._preparer = TextPreparer(
            self._tokenizer,
            self._card.limits.max_source_tokens,
            self._settings.max_text_bytes,
            self._placement.max_queued,
        )
        self._expectation = Expectation(self._crew.step_seconds)
        self._admission = Admission(
            self._scheduler.backlog,
            unit="sequences",
            max_queued=self._placement.max_queued,
            caller_share=self._settings.caller_queue_share,
            on_ended=self._measures.deadline_ended,
        )
        self._admission.rate.suppose(self._crew.guessed_rate)
        self._measures.show_wait(self._admission.watch_wait())

    def _hear_of_change(self) -> None:
        if self._placement is not self._crew.placement:
            self._take_place()
        self._admission.rate.suppose(self._crew.guessed_rate)
        self.on_change()

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Begin to serve, on the running loop.

        `on_change` is called on it when a decode thread has died or a GPU was lost: see `degraded`
        and `failed`.
        """
        self.on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._crew.start(self._hear_of_change)

    async def stop(self) -> None:
        """End the decode workers, after what they still have to do."""
        await self._crew.stop()

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
            call.done.result()
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
        self._expectation.forget(self._admission.forget())
        least = self._preparer.least_sequences(contents)
        demand = self._expectation.demand_of_texts(contents, options, least)
        self._ask_admission(self._admission.consider, demand, deadline)
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
            prepared,
            options,
            self._tokenizer,
            rules=rules,
            arrived_at=arrived_at,
            emit=emit,
            stream_interval=self._settings.stream_interval_seconds,
        )
        if deadline is not None:
            call.deadline_at = deadline
        self._crew.check(options)
        self._expectation.prepared(one for one in prepared if isinstance(one, PreparedText))
        if call.sequences:
            demand = self._expectation.demand(call.sequences, options)
            call.take_place(self._ask_admission(self._admission.admit, demand, deadline))
            call.done.add_done_callback(lambda _: self._account(call))
            self._measures.queued(len(call.sequences))
            self._scheduler.add(call.sequences)
            if deadline is not None:
                self._watch(call)
        call.begin()
        return call

    def _ask_admission(
        self,
        ask: Callable[[Demand, float | None], Admitted],
        demand: Demand,
        deadline: float | None,
    ) -> Admitted:
        """Take a call whole or refuse it whole."""
        if self.failed is not None:
            raise ModelUnavailable(f"{self.model_name} cannot serve: {self.failed}")
        if self._scheduler.is_closed:
            raise Draining(f"{self.model_name} is being unloaded")
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            return ask(demand, remaining)
        except ResourceExhausted as error:
            self._measures.rejected(error.reason)
            raise

    def _watch(self, call: Call) -> None:
        """Give a call up that has not begun when it must: it would be decoded in vain."""
        assert call.admitted is not None
        timer = self._loop.call_at(call.admitted.last_moment, self._give_up, call, call.admitted)
        call.done.add_done_callback(lambda _: timer.cancel())

    def _give_up(self, call: Call, admitted: Admitted) -> None:
        if call.is_waiting and not call.done.done():
            self._measures.rejected(DeadlineUnreachable.reason)
            call.fail(self._admission.give_up(admitted))

    def _end(self, call: Call) -> None:
        """The call is done, or nobody waits for it: then what is not done of it, leaves."""
        describe(current_timeline(), call, self.model_name)
        if call.is_answered:
            return
        reason = call.cancel_reason()
        call.done.cancel()
        for sequence in call.sequences:
            sequence.cancel_reason = reason
            sequence.is_cancelled = True
        removed = self._scheduler.remove(call.sequences)
        self._measures.queued(-removed)
        self._measures.left_the_queue(removed, reason)

    def _account(self, call: Call) -> None:
        """Of a call that was let in nothing is left to do, whether or not it has been told."""
        assert call.admitted is not None
        if call.has_failed:
            self._admission.leave(call.admitted)
        elif self._admission.ended(call.admitted, is_answered=call.is_answered):
            self._measures.answered_in_time(call.num_target_tokens)

    def _receive(self, results: StepResults) -> None:
        for sequence, token_ids in results.extended:
            if not sequence.is_cancelled:
                _tell(sequence, partial(sequence.receiver.extend, sequence, token_ids))
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


def _tell(sequence: Sequence, news: Callable[[], None]) -> None:
    """A bug in what becomes of one sequence is its own error: no other waits for ever."""
    try:
        news()
    except Exception:
        logger.exception("what the model chose could not be used")
        sequence.is_cancelled = True
        sequence.error = InternalError()
        sequence.receiver.finish(sequence)
