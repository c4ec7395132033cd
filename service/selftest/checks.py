"""Answers beside other answers: what passes, what is worth a note, what fails."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from service.golden import Answer
from service.selftest.report import Finding
from service.selftest.trial import Company

# Answers of another arithmetic that are less alike than this, on average, are other answers. int8
# beside fp32, default models: images 99 %, captions 96 %, sentences of 60 words 87 %; translations
# of different sentences 31 %.
MIN_LIKENESS = 0.75
# Less than this between two measured speeds is noise.
_CLEARLY_FASTER = 1.1

AnswerT = TypeVar("AnswerT", bound=Answer)
# By way of asking, such as "beam 4"; one answer for each sample.
Answers = Mapping[str, Sequence[AnswerT]]
Pairs = Sequence[tuple[AnswerT, AnswerT]]


def check_golden(
    precision: str,
    names: Sequence[str],
    golden: Answers[AnswerT],
    found: Answers[AnswerT],
    *,
    excuse: str | None,
) -> Iterator[Finding]:
    """The golden answers beside those found here; `excuse` says why they may differ, if they may.

    A way that was not asked here, a beam wider than this server's limit, is left out.
    """
    for way in [way for way in golden if way in found]:
        pairs = list(zip(golden[way], found[way], strict=True))
        wrong = tuple(
            f"{name}\nexpected  {expected}\nfound     {answer}"
            for name, (expected, answer) in zip(names, pairs, strict=True)
            if not expected.is_same(answer) or expected.distance(answer) > expected.TOLERANCE
        )
        row = f"golden answers, {way}"
        cell = f"{len(pairs) - len(wrong)} of {len(pairs)} (± {_distance(pairs):.1g})"
        if excuse is None or not wrong:
            yield Finding(row, precision, cell, failures=wrong)
        elif failures := _unlike(pairs):
            yield Finding(row, precision, cell, failures=failures)
        else:
            note = f"{precision}, {row}: {_likeness(pairs):.1%} alike; {excuse}"
            yield Finding(row, precision, cell, notes=(note,))


def check_company(
    precision: str,
    names: Sequence[str],
    alone: Answers[AnswerT],
    together: Sequence[Company[AnswerT]],
    *,
    is_exact: bool,
) -> Finding:
    """Answers that were given among others, beside those given alone."""
    different = tuple(
        f"{one.way}, {names[one.index]}\n"
        f"alone       {alone[one.way][one.index]}\nin company  {one.answer}"
        for one in together
        if one.answer != alone[one.way][one.index]
    )
    cell = f"{len(together) - len(different)} of {len(together)}"
    row = "in company as alone, to the bit"
    if is_exact or not different:
        return Finding(row, precision, cell, failures=different)
    note = f"{precision}: {cell} answers have the same bits in company; on a GPU not all have"
    return Finding(row, precision, cell, notes=(note,))


def check_agreement(
    precision: str, reference: Answers[AnswerT], found: Answers[AnswerT]
) -> Iterator[Finding]:
    """A precision beside fp32, both on this machine; of fp32 itself there is nothing to say."""
    for way in reference:
        row = f"as in fp32, {way}"
        if precision == "fp32":
            yield Finding(row, precision, "")
            continue
        pairs = list(zip(reference[way], found[way], strict=True))
        num_same = sum(expected.is_same(answer) for expected, answer in pairs)
        cell = f"{num_same} of {len(pairs)} ({_likeness(pairs):.1%} alike)"
        yield Finding(row, precision, cell, failures=_unlike(pairs))


def compare_speeds(rates: Mapping[str, float], served: str) -> tuple[str, str | None]:
    """Samples a second, by precision: which is the fastest, and a note if it is not `served`."""
    *_, second, fastest = sorted(rates, key=rates.__getitem__)
    remark = f"fastest: {fastest}, {rates[fastest] / rates[second]:.1f} times {second}"
    if rates[fastest] <= _CLEARLY_FASTER * rates[served]:
        return remark, None
    times = rates[fastest] / rates[served]
    return remark, (
        f"the server takes {served}, but {fastest} is {times:.1f} times as fast on this machine: "
        f"--precision {fastest}"
    )


def _distance(pairs: Pairs[AnswerT]) -> float:
    return max(expected.distance(answer) for expected, answer in pairs)


def _likeness(pairs: Pairs[AnswerT]) -> float:
    return fmean(expected.likeness(answer) for expected, answer in pairs)


def _unlike(pairs: Pairs[AnswerT]) -> tuple[str, ...]:
    likeness = _likeness(pairs)
    if likeness >= MIN_LIKENESS:
        return ()
    return (f"the answers are {likeness:.1%} alike, expected at least {MIN_LIKENESS:.0%}",)
