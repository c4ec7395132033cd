"""Models with random weights: as fp16 graphs in an ignored folder, and as PyTorch models."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.graphs.builder import GraphBuilder
from export.graphs.half import HalfProducts
from export.graphs.products import FloatProducts, Products
from export.graphs.translation import TranslationGraphs
from export.graphs.vision import VisionGraph
from export.graphs.weights_file import WeightsFile
from export.seq2seq import PAD_LOGIT, Seq2SeqConfig, Transformer
from export.vit import VisionTransformer, ViTConfig
from service.runtime import Device
from service.translation.caches import CacheSizes
from service.translation.device_runner import DeviceModel

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".build" / "bench" / "gpu"
SEED = 1
FAINT = ("out_proj.weight", "fc2.weight")
SHARP = ("q_proj.weight", "k_proj.weight")
PRODUCTS: dict[str, Callable[[], Products]] = {"fp16": HalfProducts, "fp32": FloatProducts}


@dataclass(frozen=True, slots=True)
class TranslationSize:
    """An architecture, and how long its sentences are."""

    name: str
    config: Seq2SeqConfig
    max_source_tokens: int = 64
    target_tokens: int = 32


def base_config(vocab_size: int) -> Seq2SeqConfig:
    """Vaswani et al. 2017, table 3, with a vocabulary of its own."""
    return Seq2SeqConfig(
        vocab_size=vocab_size, d_model=512, encoder_layers=6, decoder_layers=6, num_heads=8,
        ffn_size=2048,
    )  # fmt: skip


TRANSLATION = (
    TranslationSize("base", base_config(32_000)),
    TranslationSize("OPUS-MT", base_config(58_101)),
)
QUICK_TRANSLATION = (
    TranslationSize(
        "tiny",
        Seq2SeqConfig(
            vocab_size=640, d_model=64, encoder_layers=2, decoder_layers=2, num_heads=2,
            ffn_size=128, max_positions=64,
        ),
        max_source_tokens=16,
        target_tokens=6,
    ),
)  # fmt: skip

VISION = ViTConfig(
    num_labels=1000, image_size=224, patch_size=16, stem="patches", d_model=768, layers=12,
    num_heads=12, ffn_size=3072,
)  # fmt: skip
QUICK_VISION = ViTConfig(
    num_labels=10, image_size=32, patch_size=16, stem="patches", d_model=48, layers=2,
    num_heads=3, ffn_size=96,
)  # fmt: skip


def random_transformer(config: Seq2SeqConfig) -> Transformer:
    """Random weights that say many different things, and never that a sentence ends.

    With its usual initialisation an untrained model repeats one token: that of its own input, which
    tied embeddings make the likeliest, or that of an average which all attention is. The signs of
    the last norm undo the first; sharper attention and faint sublayers, through which a token
    remains visible, the second. Sharper still, and what is said depends on the last bit: with 3
    instead of 1.5 Hugging Face's float16 gave 39 of 96 sentences as its float32.
    """
    torch.manual_seed(SEED)
    model = Transformer(config).eval()
    last = f"decoder_layers.{config.decoder_layers - 1}.feed_forward_residual.layer_norm.weight"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(FAINT):
                parameter.mul_(0.3)
            elif name.endswith(SHARP):
                parameter.mul_(1.5)
        scale = model.get_parameter(last)
        scale.copy_(torch.randint(2, scale.shape) * 2 - 1)
        model.final_logits_bias[config.eos_token_id] = PAD_LOGIT
        # What the graphs hold is rounded to float16: both are then of the same weights.
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def translation_model(
    size: TranslationSize, model: Transformer, precision: str, device: Device
) -> DeviceModel:
    """The graphs of a model, written if need be."""

    def build(products: Products, weights: WeightsFile) -> dict[str, GraphBuilder]:
        bias = model.final_logits_bias.detach().numpy()
        graphs = TranslationGraphs(model.config, _numpy(model), bias, products, weights)
        return {"encoder": graphs.encoder(), "decoder": graphs.decoder()}

    config = size.config
    folder = _graphs(size.name, repr(asdict(config)), precision, build)
    sizes = CacheSizes(
        planes=2 * config.decoder_layers,
        heads=config.num_heads,
        head_size=config.d_model // config.num_heads,
        kind=np.dtype({"fp16": np.float16, "fp32": np.float32}[precision]),
        max_target_tokens=size.target_tokens,
        max_source_tokens=size.max_source_tokens,
    )
    paths = folder / "encoder.onnx", folder / "decoder.onnx"
    return DeviceModel(*paths, sizes, config.vocab_size, device)


def random_vit(config: ViTConfig) -> VisionTransformer:
    """Random weights, large enough that pictures look different."""
    torch.manual_seed(SEED)
    model = VisionTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            parameter.copy_(parameter.half().float())
    return model


def vision_graph(model: VisionTransformer, precision: str) -> Path:
    """The classifier of a model, written if need be."""

    def build(products: Products, weights: WeightsFile) -> dict[str, GraphBuilder]:
        graph = VisionGraph(model.config, _numpy(model), products, weights)
        return {"classifier": graph.classifier()}

    folder = _graphs("vision", repr(asdict(model.config)), precision, build)
    return folder / "classifier.onnx"


def _graphs(
    name: str,
    config: str,
    precision: str,
    build: Callable[[Products, WeightsFile], Mapping[str, GraphBuilder]],
) -> Path:
    """A folder with the graphs, made again whenever what they come from has changed."""
    sources = [Path(__file__), *sorted((ROOT / "export").glob("*.py"))]
    sources += sorted((ROOT / "export" / "graphs").glob("*.py"))
    text = b"".join(path.read_bytes() for path in sources) + config.encode()
    digest = hashlib.sha256(text + torch.__version__.encode()).hexdigest()[:16]
    folder = BUILD / name / digest / precision
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f".{precision}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    weights = WeightsFile(unfinished)
    for graph_name, graph in build(PRODUCTS[precision](), weights).items():
        graph.save(unfinished / f"{graph_name}.onnx")
    weights.close()
    unfinished.rename(folder)
    return folder


def _numpy(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
