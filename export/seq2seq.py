"""The sequence-to-sequence Transformer of "Attention Is All You Need" (Vaswani et al. 2017).

With its defaults it computes the function of Hugging Face's MarianMTModel: post-norm layers,
sinusoids with the sines first, one embedding for source, target and output, scaled by
sqrt(d_model). Switches make it M2M100, BART and mBART: see `export.huggingface.families`.
Letters: B batch, S source length, T target length, V vocabulary.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.attention import causal_mask, padding_mask
from export.dropout import Dropout
from export.layers import DecoderLayer, EncoderLayer, LayerConfig

# What the padding token's logit is: it is never generated, and takes no probability. A number,
# not -inf, so that it survives float16 and no 0 * inf turns into a NaN.
PAD_LOGIT = -10_000.0


@dataclass(frozen=True, slots=True)
class Seq2SeqConfig:
    """Architecture of a Transformer; the padding token starts its decoder, as in Marian."""

    vocab_size: int
    d_model: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 4
    num_heads: int = 4
    ffn_size: int = 256
    dropout: float = 0.3
    activation: str = "relu"
    norm: Literal["post", "pre"] = "post"
    max_positions: int = 512
    pad_token_id: int = 0
    eos_token_id: int = 2
    # What follows is for checkpoints of others; `attendant-export train` has no options for it.
    positions: Literal["sinusoidal", "tensor2tensor", "learned"] = "sinusoidal"
    position_offset: int = 0  # the place in the table of a sequence's first token
    embedding_norm: bool = False
    scale_embedding: bool = True
    source_vocab_size: int | None = None  # None: the source is looked up in the target's table
    tied_output: bool = True  # logits are computed with the target's table
    encoder_heads: int | None = None  # None: as many as the decoder
    encoder_ffn_size: int | None = None

    @property
    def layer(self) -> LayerConfig:
        """The configuration that every layer of the decoder shares."""
        return LayerConfig(
            d_model=self.d_model,
            num_heads=self.num_heads,
            ffn_size=self.ffn_size,
            dropout=self.dropout,
            activation=self.activation,
            norm=self.norm,
        )

    @property
    def encoder_layer(self) -> LayerConfig:
        """The configuration that every layer of the encoder shares."""
        return replace(
            self.layer,
            num_heads=self.encoder_heads or self.num_heads,
            ffn_size=self.encoder_ffn_size or self.ffn_size,
        )


IMPORTED_SWITCHES = (
    "positions",
    "position_offset",
    "embedding_norm",
    "scale_embedding",
    "source_vocab_size",
    "tied_output",
    "encoder_heads",
    "encoder_ffn_size",
)


def sinusoidal_positions(num_positions: int, d_model: int) -> Tensor:
    """Positional encoding, section 3.5 of the paper, all sines in front of all cosines.

    Angle i of position p is p / 10000^(2i / d_model). Shape (num_positions, d_model), float32.
    """
    exponents = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] / 10_000.0**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def tensor2tensor_frequencies(d_model: int) -> Tensor:
    """What a position is multiplied by in M2M100, (d_model / 2,), rounded as transformers does."""
    half = d_model // 2
    step = math.log(10_000) / (half - 1)
    return torch.exp(torch.arange(half, dtype=torch.int64).float() * -step)


def tensor2tensor_positions(first: int, num_positions: int, d_model: int) -> Tensor:
    """The sinusoids of the tensor2tensor library from position `first` on, in float32.

    Angle i of position p is p / 10000^(i / (d_model / 2 - 1)). Shape (num_positions, d_model).
    """
    places = torch.arange(first, first + num_positions).float()
    angles = places[:, None] * tensor2tensor_frequencies(d_model)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def fixed_positions(config: Seq2SeqConfig) -> Tensor:
    """The table (max_positions, d_model) that is no weight; learned positions leave it empty."""
    match config.positions:
        case "sinusoidal":
            return sinusoidal_positions(config.max_positions, config.d_model)
        case "tensor2tensor":
            first, count = config.position_offset, config.max_positions
            return tensor2tensor_positions(first, count, config.d_model)
    return torch.empty(0, config.d_model)


class Transformer(nn.Module):
    """Encoder, decoder and the embeddings they use."""

    positions: Tensor

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        size = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        # None where the one table serves the source, and the logits, too.
        self.source_embedding = _table(config.source_vocab_size, size)
        self.output_embedding = _table(None if config.tied_output else config.vocab_size, size)
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(config.encoder_layer) for _ in range(config.encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(config.layer) for _ in range(config.decoder_layers)
        )
        final_norm = config.norm == "pre"  # a pre-norm stack leaves its last states unnormalised
        self.encoder_norm = _norm(final_norm, size)
        self.decoder_norm = _norm(final_norm, size)
        self.encoder_embedding_norm = _norm(config.embedding_norm, size)
        self.decoder_embedding_norm = _norm(config.embedding_norm, size)
        self.dropout = Dropout(config.dropout)
        rows = config.max_positions + config.position_offset
        learned = rows if config.positions == "learned" else None
        self.encoder_positions = _table(learned, size)
        self.decoder_positions = _table(learned, size)
        self.register_buffer("positions", fixed_positions(config), persistent=False)
        bias = torch.zeros(config.vocab_size)
        bias[config.pad_token_id] = PAD_LOGIT
        self.final_logits_bias = nn.Parameter(bias)
        self._initialise()

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Source ids and their mask (B, S) -> encoder states (B, S, d_model)."""
        mask = padding_mask(attention_mask)
        states = self.encoder_embedding_norm(
            self._embed(input_ids, self.source_embedding, self.encoder_positions)
        )
        for layer in self.encoder_layers:
            states = layer(states, mask)
        output: Tensor = self.encoder_norm(states)
        return output

    def decode(self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor) -> Tensor:
        """Target ids so far (B, T) and encoder states (B, S, d_model) -> logits (B, T, V)."""
        return self._logits(self._decoder_states(decoder_input_ids, memory, attention_mask))

    @torch.no_grad()
    def greedy(self, input_ids: Tensor, *, start: int, limit: int) -> list[int]:
        """The target of one source (1, S), at most `limit` tokens, the end token with them.

        Without caches: each step computes all states again, but the logits of the last alone.
        """
        mask = torch.ones_like(input_ids)
        memory = self.encode(input_ids, mask)
        ids = [start]
        # Some decoders begin with the end token: it ends what follows it alone.
        while len(ids) <= limit and self.config.eos_token_id not in ids[1:]:
            states = self._decoder_states(torch.tensor([ids]), memory, mask)
            ids.append(int(self._logits(states[0, -1]).argmax()))
        return ids[1:]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> Tensor:
        """Teacher forcing: logits (B, T, V) of the token after each of decoder_input_ids (B, T)."""
        memory = self.encode(input_ids, attention_mask)
        return self.decode(decoder_input_ids, memory, attention_mask)

    def start_from_frequencies(self, counts: Tensor) -> None:
        """Let the untrained model predict each token as often as it occurs; counts (V,).

        The bias then holds what is known without any source. Tied embeddings would otherwise all
        drift one way to say it, and learn late what tells them apart (measured: a validation loss
        of 4.22 instead of 4.40 after 240 steps).
        """
        frequencies = (counts.float() + 1) / (counts.float() + 1).sum()
        with torch.no_grad():
            self.final_logits_bias.copy_(frequencies.log())
            self.final_logits_bias[self.config.pad_token_id] = PAD_LOGIT

    def _decoder_states(
        self, decoder_input_ids: Tensor, memory: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """(B, T) -> (B, T, d_model)."""
        self_mask = causal_mask(decoder_input_ids.shape[1], decoder_input_ids.device)
        memory_mask = padding_mask(attention_mask)
        states = self.decoder_embedding_norm(
            self._embed(decoder_input_ids, None, self.decoder_positions, decoding=True)
        )
        for layer in self.decoder_layers:
            states = layer(states, memory, self_mask, memory_mask)
        output: Tensor = self.decoder_norm(states)
        return output

    def _logits(self, states: Tensor) -> Tensor:
        """(..., d_model) -> (..., V)."""
        table = self.output_embedding or self.embedding
        return functional.linear(states, table.weight, self.final_logits_bias)

    def _embed(
        self,
        ids: Tensor,
        table: nn.Embedding | None,
        learned: nn.Embedding | None,
        decoding: bool = False,
    ) -> Tensor:
        # Section 3.4: embeddings are multiplied by sqrt(d_model).  (B, T) -> (B, T, d_model)
        scale = math.sqrt(self.config.d_model) if self.config.scale_embedding else 1.0
        scaled = (table or self.embedding)(ids) * scale
        output: Tensor = self.dropout(scaled + self._positions_of(ids, learned, decoding))
        return output

    def _positions_of(self, ids: Tensor, learned: nn.Embedding | None, decoding: bool) -> Tensor:
        # (B, T) -> (T, d_model), or (B, T, d_model) where padding has no position
        if learned is not None:
            return learned.weight[self.config.position_offset :][: ids.shape[1]]
        if self.config.positions == "tensor2tensor":
            real = ids != self.config.pad_token_id
            # What a step of `generate` caches counts, padding or not.
            counted = torch.ones_like(real) if decoding else real
            places = (counted.cumsum(dim=1) - 1).clamp(min=0)
            return self.positions[places] * real[..., None]
        return self.positions[: ids.shape[1]]

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.config.d_model**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embedding.weight[self.config.pad_token_id].zero_()


def _table(rows: int | None, size: int) -> nn.Embedding | None:
    return None if rows is None else nn.Embedding(rows, size)


def _norm(present: bool, size: int) -> nn.Module:
    return nn.LayerNorm(size) if present else nn.Identity()


def shift_right(target_ids: Tensor, start_token_id: int) -> Tensor:
    """Decoder inputs of teacher forcing, (B, T) -> (B, T): start token first, last one dropped."""
    start = torch.full_like(target_ids[:, :1], start_token_id)
    return torch.cat([start, target_ids[:, :-1]], dim=1)
