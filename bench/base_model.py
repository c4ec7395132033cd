"""A bundle of Transformer-base size with random weights, for timing alone.

    python -m bench.base_model FOLDER SENTENCES

6 + 6 layers, d 512, 8 heads, feed-forward 2048, 32 000 tokens (Vaswani et al. 2017, table 3). Its
sources are tokens of the default model's tokenizer, so that they have natural lengths; its targets
may be any of the 32 000, for which the tokenizer has made-up words.
"""

import random
import struct
import sys
from pathlib import Path

import torch

from export.bundling import TranslationDescription, export_translation, load_tokenizer
from export.seq2seq import Seq2SeqConfig, Transformer
from service.bundle import Decoding, Provenance

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "models" / "captions-en-de" / "1" / "source.spm"
CONFIG = Seq2SeqConfig(
    vocab_size=32_000,
    d_model=512,
    encoder_layers=6,
    decoder_layers=6,
    num_heads=8,
    ffn_size=2048,
)
NUM_CALIBRATION_PAIRS = 64
TARGET_TOKENS = 24
SEED = 1
FAINT = ("out_proj.weight", "fc2.weight")
LAST_NORM = f"decoder_layers.{CONFIG.decoder_layers - 1}.feed_forward_residual.layer_norm.weight"
SHARP = ("q_proj.weight", "k_proj.weight")
LOWEST_SCORE = -1e9  # of a made-up word: no text is cut into these


def main() -> None:
    """Build it."""
    output, sentences = map(Path, sys.argv[1:])
    build(output, sentences.read_text(encoding="utf-8").splitlines())


def build(output: Path, sentences: list[str]) -> None:
    """Write the bundle; the sentences calibrate its int8 graphs."""
    output.parent.mkdir(parents=True, exist_ok=True)
    target_tokenizer = output.parent / "target.spm"
    widen_tokenizer(TOKENIZER, target_tokenizer, CONFIG.vocab_size)
    words = load_tokenizer(target_tokenizer)
    rng = random.Random(SEED)
    pairs = [
        (sentence, words.decode([rng.randrange(3, len(words)) for _ in range(TARGET_TOKENS)]))
        for sentence in sentences[:NUM_CALIBRATION_PAIRS]
    ]
    export_translation(
        random_transformer(),
        TOKENIZER,
        output,
        description=TranslationDescription(
            name=output.parent.name,
            language_pairs=[("en", "de")],
            provenance=Provenance(
                data="none", licence="Apache-2.0", recipe=f"random weights, seed {SEED}"
            ),
            decoding=Decoding(max_target_tokens=TARGET_TOKENS, beam_size=1),
            max_source_tokens=128,
        ),
        calibration_pairs=pairs,
        target_tokenizer=target_tokenizer,
    )


def random_transformer() -> Transformer:
    """Random weights that say many different things.

    With its usual initialisation an untrained model repeats one token: that of its own input, which
    tied embeddings make the likeliest, or that of an average which all attention is. The signs of
    the last norm undo the first; sharp attention and faint sublayers, through which a token remains
    visible, the second. Beams then part and die as those of a trained model.
    """
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    model = Transformer(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(FAINT):
                parameter.mul_(0.3)
            elif name.endswith(SHARP):
                parameter.mul_(3.0)
        scale = model.get_parameter(LAST_NORM)
        scale.copy_(torch.randint(2, scale.shape, generator=generator) * 2 - 1)
    return model


def widen_tokenizer(source: Path, output: Path, num_pieces: int) -> None:
    """Add made-up words to a SentencePiece model until it has so many pieces.

    Pieces are a repeated field, so those of a second message go behind those of the first:
    message ModelProto { message SentencePiece { string piece = 1; float score = 2; }
    repeated SentencePiece pieces = 1; ...}
    """
    first = len(load_tokenizer(source))
    words = (f"▁{word(index)}".encode() for index in range(first, num_pieces))
    pieces = (_field(1, text) + b"\x15" + struct.pack("<f", LOWEST_SCORE) for text in words)
    output.write_bytes(source.read_bytes() + b"".join(_field(1, piece) for piece in pieces))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message; short ones alone are needed."""
    if len(content) > 127:
        raise ValueError(f"expected at most 127 bytes, found {len(content)}")
    return bytes([number << 3 | 2, len(content)]) + content


def word(index: int) -> str:
    """A made-up word for a number, each its own."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    text = "q"  # no German word begins like this
    while index:
        index, rest = divmod(index, len(syllables))
        text += syllables[rest]
    return text


if __name__ == "__main__":
    main()
