"""The settings under which the search is compared with `generate`.

Most values have a setting in which they alone differ from plain beam search of 4 beams; the others
pair beam sizes with length penalties and stopping rules, and mix the rest. 5 and 8 beams, and the
rule "never", come with other penalties or rules: by themselves they change 2 to 20 % of the
sentences, depending on how the training went.
"""

from dataclasses import dataclass
from typing import Any, Literal

from service.translation.options import DecodingOptions, EarlyStopping
from tests.translation.toy import FIRST_TOKEN

ALL_FINISHED, HEURISTIC, NEVER = EarlyStopping
LIMIT = 24  # target tokens, where a setting says nothing else

# What the cards of the bundles force on every request.
RULES: dict[str, dict[str, Any]] = {
    "plain": {},
    "forced first": {"forced_bos": FIRST_TOKEN + 5},
    "forced last": {"forced_eos": 2},
    "suppressed": {"suppressed_tokens": (FIRST_TOKEN, FIRST_TOKEN + 9)},
    "suppressed, renormalised": {
        "suppressed_tokens": (FIRST_TOKEN, FIRST_TOKEN + 9),
        "renormalize": True,
    },
    "all": {
        "forced_bos": FIRST_TOKEN + 2,
        "forced_eos": 2,
        "suppressed_tokens": (FIRST_TOKEN + 7,),
        "renormalize": True,
    },
}


@dataclass(frozen=True)
class Setting:
    """Options, the rules of a card, and in what it differs from plain beam search."""

    name: str
    options: DecodingOptions
    rules: str = "plain"
    seen_in: Literal["best", "n-best"] = "best"  # whose ids differ from those of plain beam search
    limit: int | None = None  # of that plain beam search; None: this setting's own

    @property
    def plainly(self) -> DecodingOptions:
        """The plain beam search that it is to differ from."""
        return plain(self.limit or self.options.max_target_tokens)

    @property
    def is_plain(self) -> bool:
        """Whether it is plain beam search itself."""
        return self.rules == "plain" and self.options == self.plainly


def plain(max_target_tokens: int = LIMIT) -> DecodingOptions:
    """Beam search with 4 beams and nothing else."""
    return DecodingOptions(beam_size=4, max_target_tokens=max_target_tokens, return_scores=True)


def setting(
    name: str,
    beam_size: int = 4,
    rules: str = "plain",
    seen_in: Literal["best", "n-best"] = "best",
    limit: int | None = None,
    **options: Any,
) -> Setting:
    given = {"max_target_tokens": LIMIT, "return_scores": True, **options}
    return Setting(name, DecodingOptions(beam_size=beam_size, **given), rules, seen_in, limit)


def paired(beam_size: int, length_penalty: float, stopping: EarlyStopping) -> Setting:
    return setting(
        f"beam {beam_size}, penalty {length_penalty}, {stopping.value}",
        beam_size,
        length_penalty=length_penalty,
        early_stopping=stopping,
    )


SETTINGS = (
    setting("greedy", 1),
    setting("beam 2", 2),
    setting("beam 4"),
    *(setting(f"penalty {value}", length_penalty=value) for value in (0.0, 0.6, 2.0)),
    setting("all finished", early_stopping=ALL_FINISHED),
    paired(2, 0.0, ALL_FINISHED),
    paired(2, 0.6, NEVER),
    paired(2, 2.0, HEURISTIC),
    paired(2, -1.0, NEVER),
    paired(4, 2.0, NEVER),
    paired(5, 0.0, NEVER),
    paired(5, 1.0, ALL_FINISHED),
    paired(5, 2.0, ALL_FINISHED),
    paired(8, 0.0, HEURISTIC),
    paired(8, 0.6, ALL_FINISHED),
    paired(5, 2.0, HEURISTIC),
    paired(8, 2.0, HEURISTIC),
    paired(8, 2.0, NEVER),
    setting("4 best of 4", num_hypotheses=4, seen_in="n-best"),
    setting("2 best of 5", 5, num_hypotheses=2, length_penalty=2.0, early_stopping=ALL_FINISHED),
    setting("8 best of 8", 8, num_hypotheses=8, length_penalty=0.6, early_stopping=NEVER),
    setting("at least 8 tokens", min_target_tokens=8),
    setting("at least 6 tokens, greedy", 1, min_target_tokens=6),
    setting("at least 6 of 16 tokens", 5, min_target_tokens=6, max_target_tokens=16,
            length_penalty=0.0),
    setting("at most 6 tokens", limit=LIMIT, max_target_tokens=6),
    setting("at most 5 tokens, greedy", 1, limit=LIMIT, max_target_tokens=5),
    setting("repetition 1.3", repetition_penalty=1.3),
    setting("repetition 1.5, greedy", 1, repetition_penalty=1.5),
    setting("repetition 0.8, 3 best", 5, repetition_penalty=0.8, num_hypotheses=3),
    setting("no bigram twice", no_repeat_ngram_size=2, length_penalty=2.0),
    setting("no token twice, greedy", 1, no_repeat_ngram_size=1),
    setting("all processors", 5, repetition_penalty=1.2, no_repeat_ngram_size=3,
            min_target_tokens=6, early_stopping=ALL_FINISHED, num_hypotheses=2),
    setting("forced first", rules="forced first"),
    setting("forced first, greedy", 1, "forced first"),
    setting("forced last", rules="forced last", max_target_tokens=8),
    setting("forced last, greedy", 1, "forced last", max_target_tokens=8),
    setting("forced last, 5 best", 5, "forced last", "n-best", max_target_tokens=12,
            length_penalty=2.0, early_stopping=NEVER, num_hypotheses=5),
    setting("suppressed", rules="suppressed"),
    setting("suppressed, greedy", 1, "suppressed"),
    setting("suppressed, renormalised", rules="suppressed, renormalised"),
    setting("suppressed, renormalised, beam 8", 8, "suppressed, renormalised", length_penalty=0.6),
    setting("all rules", 5, "all", max_target_tokens=10, num_hypotheses=2),
    setting("all rules and processors", 4, "all", max_target_tokens=12, repetition_penalty=1.3,
            no_repeat_ngram_size=2, min_target_tokens=4, early_stopping=NEVER),
    setting("all rules, greedy", 1, "all", max_target_tokens=12),
)  # fmt: skip
