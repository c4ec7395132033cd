"""From a checkpoint's tensors to our state: every tensor has a place, and every place a tensor.

Letters: V vocabulary.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from export.huggingface.misfits import refuse_misfits, shape_misfit
from export.huggingface.names import (
    BIAS,
    EMBEDDINGS,
    OUTPUT,
    SHARED,
    SOURCE,
    TARGET,
    checkpoint_name,
)
from export.huggingface.tensors import Tensors
from export.quantization import Floats
from export.seq2seq import Seq2SeqConfig, Transformer, fixed_positions

BASE = "model."  # in front of all names but the head's; a headless model's tensors lack it
POSITIONS = tuple(f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder"))
# Kept by old versions, read by none.
IGNORED = (
    "model.encoder.version",
    "model.decoder.version",
    "model.encoder.embed_positions._float_tensor",
    "model.decoder.embed_positions._float_tensor",
    "model.encoder.embed_positions.weights",
    "model.decoder.embed_positions.weights",
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The checkpoint's names of the three embeddings; the same name twice is one table."""

    source: str
    target: str
    output: str


class Weights(Mapping[str, Floats]):
    """Our state of a checkpoint, float32, read when it is asked for."""

    def __init__(self, tensors: Tensors, places: Mapping[str, str], vocab_size: int) -> None:
        self._tensors = tensors
        self._places = places  # ours -> theirs
        self._vocab_size = vocab_size

    def tensor(self, name: str) -> Tensor:
        """A tensor under our name, of its own type."""
        if name == BIAS:
            if self._places[name] not in self._tensors:
                return torch.zeros(self._vocab_size)
            return self._tensors[self._places[name]].reshape(-1)  # (1, V) -> (V,)
        return self._tensors[self._places[name]]

    def __getitem__(self, name: str) -> Floats:
        array: Floats = self.tensor(name).to(torch.float32).numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fit_float16(self) -> bool:
        """Whether float16 loses nothing, because the checkpoint has nothing else."""
        return self._tensors.dtypes() == {torch.float16}


def match_weights(
    tensors: Tensors, config: Seq2SeqConfig, *, share_sides: bool, tie_output: bool
) -> tuple[Seq2SeqConfig, Weights]:
    """Find a tensor for every weight of the model; the configuration back says which tables differ.

    Raises CheckpointError that lists what is missing, what is left over, what has another shape.
    """
    prefix = "" if _has_base(tensors) else BASE  # what the checkpoint's names lack
    names = {_with_base(name, prefix): name for name in tensors}
    tables = _tables(tensors, names, share_sides=share_sides, tie_output=tie_output)
    config = replace(
        config,
        source_vocab_size=None if tables.source == tables.target else config.source_vocab_size,
        tied_output=tables.output == tables.target,
    )
    shapes = _shapes(config)
    wanted = {ours: _their_name(ours, tables) for ours in shapes}
    used = {*wanted.values(), *_redundant(tensors, names, tables, config), *IGNORED}
    refuse_misfits(
        missing=[name for name in wanted.values() if name not in names and name != BIAS],
        left_over=[names[name] for name in names if name not in used],
        misshapen=_misshapen(tensors, names, wanted, shapes),
    )
    places = {ours: names.get(theirs, theirs) for ours, theirs in wanted.items()}
    return config, Weights(tensors, places, config.vocab_size)


def build_model(config: Seq2SeqConfig, weights: Weights) -> Transformer:
    """The PyTorch model, in evaluation mode; float32 tensors stay pages of the checkpoint."""
    with torch.device("meta"):
        model = Transformer(config)
    state = {name: weights.tensor(name).to(torch.float32) for name in weights}
    model.load_state_dict(state, assign=True)
    model.positions = fixed_positions(config)
    return model.eval()


def _has_base(tensors: Tensors) -> bool:
    return any(name.startswith(BASE) for name in tensors)


def _with_base(name: str, prefix: str) -> str:
    return name if name in (BIAS, OUTPUT) else prefix + name


def _shapes(config: Seq2SeqConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = Transformer(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _their_name(ours: str, tables: Tables) -> str:
    embeddings = {
        "embedding.weight": tables.target,
        "source_embedding.weight": tables.source,
        "output_embedding.weight": tables.output,
    }
    return embeddings[ours] if ours in embeddings else checkpoint_name(ours)


def _tables(
    tensors: Tensors, names: Mapping[str, str], *, share_sides: bool, tie_output: bool
) -> Tables:
    """Which tensor serves source, target and logits.

    As `tie_weights` of transformers: of tied tables any that is there stands for those that are
    not; two that are there with different values are not tied, whatever the configuration says.
    """

    def first(*candidates: str) -> str:
        return next((name for name in candidates if name in names), candidates[0])

    sides = (SHARED,) if share_sides else ()
    tied = (OUTPUT,) if tie_output else ()
    target = first(TARGET, *sides, *tied, *((SOURCE,) if share_sides else ()))
    source = first(SOURCE, *((SHARED, target) if share_sides else ()))
    output = first(OUTPUT, *((*sides, target) if tie_output else ()))

    def merged(name: str) -> str:
        alike = name != target and name in names and target in names
        same = alike and torch.equal(tensors[names[name]], tensors[names[target]])
        return target if same else name

    return Tables(merged(source), target, merged(output))


def _redundant(
    tensors: Tensors, names: Mapping[str, str], tables: Tables, config: Seq2SeqConfig
) -> Iterator[str]:
    """Copies of an embedding under another name, and sinusoids, which nobody need store."""
    for name in EMBEDDINGS:
        kept = (tables.target, tables.source, tables.output)
        if name in names and any(
            torch.equal(tensors[names[name]], tensors[names[other]])
            for other in kept
            if other in names
        ):
            yield name
    if config.positions != "sinusoidal":
        return
    expected = fixed_positions(config)
    for name in POSITIONS:
        if name in names and tensors.shape(names[name]) == tuple(expected.shape):
            # float16 rounds them to within 2^-12
            found = tensors[names[name]].float()
            if torch.allclose(found, expected, rtol=0, atol=2**-11):
                yield name


def _misshapen(
    tensors: Tensors,
    names: Mapping[str, str],
    wanted: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    problems = []
    for ours, theirs in wanted.items():
        if theirs not in names:
            continue
        found = tensors.shape(names[theirs])
        expected = (1, *shapes[ours]) if ours == BIAS else shapes[ours]
        if found != expected and found != shapes[ours]:
            problems.append(shape_misfit(names[theirs], found, expected))
    return problems
