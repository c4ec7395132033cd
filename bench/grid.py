"""Every peer at its best: settings tried on sentences that are not timed, and the fastest used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Threads:
    """How CTranslate2 uses the cores."""

    inter: int
    intra: int
    use_mkl: bool  # CT2_USE_MKL=1: on a CPU that is not Intel's it takes other kernels by default

    def __str__(self) -> str:
        return f"inter {self.inter}, intra {self.intra}" + (", MKL" if self.use_mkl else "")

    @property
    def environment(self) -> dict[str, str]:
        """What its process needs."""
        return {"CT2_USE_MKL": "1"} if self.use_mkl else {}


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """How CTranslate2 cuts its sources into batches."""

    size: int
    kind: str  # "examples" or "tokens"

    def __str__(self) -> str:
        return f"{self.size} {self.kind}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the grid; sentences per second."""

    threads: Threads
    batch: Batch
    rate: float


FIRST_BATCH = Batch(32, "examples")
OTHER_BATCHES = (
    Batch(16, "examples"),
    Batch(64, "examples"),
    Batch(128, "examples"),
    Batch(1024, "tokens"),
    Batch(4096, "tokens"),
)
# Threads that are this much slower than the best with 32 examples are not tried further. With 0.8 a
# noisy first trial once dropped those that are the best with 16.
WORTH_TRYING = 0.6
# A setting that is this much slower than the best so far has no second trial.
HOPELESS = 0.5


def thread_settings(num_cores: int) -> list[Threads]:
    """All ways to share the cores out, and one core alone."""
    shares = {(inter, num_cores // inter) for inter in range(1, num_cores + 1)}
    kernels = (False,) if _is_intel() else (False, True)
    return [
        Threads(inter, intra, use_mkl)
        for use_mkl in kernels
        for inter, intra in sorted(shares | {(1, 1)}, reverse=True)
    ]


def worth_trying(trials: Sequence[Trial]) -> list[Threads]:
    """The threads to try the other batches with: the best two, and whatever is nearly as good."""
    rates = sorted((trial.rate for trial in trials), reverse=True)
    enough = min(WORTH_TRYING * rates[0], rates[:2][-1])
    return [trial.threads for trial in trials if trial.rate >= enough]


def best_of(trials: Sequence[Trial]) -> Trial:
    """The fastest."""
    return max(trials, key=lambda trial: trial.rate)


def grid_table(title: str, trials: Sequence[Trial]) -> str:
    """The grid in sentences or calls a second, as Markdown; what was not tried is empty."""
    batches = list(dict.fromkeys(trial.batch for trial in trials))
    rates = {(trial.threads, trial.batch): trial.rate for trial in trials}
    best = best_of(trials)
    lines = [
        f"| {title} | " + " | ".join(map(str, batches)) + " |",
        "| --- |" + " --: |" * len(batches),
    ]
    for threads in dict.fromkeys(trial.threads for trial in trials):
        cells = []
        for batch in batches:
            rate = rates.get((threads, batch))
            text = "" if rate is None else f"{rate:,.1f}"
            is_best = (threads, batch) == (best.threads, best.batch)
            cells.append(f"**{text}**" if is_best else text)
        lines.append(f"| {threads} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _is_intel() -> bool:
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
