"""What a stream sends can no longer change, comes early, and ends in what a plain call returns."""

import random
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from service.bundle import Bundle
from service.errors import InternalError
from service.translation.call import Call
from service.translation.options import DecodingOptions, Segmentation
from service.translation.preparation import TextPreparer
from service.translation.processors import TokenRules
from service.translation.results import StreamEvent, TextDelta, TextFinished
from service.translation.sequence import Sequence
from service.translation.tokenizer import Tokenizer
from tests.translation.fakes import Bench, FakeRunner, Script

NUM_CASES = 500


class Streams:
    """Calls through a bundle's tokenizer and a scripted model, driven by hand."""

    def __init__(self, bundle: Bundle) -> None:
        card = bundle.translation
        self.tokenizer = Tokenizer.from_bundle(bundle)
        self.direction = card.first_direction
        self.preparer = TextPreparer(self.tokenizer, card.limits.max_source_tokens, 1 << 16, 4096)
        self.rules = TokenRules.from_card(card)
        self.vocab_size = card.architecture.vocab_size

    def call(
        self,
        texts: list[str],
        options: DecodingOptions,
        events: list[StreamEvent] | None,
        stream_interval: float = 0.0,
    ) -> Call:
        prepared = self.preparer.prepare(texts, self.direction, options, Segmentation.SENTENCES)
        emit = None if events is None else events.append
        return Call(
            *(prepared, options, self.tokenizer),
            arrived_at=0.0,
            emit=emit,
            stream_interval=stream_interval,
        )

    def bench(self, script: Script, **given: int) -> tuple[Bench, FakeRunner]:
        runner = FakeRunner(script, **given)
        return Bench(runner, rules=self.rules), runner

    def random_script(self, rng: random.Random) -> Script:
        """A few of all tokens are possible at a time, so beams agree, part and meet again."""
        seed, eos = rng.getrandbits(32), self.rules.eos
        eos_score = rng.uniform(-3.0, 2.0)

        def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
            state = np.random.default_rng([seed, *source[:3], *target[-2:]])
            logits = np.full(self.vocab_size, -30.0, np.float32)
            logits[state.integers(3, self.vocab_size, 5)] = state.normal(0, 2, 5)
            logits[eos] = eos_score + len(target) / 10
            return logits

        return script

    def spelling(self, translation: str) -> Script:
        """Every source becomes this text, whatever was chosen before."""
        ids = self.tokenizer.encode([translation])[0]

        def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
            logits = np.random.default_rng(len(target)).normal(0, 1, self.vocab_size)
            logits[ids[len(target) - 1]] += 20.0
            return logits.astype(np.float32)

        return script


@pytest.fixture(scope="module")
def streams(bundle: Bundle) -> Streams:
    return Streams(bundle)


def deltas(events: list[StreamEvent], index: int) -> str:
    return "".join(
        event.text
        for event in events
        if isinstance(event, TextDelta) and event.content_index == index
    )


@pytest.mark.parametrize("beam_size", [1, 4])
async def test_the_first_words_come_before_a_third_of_the_steps(
    beam_size: int, streams: Streams
) -> None:
    translation = "ein mann mit einem roten hut steht vor einem kleinen haus und liest die zeitung"
    bench, runner = streams.bench(streams.spelling(translation))
    events: list[StreamEvent] = []
    call = streams.call(["A man reads."], DecodingOptions(beam_size=beam_size), events)
    bench.add(*call.sequences)
    while not events:
        bench.turn()
    first = runner.num_steps
    bench.run()
    assert call.results[0].hypotheses[0].text == translation
    assert first < runner.num_steps / 3
    assert deltas(events, 0) == translation


LONG = "ein mann mit einem roten hut steht vor einem kleinen haus und liest die zeitung"


class Clock:
    """Stands still unless it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Seldom:
    """A stream of texts, each sentence spelled so, whose further words come every 10 s."""

    def __init__(
        self, streams: Streams, text: str, translation: str = LONG, beam_size: int = 1
    ) -> None:
        self.bench, _ = streams.bench(streams.spelling(translation))
        self.events: list[StreamEvent] = []
        options = DecodingOptions(beam_size=beam_size)
        self.call = streams.call([text], options, self.events, stream_interval=10.0)

    @property
    def sent(self) -> str:
        return deltas(self.events, 0)

    def begin(self, *sequences: Sequence) -> None:
        self.bench.add(*(sequences or self.call.sequences))

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.bench.turn()

    def run_until_sent(self) -> None:
        """Turns until something more was sent."""
        before = self.sent
        for _ in range(10):
            if self.sent != before:
                return
            self.bench.turn()
        raise AssertionError("nothing was sent")


@pytest.mark.parametrize("beam_size", [1, 4])
async def test_further_words_of_a_sentence_come_after_an_interval_and_its_first_at_once(
    beam_size: int, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message a token made the steps beside it take 40 % longer."""
    clock = Clock(monkeypatch)
    stream = Seldom(streams, "A man reads.", beam_size=beam_size)
    stream.begin()
    stream.run_until_sent()
    stream.turns(3)
    assert len(stream.events) == 1
    clock.now += 10.0
    stream.run_until_sent()
    assert len(stream.events) == 2
    assert not stream.call.sequences[0].is_done
    stream.bench.run()
    assert sum(isinstance(event, TextDelta) for event in stream.events) == 3  # the rest, at the end
    assert stream.sent == LONG == stream.call.results[0].hypotheses[0].text


