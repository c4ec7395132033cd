"""Checks of a translation bundle: caches, logits, ids, text, and that rows do not disturb others.

The target side is what the PyTorch model itself translates, so that end tokens fall where they do
in use. Sentences join the batch a few at a time, so rows stand at different positions.
Letters: B batch, T target length, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from export.layers import DecoderLayer
from export.quantization import Floats
from export.seq2seq import Transformer
from export.verify.report import Bounds, Check, compare_int8
from export.verify.stepping import Graphs, Rows
from export.weights import load_bundle_model
from service.bundle import Bundle, TranslationCard
from service.translation.tokenizer import Tokenizer

MAX_TARGET_TOKENS = 48
JOIN_TOGETHER = 3  # sentences that join at one step
SENTENCES = (
    "Yes.",
    "A dog runs.",
    "Two children are playing in the snow.",
    "The train to the airport leaves at 7:45 from platform 12.",
    "An old man with a grey beard reads a newspaper on a bench in the park.",
    "Where can I buy a ticket?",
    "She opened the window because it was too warm in the room, and a bird flew in.",
    "Three women in red coats stand in front of a shop and look at the shoes in its window while a "
    "boy on a bicycle waits for them at the corner of the street.",
    "Thank you very much for your letter of 3 March.",
    "Rain!",
    "A young woman is climbing a steep rock wall above the sea.",
    "Several people sit around a table with bread, cheese, fruit and wine, and talk about music.",
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one sentence became: ids, the end token counted, and the logits (T, V) at every step."""

    ids: list[int]
    logits: Floats


def check_translation(
    bundle: Bundle, sentences: Sequence[str] | None, bounds: Bounds
) -> Iterator[Check]:
    """Check every precision of a bundle against its PyTorch model."""
    model = load_bundle_model(bundle.folder, Transformer)
    card = bundle.translation
    start = card.tokens.decoder_start_into(card.first_direction.target)
    sources = encode_sources(bundle, sentences or SENTENCES)
    reference = [decode_by_pytorch(model, source, max_tokens(card), start) for source in sources]
    for precision in bundle.precisions:
        comparison = _Comparison(bundle, precision, model, sources, reference)
        yield from comparison.checks(bounds)


def encode_sources(bundle: Bundle, texts: Sequence[str]) -> list[list[int]]:
    """Source ids of texts in the first direction, cut to what the model takes."""
    card = bundle.translation
    front, back = card.tokens.frame(card.first_direction)
    room = card.limits.max_source_tokens - len(front) - len(back)
    encoded = Tokenizer.from_bundle(bundle).encode(texts)
    words = (ids[len(front) : len(ids) - len(back)] for ids in encoded)
    return [[*front, *ids[:room], *back] for ids in words]


def max_tokens(card: TranslationCard) -> int:
    """How long a checked translation may get."""
    return min(MAX_TARGET_TOKENS, card.limits.max_target_tokens)


def decode_by_pytorch(
    model: Transformer, source: Sequence[int], limit: int, start: int | None = None
) -> Decoded:
    """Greedy search without any cache: every step computes the whole prefix again.

    It begins with `start`, or else with padding as our own models do.
    """
    input_ids = torch.tensor([source])
    mask = torch.ones_like(input_ids)
    ids = [model.config.pad_token_id if start is None else start]
    with torch.no_grad():
        memory = model.encode(input_ids, mask)
        logits = torch.empty(0)
        # Some decoders begin with the end token: it ends what follows it alone.
        while len(ids) <= limit and model.config.eos_token_id not in ids[1:]:
            logits = model.decode(torch.tensor([ids]), memory, mask)[0]  # (T, V)
            ids.append(int(logits[-1].argmax()))
    return Decoded(ids[1:], logits.numpy())


def decode_by_graphs(
    graphs: Graphs,
    sources: Sequence[Sequence[int]],
    limit: int,
    forced: Sequence[Decoded] | None = None,
    *,
    caches: Sequence[Floats] | None = None,
) -> list[Decoded]:
    """Translate sentences that join `JOIN_TOGETHER` at a time; with `forced`, by teacher forcing.

    Rows that are done stay in the batch and repeat their last token: neighbours that must not
    matter. `caches` are what the encoder made of the sources, if it has been asked already.
    """
    count = len(sources)
    num_steps = limit + (count - 1) // JOIN_TOGETHER
    rows = Rows(graphs, rows=count, source=max(map(len, sources)), target=num_steps)
    caches = graphs.encode(sources) if caches is None else caches
    tokens = graphs.card.tokens
    start = tokens.decoder_start_into(graphs.card.first_direction.target)
    sequences = [
        _Sequence(start, tokens.eos, limit, forced[row].ids if forced else None)
        for row in range(count)
    ]
    running = 0
    for _ in range(num_steps):
        joined = min(count, running + JOIN_TOGETHER)
        for row in range(running, joined):
            rows.admit(row, caches, row, len(sources[row]))
        running = joined
        logits = rows.step([sequence.last for sequence in sequences[:running]])
        for sequence, values in zip(sequences, logits, strict=False):
            sequence.take(values)
    return [sequence.decoded for sequence in sequences]


