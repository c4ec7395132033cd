"""Translation: float16 checked against float32, then tokens a second, ours and Hugging Face's."""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.gpu.agreement import Agreement, share_of
from bench.gpu.chip import Chip, best_seconds, count_kernels
from bench.gpu.floors import num_nodes, step_floor
from bench.gpu.huggingface import HuggingFace
from bench.gpu.models import TranslationSize, random_transformer, translation_model
from bench.gpu.ours import Decoded, Ours
from bench.gpu.trained import real_sources
from export.seq2seq import Transformer
from service.runtime import Device
from service.translation.device_runner import GRAPHS
from service.translation.processors import TokenRules

SHORTEST_SOURCE = 6
FIRST_TOKEN = 3  # behind the special ones


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    device: Device
    sizes: Sequence[TranslationSize]
    beam_sizes: Sequence[int] = (1, 4)
    in_flight: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    compiled_at: Sequence[int] = (64,)  # sequences; compiling takes half a minute each time
    compile_seconds: float = 100.0  # spent on all of it, at most about
    num_checked: int = 512
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One model, beam size and number of sequences in flight."""

    model: str
    beam_size: int
    in_flight: int
    step_seconds: float  # with the search, in Python
    device_seconds: float  # of the decoder and the candidates alone
    floor_seconds: float
    kernels: int
    is_captured: bool
    tokens_per_second: float
    eager_tokens_per_second: float
    compiled_tokens_per_second: float | None
    not_compiled: str = ""  # why

    @property
    def over_floor(self) -> float:
        """How many times a step's floor a step takes."""
        return self.step_seconds / self.floor_seconds

    @property
    def over_peer(self) -> float:
        """How many times the better of Hugging Face's throughputs ours is."""
        peers = [self.eager_tokens_per_second, self.compiled_tokens_per_second or 0.0]
        return self.tokens_per_second / max(peers)


class TranslationBench:
    """One size of model: built once, checked, measured."""

    def __init__(
        self,
        size: TranslationSize,
        plan: Plan,
        chip: Chip,
        trained: Transformer | None = None,
    ) -> None:
        """Of random weights, or of a trained model of this size."""
        self._size, self._plan, self._chip = size, plan, chip
        self._is_trained = trained is not None
        self._model = trained or random_transformer(size.config)
        self._files = translation_model(size, self._model, "fp16", plan.device)
        rows = max(plan.in_flight) * max(plan.beam_sizes)
        rules = TokenRules(eos=size.config.eos_token_id, decoder_start=size.config.pad_token_id)
        self._ours = Ours(self._files, rules, rows)
        self._compile_seconds = 0.0

    def check(self) -> Iterator[Agreement]:
        """float16 against Hugging Face's float32, greedy and beams."""
        exact = HuggingFace(self._model, self._plan.device, half=False)
        peer = HuggingFace(self._model, self._plan.device, half=True)
        if self._is_trained:
            sources = real_sources(self._size, self._plan.num_checked)
        else:
            sources = self._sources(self._plan.num_checked, seed=1)
        for beam_size in self._plan.beam_sizes:
            expected = self._peer_decode(exact, sources, beam_size).ids
            half = self._peer_decode(peer, sources, beam_size).ids
            yield Agreement(
                model=self._size.name,
                beam_size=beam_size,
                num_sentences=len(sources),
                ours=share_of(self._in_turns(sources, beam_size), expected, sources, exact),
                peer=share_of(half, expected, sources, exact),
                is_trained=self._is_trained,
            )

    def measure(self) -> Iterator[Line]:
        """Every beam size and number in flight."""
        peer = HuggingFace(self._model, self._plan.device, half=True)
        for beam_size in self._plan.beam_sizes:
            for in_flight in self._plan.in_flight:
                yield self._line(peer, beam_size, in_flight)

    def _line(self, peer: HuggingFace, beam_size: int, in_flight: int) -> Line:
        sources = self._sources(in_flight, seed=2)
        decoded = self._best(lambda: self._decode(sources, beam_size))
        eager = self._best(lambda: self._peer_decode(peer, sources, beam_size))
        compiled, reason = self._compiled(peer, sources, beam_size)
        kernels, device_seconds = self._device_step(in_flight * beam_size)
        floor = step_floor(
            self._size.config,
            num_rows=in_flight * beam_size,
            source_tokens=statistics.mean(map(len, sources)),
            target_tokens=self._size.target_tokens / 2,
            kernels=kernels,
        )
        return Line(
            model=self._size.name,
            beam_size=beam_size,
            in_flight=in_flight,
            step_seconds=decoded.step_seconds,
            device_seconds=device_seconds,
            floor_seconds=floor.seconds(self._chip),
            kernels=kernels,
            is_captured=self._ours.runner.is_captured,
            tokens_per_second=decoded.tokens_per_second,
            eager_tokens_per_second=eager.tokens_per_second,
            compiled_tokens_per_second=compiled,
            not_compiled=reason,
        )

    def _in_turns(self, sources: list[list[int]], beam_size: int) -> list[list[int]]:
        """Our answers, fewer at a time than there are: sequences join and leave."""
        return self._ours.decode(
            sources,
            beam_size=beam_size,
            in_flight=max(1, min(max(self._plan.in_flight), len(sources) // 2)),
            target_tokens=self._size.target_tokens,
        ).ids

    def _decode(self, sources: list[list[int]], beam_size: int) -> Decoded:
        return self._ours.decode(
            sources,
            beam_size=beam_size,
            in_flight=len(sources),
            target_tokens=self._size.target_tokens,
        )

    def _peer_decode(
        self, peer: HuggingFace, sources: list[list[int]], beam_size: int, compiled: bool = False
    ) -> Decoded:
        tokens = self._size.target_tokens
        return peer.decode(sources, beam_size=beam_size, target_tokens=tokens, compiled=compiled)

    def _best(self, decode: Callable[[], Decoded]) -> Decoded:
        """The fastest round, after one to warm up."""
        decode()
        return min((decode() for _ in range(self._plan.rounds)), key=lambda one: one.seconds)

    def _compiled(
        self, peer: HuggingFace, sources: list[list[int]], beam_size: int
    ) -> tuple[float | None, str]:
        """Tokens a second of the compiled model; None, and why, where there are none."""
        if len(sources) not in self._plan.compiled_at:
            return None, ""
        if self._compile_seconds > self._plan.compile_seconds:
            return None, "no time left to compile"
        begun = time.perf_counter()
        try:
            best = self._best(lambda: self._peer_decode(peer, sources, beam_size, compiled=True))
        except Exception as error:  # whatever the compiler or the model's cache cannot do
            return None, f"{type(error).__name__}: {error}".splitlines()[0][:160]
        finally:
            self._compile_seconds += time.perf_counter() - begun
        return best.tokens_per_second, ""

    def _device_step(self, num_rows: int) -> tuple[int, float]:
        """Kernels and seconds of one step and its candidates."""
        runner = self._ours.runner

        def step() -> None:
            runner.run_bucket(num_rows)
            runner.candidates(1)

        seconds = best_seconds(step, self._plan.device)
        kernels = count_kernels(step)
        return kernels or num_nodes(self._files.decoder, GRAPHS / "candidates.onnx"), seconds

    def _sources(self, count: int, *, seed: int) -> list[list[int]]:
        rng, config = random.Random(seed), self._size.config
        lengths = (rng.randint(SHORTEST_SOURCE, self._size.max_source_tokens) for _ in range(count))
        return [
            [rng.randrange(FIRST_TOKEN, config.vocab_size) for _ in range(length - 1)]
            + [config.eos_token_id]
            for length in lengths
        ]