async def test_a_loop_that_is_behind_the_steps_sends_no_more_often(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sent at once all that it had not heard of yet, word by word."""
    Clock(monkeypatch)
    stream = Seldom(streams, "A man reads.")
    stream.begin()
    behind = [stream.bench.workers[0].turn() for _ in range(6)]
    for results in behind:
        stream.bench.receive(results)
    assert [len(results.extended) for results in behind] == [1, 0, 0, 0, 0, 0]
    stream.turns(3)
    assert stream.sent.startswith("ein mann mit einem ")  # all that there was by then
    assert len(stream.events) == 1
    stream.bench.run()
    assert stream.sent == LONG


async def test_a_line_break_before_the_first_word_is_not_what_further_words_wait_for(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    stream = Seldom(streams, "\n A man reads.")
    stream.begin()
    stream.turns(6)
    assert stream.sent.split() == ["ein"]


async def test_a_sentence_that_another_holds_back_is_not_told_token_by_token(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its words come at once when nothing holds it back any more."""
    Clock(monkeypatch)
    stream = Seldom(streams, "A man reads. A woman reads.", "ein mann liest die zeitung")
    first, second = stream.call.sequences
    stream.begin(first)
    stream.turns(3)
    stream.begin(second)
    stream.turns(2)
    assert second.num_streamed == 1
    while not first.has_ended:
        stream.turns(1)
    stream.run_until_sent()
    assert not second.has_ended
    stream.bench.run()
    assert stream.sent == stream.call.results[0].hypotheses[0].text


async def test_what_was_sent_is_always_the_beginning_of_what_is_returned(
    streams: Streams, sentences: list[str]
) -> None:
    rng = random.Random(2)
    num_early = 0
    for _ in range(NUM_CASES):
        texts = [random_text(rng, sentences) for _ in range(rng.choice((1, 1, 2)))]
        beam_size = rng.choice((1, 2, 3))
        options = DecodingOptions(
            beam_size=beam_size,
            length_penalty=rng.choice((0.0, 1.0, 2.0)),
            max_target_tokens=rng.randint(1, 15),
            return_scores=True,
        )
        script = streams.random_script(rng)
        num_early += stream_once(streams, script, texts, options, rng)
    assert num_early > NUM_CASES  # it does stream


def random_text(rng: random.Random, sentences: list[str]) -> str:
    """Up to four short sentences between spaces and line breaks."""
    short = [one for one in sentences if len(one) < 60]
    gaps = ["  ", " ", "\n", "\r\n\r\n", "\t", ""]
    parts = [
        part for _ in range(rng.randint(0, 4)) for part in (rng.choice(gaps), rng.choice(short))
    ]
    return "".join([*parts, rng.choice(gaps)])


def stream_once(
    streams: Streams,
    script: Script,
    texts: list[str],
    options: DecodingOptions,
    rng: random.Random,
) -> int:
    """One call, streamed, against itself without a stream; returns how many deltas came early."""
    plain = streams.call(texts, options, None)
    plain.begin()
    streams.bench(script)[0].run(*plain.sequences)

    events: list[StreamEvent] = []
    call = streams.call(texts, options, events)
    bench, _ = streams.bench(script, max_rows=3 + rng.randint(0, 6))  # so some wait for others
    bench.add(*call.sequences)
    call.begin()
    bench.run()

    assert call.done.done()
    assert call.results == plain.results
    for index, result in enumerate(call.results):
        assert deltas(events, index) == result.hypotheses[0].text
        mine = [one for one in events if getattr(one, "content_index", None) == index]
        assert mine[-1] == TextFinished(index, result)
        assert sum(isinstance(one, TextFinished) for one in mine) == 1
    return sum(isinstance(one, TextDelta) for one in events) - len(texts)


async def test_a_later_sentence_waits_until_all_before_it_are_sent(streams: Streams) -> None:
    """The first sentence is decoded to the limit, the second ends at once."""
    long_ids = tuple(streams.tokenizer.encode(["A long sentence."])[0])
    word, eos = streams.tokenizer.encode(["haus"])[0][0], streams.rules.eos

    def script(source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.zeros(streams.vocab_size, np.float32)
        goes_on = source == long_ids or len(target) < 2
        logits[word if goes_on else eos] = 9.0
        return logits

    bench, _ = streams.bench(script)
    events: list[StreamEvent] = []
    call = streams.call(["A long sentence. B."], DecodingOptions(max_target_tokens=8), events)
    bench.add(*call.sequences)
    sent = []
    while not call.done.done():
        bench.turn()
        sent.append(deltas(events, 0))
    text = call.results[0].hypotheses[0].text
    assert sent[-1] == text
    assert all(text.startswith(one) and len(one) < len(text) - len(" haus") for one in sent[:-1])


async def test_nothing_follows_the_error_of_a_text(streams: Streams) -> None:
    """Regression: of two sentences one failed, the other went on and its words were still sent
    after the text's error."""
    bench, runner = streams.bench(streams.spelling("ein mann steht vor einem kleinen haus"))
    events: list[StreamEvent] = []
    call = streams.call(["A. Cat sleeps. B."], DecodingOptions(), events)
    runner.failing_sources.add(tuple(call.sequences[-1].source_ids.tolist()))
    bench.add(*call.sequences[:1])
    bench.turn()
    bench.add(*call.sequences[1:])
    bench.run()
    assert isinstance(call.results[0].error, InternalError)
    assert isinstance(events[-1], TextFinished)
