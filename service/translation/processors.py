"""Rules beside the model that change the scores of the next token, in Hugging Face's order.

They see raw logits in greedy search and log-probabilities in beam search, as there. The formulas
are those of its RepetitionPenalty-, NoRepeatNGram-, MinNewTokensLength-, ForcedBOSToken- and
ForcedEOSTokenLogitsProcessor. Letter: V vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.translation.options import DecodingOptions

if TYPE_CHECKING:
    from service.bundle import Language, TranslationCard


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a model forces on every request."""

    eos: int
    decoder_start: int
    forced_bos: int | None = None
    forced_eos: int | None = None
    suppressed: tuple[int, ...] = ()
    renormalize: bool = False  # a second log-softmax behind all rules, beams only

    @classmethod
    def from_card(cls, card: "TranslationCard", target: "Language | None" = None) -> "TokenRules":
        """The rules that a bundle holds; without a target, for that of its first direction."""
        target = target or card.first_direction.target
        return cls(
            eos=card.tokens.eos,
            decoder_start=card.tokens.decoder_start_into(target),
            forced_bos=card.tokens.forced_bos_into(target),
            forced_eos=card.decoding.forced_eos,
            suppressed=card.decoding.suppressed_tokens,
            renormalize=card.decoding.renormalize,
        )


def needs_processing(options: DecodingOptions, rules: TokenRules, length: int) -> bool:
    """Whether token number `length` (from 1) is chosen from scores that `process` has to change.

    Not for a minimum length alone, nor for suppressed tokens: a search leaves those tokens out.
    """
    return (
        options.changes_scores
        or (rules.forced_bos is not None and length == 1)
        or (rules.forced_eos is not None and length == options.max_target_tokens)
    )


def process(
    scores: NDArray[np.float32],
    history: NDArray[np.int64],
    options: DecodingOptions,
    rules: TokenRules,
) -> None:
    """Change scores (V,) in place; history (length,) is the start token and the target so far."""
    length = len(history)  # of the target, with the token that is being chosen
    if options.repetition_penalty != 1.0:
        seen = np.unique(history)
        penalty = np.float32(options.repetition_penalty)
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    if options.no_repeat_ngram_size:
        scores[_ngram_ends(history, options.no_repeat_ngram_size)] = -np.inf
    if length <= options.min_target_tokens:
        scores[rules.eos] = -np.inf
    if rules.forced_bos is not None and length == 1:
        _force(scores, rules.forced_bos)
    if rules.forced_eos is not None and length == options.max_target_tokens:
        _force(scores, rules.forced_eos)


def _ngram_ends(history: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The tokens that would end an n-gram of this size which the history already has."""
    if len(history) < size:
        return np.empty(0, np.int64)
    ngrams = np.lib.stride_tricks.sliding_window_view(history, size)  # (length - size + 1, size)
    prefix = history[len(history) - size + 1 :]  # (size - 1,)
    ends: NDArray[np.int64] = ngrams[(ngrams[:, :-1] == prefix).all(axis=1), -1]
    return ends


def _force(scores: NDArray[np.float32], token_id: int) -> None:
    scores[:] = -np.inf
    scores[token_id] = 0.0
