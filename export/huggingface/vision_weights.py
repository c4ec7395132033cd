"""From a vision checkpoint's tensors to our state: copied under another name, or computed.

Whatever is a constant once a model is trained goes into its weights here, so that one graph serves
every family.
Letters: O outputs, I inputs, C labels, N patches, P tokens in front of them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from export.huggingface.misfits import Shape, refuse_misfits, shape_misfit
from export.huggingface.tensors import Tensors
from export.quantization import Floats
from export.vit import VisionTransformer, ViTConfig

LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class VisionNames:
    """What a family's tensors are called."""

    around: Mapping[str, str]  # ours -> theirs, outside the layers
    layers: str  # in front of a layer's number
    in_a_layer: Mapping[str, str]  # ours -> theirs
    modules: Mapping[str, str]  # as transformers 5 calls its modules -> as it stores their tensors
    unread: tuple[str, ...]  # by a classifier, though some checkpoints have them

    def theirs(self, ours: str) -> str:
        """The stored name of one of our tensors."""
        module, _, kind = ours.rpartition(".")
        if ours in self.around:
            return self.around[ours]
        if inside := LAYER.fullmatch(module):
            return f"{self.layers}.{inside[1]}.{self.in_a_layer[inside[2]]}.{kind}"
        return f"{self.around[module]}.{kind}"

    def stored(self, name: str) -> str:
        """The stored name of a tensor that may be called after its module."""
        for module, stored in self.modules.items():
            name = name.replace(module, stored)
        return name


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one of our tensors is made of stored ones, given as float32 in this order."""

    make: Callable[..., Tensor]
    parts: Mapping[str, Shape] = field(default_factory=dict)
    is_copy: bool = False


def copied(name: str, shape: Shape) -> Recipe:
    """The same tensor under another name."""
    return Recipe(lambda tensor: tensor, {name: shape}, is_copy=True)


def constant(value: float, shape: Shape) -> Recipe:
    """What no checkpoint has to store."""
    return Recipe(lambda: torch.full(shape, value), is_copy=True)


def scaled(name: str, scale: str, shape: Shape) -> Recipe:
    """A linear map's weight (O, I) or bias (O,) whose outputs are multiplied by a vector (O,)."""

    def make(tensor: Tensor, scale: Tensor) -> Tensor:
        return tensor * (scale[:, None] if tensor.ndim == 2 else scale)

    return Recipe(make, {name: shape, scale: (shape[0],)})


def mean_of(first: str, second: str, shape: Shape) -> Recipe:
    """Two heads' weights (C, I) as one (C, 2 I) whose logits are their mean; or biases (C,)."""

    def make(first: Tensor, second: Tensor) -> Tensor:
        if first.ndim == 1:
            return (first + second) / 2
        return torch.cat([first, second], dim=1) / 2

    part = shape if len(shape) == 1 else (shape[0], shape[1] // 2)
    return Recipe(make, {first: part, second: part})


def interpolated(name: str, config: ViTConfig, side: int) -> Recipe:
    """Position embeddings (1, P + side * side, d_model) for another number of patches.

    As `interpolate_pos_encoding` of transformers: bicubic, in float32.
    """
    prefix, new_side = len(config.prefix), config.image_size // config.patch_size

    def make(positions: Tensor) -> Tensor:
        grid = positions[:, prefix:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            grid, size=(new_side, new_side), mode="bicubic", align_corners=False
        )  # (1, d_model, new_side, new_side)
        return torch.cat([positions[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)

    return Recipe(make, {name: (1, prefix + side * side, config.d_model)})


class VisionWeights(Mapping[str, Floats]):
    """Our state of a checkpoint, float32, made when it is asked for."""

    def __init__(
        self, tensors: Tensors, recipes: Mapping[str, Recipe], names: Mapping[str, str]
    ) -> None:
        self._tensors = tensors
        self._recipes = recipes
        self._names = names  # stored names -> those of this checkpoint

    def tensor(self, name: str) -> Tensor:
        """A tensor under our name."""
        recipe = self._recipes[name]
        parts = (self._tensors[self._names[part]].to(torch.float32) for part in recipe.parts)
        return recipe.make(*parts)

    def __getitem__(self, name: str) -> Floats:
        array: Floats = self.tensor(name).contiguous().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)

    @property
    def fit_float16(self) -> bool:
        """Whether float16 loses nothing: it has nothing else, and nothing is computed."""
        copies = all(recipe.is_copy for recipe in self._recipes.values())
        return copies and self._tensors.dtypes() == {torch.float16}


def match_vision_weights(
    tensors: Tensors, config: ViTConfig, names: VisionNames, computed: Mapping[str, Recipe]
) -> VisionWeights:
    """Find the tensors of every weight: those of its recipe in `computed`, or the one of its name.

    Raises CheckpointError that lists what is missing, what is left over, what has another shape.
    """
    recipes = {
        ours: computed[ours] if ours in computed else copied(names.theirs(ours), shape)
        for ours, shape in _shapes(config).items()
    }
    found = {names.stored(name): name for name in tensors}
    wanted = {name: shape for recipe in recipes.values() for name, shape in recipe.parts.items()}
    refuse_misfits(
        missing=[name for name in wanted if name not in found],
        left_over=[
            name
            for stored, name in found.items()
            if stored not in wanted and stored not in names.unread
        ],
        misshapen=[
            shape_misfit(found[name], tensors.shape(found[name]), shape)
            for name, shape in wanted.items()
            if name in found and tensors.shape(found[name]) != shape
        ],
    )
    return VisionWeights(tensors, recipes, found)


def build_vision_model(config: ViTConfig, weights: VisionWeights) -> VisionTransformer:
    """The PyTorch model, in evaluation mode; float32 tensors stay pages of the checkpoint."""
    with torch.device("meta"):
        model = VisionTransformer(config)
    model.load_state_dict({name: weights.tensor(name) for name in weights}, assign=True)
    return model.eval()


def _shapes(config: ViTConfig) -> dict[str, Shape]:
    with torch.device("meta"):
        model = VisionTransformer(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
