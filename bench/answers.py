"""Whether two contenders compute the same function: their answers side by side, before timing."""

from collections.abc import Sequence
from dataclasses import dataclass

Hypotheses = Sequence[Sequence[int | str]]  # of one source, best first: tokens or words

# fp32 of both sides computes the same function but for the order of sums: hardly a tie is broken
# another way. Below this share the weights are not the same ones, and timing would mean nothing.
SAME_IN_FP32 = 0.98


class DifferentAnswers(RuntimeError):
    """The contenders do not do the same work."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the answers of two contenders are."""

    num_answers: int
    num_same: int
    num_same_first: int  # begin with the same token
    shared_tokens: float  # share of the tokens that come before the first difference
    lengths: tuple[int, int]  # tokens of all answers, ours and theirs

    @classmethod
    def of(cls, ours: Sequence[Hypotheses], theirs: Sequence[Hypotheses]) -> "Agreement":
        """Of the best hypotheses."""
        pairs = [(a[0], b[0]) for a, b in zip(ours, theirs, strict=True)]
        shared = sum(_common(a, b) for a, b in pairs)
        longest = sum(max(len(a), len(b)) for a, b in pairs)
        return cls(
            num_answers=len(pairs),
            num_same=sum(list(a) == list(b) for a, b in pairs),
            num_same_first=sum(list(a[:1]) == list(b[:1]) for a, b in pairs),
            shared_tokens=shared / max(longest, 1),
            lengths=(sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs)),
        )

    def require(self, share: float) -> None:
        """Raise DifferentAnswers if fewer answers are the same."""
        if self.num_same < share * self.num_answers:
            raise DifferentAnswers(f"expected the same answers, found {self}")

    def __str__(self) -> str:
        return (
            f"{self.num_same} of {self.num_answers} answers the same, {self.num_same_first} begin "
            f"alike, {self.shared_tokens:.0%} of the tokens come before a difference; "
            f"{self.lengths[0]} tokens ours, {self.lengths[1]} theirs"
        )


def _common(ours: Sequence[int | str], theirs: Sequence[int | str]) -> int:
    for index, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return index
    return min(len(ours), len(theirs))
