"""An exported bundle beside the checkpoint in transformers: logits, and greedy token ids.

The sentences are translated by transformers with one beam and the rules of the bundle's card; the
logits are those of every step of these translations.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from export.huggingface.checkpoint import Checkpoint
from export.huggingface.errors import CheckpointError
from export.quantization import Floats
from export.verify.stepping import Graphs, open_checked, pad
from export.verify.translation import Decoded, decode_by_graphs, encode_sources
from service.bundle import Bundle
from service.translation.options import DecodingOptions
from service.translation.processors import TokenRules, process

SENTENCES = (
    "Two children are playing in the snow.",
    "Where can I buy a ticket?",
    "An old man with a grey beard reads a newspaper on a bench in the park.",
    "Rain!",
)
MAX_TARGET_TOKENS = 12  # of a vocabulary of 256 000 a step's logits are a megabyte
# Of logits in float32, beside their size; two orders of magnitude above what rounding does.
RELATIVE_ERROR = 1e-3


@dataclass(frozen=True, slots=True)
class Parity:
    """One precision beside the checkpoint."""

    logits_error: float  # the largest difference
    largest_logit: float  # of all that can be generated
    greedy_alike: int  # sentences with the same ids
    sentences: int

    @property
    def alike(self) -> tuple[int, int]:
        """How many sentences, of how many."""
        return self.greedy_alike, self.sentences


@dataclass(frozen=True, slots=True)
class Reference:
    """What transformers answers, by sentence."""

    sources: list[list[int]]
    targets: list[Decoded]


def ask_transformers(checkpoint: Checkpoint, architecture: str, bundle: Bundle) -> Reference:
    """Translate the sentences by the checkpoint itself."""
    import transformers

    kind: Any = getattr(transformers, architecture)
    model = kind.from_pretrained(
        str(checkpoint.folder), local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=True
    ).eval()
    rules = TokenRules.from_card(bundle.translation)
    model.generation_config = _greedy(rules, _limit(bundle))
    sources = encode_sources(bundle, SENTENCES)
    targets = [_translate(model, source) for source in sources]
    return Reference(sources, targets)


def compare(bundle: Bundle, precision: str, reference: Reference) -> Parity:
    """A precision's logits and greedy ids. Raises CheckpointError for fp32 logits that are off."""
    found = _teacher_forced(bundle, precision, reference)
    error, largest = 0.0, 0.0
    for ours, theirs in zip(found, reference.targets, strict=True):
        possible = np.isfinite(theirs.logits) & (np.abs(theirs.logits) < 1e4)
        error = max(error, float(np.abs(ours.logits - theirs.logits)[possible].max()))
        largest = max(largest, float(np.abs(theirs.logits)[possible].max()))
    if precision == "fp32" and not error <= RELATIVE_ERROR * max(1.0, largest):
        raise CheckpointError(
            f"logits of up to {largest:.3g} differ from the checkpoint's by {error:.3g}"
        )
    rules = TokenRules.from_card(bundle.translation)
    alike = [
        _choices(ours.logits, [rules.decoder_start, *theirs.ids], rules, _limit(bundle))
        == theirs.ids
        for ours, theirs in zip(found, reference.targets, strict=True)
    ]
    return Parity(error, largest, sum(alike), len(alike))


def _teacher_forced(bundle: Bundle, precision: str, reference: Reference) -> list[Decoded]:
    """Our logits. One session is open at a time: each has a copy of its weights."""
    encoder = open_checked(bundle, precision, "encoder", mapped=True)
    input_ids, attention_mask = pad(reference.sources)
    caches: list[Floats] = encoder.run(
        None, {"input_ids": input_ids, "attention_mask": attention_mask}
    )
    del encoder
    gc.collect()
    card = bundle.translation
    decoder = open_checked(bundle, precision, "decoder", mapped=True)
    graphs = Graphs(card, None, decoder, card.cache_type(precision))
    return decode_by_graphs(
        graphs, reference.sources, _limit(bundle), reference.targets, caches=caches
    )


def _choices(logits: Floats, history: Sequence[int], rules: TokenRules, limit: int) -> list[int]:
    """What greedy search takes behind each prefix of a history, which the start token begins."""
    options = DecodingOptions(max_target_tokens=limit)
    chosen = []
    for step, scores in enumerate(logits.copy()):
        process(scores, np.array(history[: step + 1], np.int64), options, rules)
        scores[list(rules.suppressed)] = -np.inf
        chosen.append(int(scores.argmax()))
    return chosen


def _limit(bundle: Bundle) -> int:
    return min(MAX_TARGET_TOKENS, bundle.translation.limits.max_target_tokens)


def _translate(model: Any, source: Sequence[int]) -> Decoded:
    input_ids = torch.tensor([source])
    with torch.no_grad():
        history = model.generate(input_ids, attention_mask=torch.ones_like(input_ids))  # (1, 1 + T)
        logits: Floats = model(input_ids, decoder_input_ids=history[:, :-1]).logits[0].numpy()
    return Decoded(history[0, 1:].tolist(), logits)


def _greedy(rules: TokenRules, limit: int) -> Any:
    import transformers

    kind: Any = transformers.GenerationConfig
    return kind(
        num_beams=1,
        do_sample=False,
        max_length=limit + 1,  # the start token counts
        decoder_start_token_id=rules.decoder_start,
        forced_bos_token_id=rules.forced_bos,
        forced_eos_token_id=rules.forced_eos,
        eos_token_id=rules.eos,
        pad_token_id=rules.eos,
        suppress_tokens=list(rules.suppressed) or None,
        renormalize_logits=rules.renormalize,
    )
