"""Our runner and search over a device, with so many sequences in flight at a time."""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from service.translation.device_runner import DeviceModel, DeviceRunner
from service.translation.options import DecodingOptions, EarlyStopping
from service.translation.processors import TokenRules
from service.translation.search import Search
from service.translation.sequence import Sequence

CACHE_BYTES = 8 << 30


class Nobody:
    """Waits for nothing."""

    def finish(self, sequence: Sequence) -> None:
        """Ignore it."""

    def extend(self, sequence: Sequence, token_ids: list[int]) -> None:
        """Ignore it."""


@dataclass(slots=True)
class Decoded:
    """What became of some sources, and how long it took."""

    ids: list[list[int]]
    seconds: float
    steps: list[float] = field(default_factory=list)  # seconds of those where nobody joined

    @property
    def tokens_per_second(self) -> float:
        """Target tokens of the answers."""
        return sum(map(len, self.ids)) / self.seconds

    @property
    def step_seconds(self) -> float:
        """The median of the steps where nobody joined."""
        return float(np.median(self.steps)) if self.steps else float("nan")


class Ours:
    """One decode worker without its thread and its queue."""

    def __init__(self, model: DeviceModel, rules: TokenRules, max_rows: int) -> None:
        self.runner = DeviceRunner(model, max_rows, CACHE_BYTES)
        self.runner.warm_up()
        self._rules = rules
        self._search = Search(self.runner.table, rules, self.runner)

    def decode(
        self, sources: list[list[int]], *, beam_size: int, in_flight: int, target_tokens: int
    ) -> Decoded:
        """Translate all of them, `in_flight` at a time."""
        options = DecodingOptions(
            beam_size=beam_size,
            max_target_tokens=target_tokens,
            early_stopping=EarlyStopping.ALL_FINISHED,
        )
        sequences = [Sequence(np.array(ids), options, Nobody()) for ids in sources]
        waiting, running = deque(sequences), list[Sequence]()
        steps: list[float] = []
        begun = time.perf_counter()
        while waiting or running:
            turn_begun = time.perf_counter()
            joining = self._join(waiting, in_flight - len(running))
            running += joining
            running = self._step(running)
            if not joining:
                steps.append(time.perf_counter() - turn_begun)
        seconds = time.perf_counter() - begun
        return Decoded([one.finished[0].token_ids for one in sequences], seconds, steps)

    def _join(self, waiting: deque[Sequence], count: int) -> list[Sequence]:
        joining = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        table = self.runner.table
        for sequence in joining:
            table.allocate(sequence, self._rules.decoder_start)
        if joining:
            self.runner.admit(joining)
        table.close_gaps(self.runner)
        return joining

    def _step(self, running: list[Sequence]) -> list[Sequence]:
        self._search.advance(running, self.runner.step())
        self.runner.table.release([sequence for sequence in running if sequence.is_done])
        return [sequence for sequence in running if not sequence.is_done]