class _Sequence:
    """One sentence while it is translated."""

    def __init__(self, start: int, eos: int, limit: int, forced: Sequence[int] | None) -> None:
        self._ids = [start]
        self._eos = eos
        self._limit = limit if forced is None else len(forced)
        self._forced = forced
        self._logits: list[Floats] = []

    @property
    def last(self) -> int:
        return self._ids[-1]

    @property
    def decoded(self) -> Decoded:
        return Decoded(self._ids[1:], np.stack(self._logits))

    def take(self, logits: Floats) -> None:
        step = len(self._logits)
        ended = step > 0 and self.last == self._eos  # some decoders begin with the end token
        if step == self._limit or (self._forced is None and ended):
            return
        self._ids.append(int(logits.argmax()) if self._forced is None else self._forced[step])
        self._logits.append(logits)


class _Comparison:
    """One precision of a bundle beside the PyTorch model."""

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        model: Transformer,
        sources: Sequence[Sequence[int]],
        reference: Sequence[Decoded],
    ) -> None:
        card = bundle.translation
        self._bundle = bundle
        self._precision = precision
        self._model = model
        self._sources = sources
        self._reference = reference
        self._limit = max_tokens(card)
        self._graphs = Graphs.open(bundle, precision)
        self._forced = decode_by_graphs(self._graphs, sources, self._limit, reference)

    def checks(self, bounds: Bounds) -> Iterator[Check]:
        """Exactness for fp32, closeness for int8, isolation for both."""
        if self._precision == "fp32":
            yield from self._exactness(bounds)
        else:
            expected, found = self._logits(self._reference), self._logits(self._forced)
            yield from compare_int8(self._precision, expected, found, bounds)
        yield Check.all_of(
            self._precision, "encoder bits, alone = batch", self._encoder_isolation()
        )
        yield Check.all_of(
            self._precision, "decoder bits, alone = batch", self._decoder_isolation()
        )

    def _exactness(self, bounds: Bounds) -> Iterator[Check]:
        greedy = decode_by_graphs(self._graphs, self._sources, self._limit)
        expected = [decoded.ids for decoded in self._reference]
        found = [decoded.ids for decoded in greedy]
        tokenizer = Tokenizer.from_bundle(self._bundle)
        same_ids = [a == b for a, b in zip(expected, found, strict=True)]
        texts = zip(map(tokenizer.decode, expected), map(tokenizer.decode, found), strict=True)
        differences = self._logits(self._forced) - self._logits(self._reference)
        caches, logits = self._cache_error(), float(np.abs(differences).max())
        yield Check.at_most("fp32", "encoder caches", caches, bounds.fp32_error)
        yield Check.at_most("fp32", "logits, teacher forcing", logits, bounds.fp32_error)
        yield Check.all_of("fp32", "greedy ids", same_ids)
        yield Check.all_of("fp32", "greedy text", [a == b for a, b in texts])

    def _logits(self, decoded: Sequence[Decoded]) -> Floats:
        """Of all steps of all sentences, for the tokens that can be generated."""
        return np.concatenate([each.logits for each in decoded])[:, self._words]

    @property
    def _words(self) -> NDArray[np.bool_]:
        """Columns that can be generated: beside a bias of -10 000 float32 keeps three decimals."""
        possible: NDArray[np.bool_] = (self._model.final_logits_bias.detach() > -1000).numpy()
        return possible

    def _cache_error(self) -> float:
        """The largest difference of any key or value of cross-attention."""
        batch = self._graphs.encode(self._sources)
        worst = 0.0
        for row, source in enumerate(self._sources):
            input_ids = torch.tensor([source])
            with torch.no_grad():
                expected = self._expected_caches(input_ids)  # (1, S, d_model) each
            for cache, values in zip(batch, expected, strict=True):
                found = cache[row, :, : len(source)].swapaxes(0, 1)  # (H, S, D) -> (S, H, D)
                difference = found.reshape(len(source), -1) - values[0].numpy()
                worst = max(worst, float(np.abs(difference).max()))
        return worst

    def _expected_caches(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        memory = self._model.encode(input_ids, torch.ones_like(input_ids))
        return [
            projection(memory)
            for layer in cast(Iterable[DecoderLayer], self._model.decoder_layers)
            for projection in (layer.cross_attn.k_proj, layer.cross_attn.v_proj)
        ]

    def _encoder_isolation(self) -> list[bool]:
        """Whether a sentence's caches have the same bits without neighbours and without padding."""
        batch = self._graphs.encode(self._sources)
        longest = max(map(len, self._sources)) + 5
        positions = self._graphs.card.architecture.max_positions
        longer = self._graphs.encode(self._sources, min(longest, positions))
        outcomes = []
        for row, source in enumerate(self._sources):
            alone = self._graphs.encode([source])
            outcomes.append(
                all(
                    np.array_equal(a[0], b[row, :, : len(source)])
                    and np.array_equal(a[0], c[row, :, : len(source)])
                    for a, b, c in zip(alone, batch, longer, strict=True)
                )
            )
        return outcomes

    def _decoder_isolation(self) -> list[bool]:
        """Whether a sentence's logits have the same bits when it is translated alone."""
        outcomes = []
        for source, forced, together in zip(
            self._sources, self._reference, self._forced, strict=True
        ):
            alone = decode_by_graphs(self._graphs, [source], self._limit, [forced])[0]
            outcomes.append(np.array_equal(alone.logits, together.logits))
        return outcomes
