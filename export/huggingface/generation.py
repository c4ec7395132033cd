"""What a checkpoint's generation defaults say, in the words of a bundle's card.

The lengths of transformers count the start token, ours do not. Whatever would change an answer and
has no counterpart here is refused by name and value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.huggingface.checkpoint import GENERATION, Checkpoint
from export.huggingface.errors import CheckpointError
from service.bundle import Decoding

DEFAULT_MAX_LENGTH = 20  # new tokens that `generate` makes where no length is given
EARLY_STOPPING = {True: "all_finished", False: "heuristic", "never": "never"}

# Options that change answers and are not served, with the values that mean they are off.
UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "do_sample": lambda value: not value,
    "num_beam_groups": lambda value: value == 1,
    "diversity_penalty": lambda value: value == 0,
    "penalty_alpha": lambda value: value == 0,
    "encoder_no_repeat_ngram_size": lambda value: value == 0,
    "encoder_repetition_penalty": lambda value: value == 1,
    "exponential_decay_length_penalty": lambda value: not value,
    "begin_suppress_tokens": lambda value: not value,
    "forced_decoder_ids": lambda value: not value,
    "force_words_ids": lambda value: not value,
    "constraints": lambda value: not value,
    "sequence_bias": lambda value: not value,
    "stop_strings": lambda value: not value,
    "guidance_scale": lambda value: value == 1,
    "watermarking_config": lambda value: not value,
    "token_healing": lambda value: not value,
    "dola_layers": lambda value: not value,
    "remove_invalid_values": lambda value: not value,
    "max_time": lambda value: False,
}


@dataclass(frozen=True, slots=True)
class Generation:
    """The defaults of a checkpoint, and the ids that frame what is generated."""

    decoding: Decoding
    pad: int
    eos: int
    decoder_start: int | None
    forced_bos: int | None


def read_generation(checkpoint: Checkpoint, *, max_positions: int) -> Generation:
    """Translate the generation defaults. Raises CheckpointError for those that are not served."""
    generation = checkpoint.generation
    _refuse_unsupported(generation)
    eos = _one_token(generation, "eos_token_id")
    pad = _one_token(generation, "pad_token_id")
    if eos is None:
        raise CheckpointError("expected an eos_token_id, found none")
    start = _one_token(generation, "decoder_start_token_id")
    decoding = Decoding(
        beam_size=generation.num_beams or 1,
        num_hypotheses=generation.num_return_sequences or 1,
        length_penalty=float(_or(generation.length_penalty, 1.0)),
        early_stopping=_early_stopping(generation.early_stopping),
        max_target_tokens=_max_target_tokens(generation, max_positions),
        min_target_tokens=_min_target_tokens(generation),
        repetition_penalty=float(_or(generation.repetition_penalty, 1.0)),
        no_repeat_ngram_size=generation.no_repeat_ngram_size or 0,
        forced_eos=_one_token(generation, "forced_eos_token_id"),
        suppressed_tokens=_suppressed(generation, eos),
        renormalize=bool(generation.renormalize_logits),
    )
    if decoding.num_hypotheses > decoding.beam_size:
        raise CheckpointError(
            f"expected num_return_sequences of at most num_beams {decoding.beam_size}, "
            f"found {decoding.num_hypotheses}"
        )
    return Generation(
        decoding=decoding,
        pad=eos if pad is None else pad,
        eos=eos,
        decoder_start=_one_token(generation, "bos_token_id") if start is None else start,
        forced_bos=_one_token(generation, "forced_bos_token_id"),
    )


def has_default_length(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint names no length, so that `generate` stops after a few tokens."""
    generation = checkpoint.generation
    return generation.max_length is None and generation.max_new_tokens is None


def _refuse_unsupported(generation: Any) -> None:
    found = [
        f"{name} {value!r}"
        for name, is_off in UNSUPPORTED.items()
        if (value := getattr(generation, name, None)) is not None and not is_off(value)
    ]
    if found:
        raise CheckpointError(
            f"{', '.join(found)}: not supported by Attendant; remove it from {GENERATION} (or "
            f"config.json, where there is none) to export a model that decodes without it"
        )


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _early_stopping(value: Any) -> Any:
    value = False if value is None else value
    if value not in EARLY_STOPPING:
        raise CheckpointError(f"expected early_stopping true, false or never, found {value!r}")
    return EARLY_STOPPING[value]


def _max_target_tokens(generation: Any, max_positions: int) -> int:
    if generation.max_new_tokens is not None:
        longest = generation.max_new_tokens
    elif generation.max_length is not None:
        longest = generation.max_length - 1
    else:  # the start token is added to the default, and the sum is held to the positions
        longest = min(DEFAULT_MAX_LENGTH + 1, max_positions) - 1
    if not 1 <= longest <= max_positions:
        raise CheckpointError(
            f"expected a max_length of 2 to {max_positions + 1}, which counts the start token, "
            f"found {longest + 1}"
        )
    return int(longest)


def _min_target_tokens(generation: Any) -> int:
    if generation.min_new_tokens is not None:
        return int(generation.min_new_tokens)
    return max(0, (generation.min_length or 0) - 1)


def _one_token(generation: Any, name: str) -> int | None:
    value = getattr(generation, name, None)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is not None and not isinstance(value, int):
        raise CheckpointError(f"{name} {value!r}: expected one token")
    return value


def _suppressed(generation: Any, eos: int) -> tuple[int, ...]:
    """suppress_tokens, and bad_words_ids of a token each; transformers never forbids the end so."""
    tokens = list(generation.suppress_tokens or [])
    for words in generation.bad_words_ids or []:
        if len(words) != 1:
            raise CheckpointError(
                f"bad_words_ids with {words!r}: words of several tokens are not supported by "
                "Attendant, only single tokens"
            )
        if words != [eos]:
            tokens += words
    return tuple(dict.fromkeys(tokens))
