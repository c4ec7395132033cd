"""Vision: ViT-B/16 in float16, checked against float32, then images a second of both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch

from bench.gpu.chip import Chip, best_seconds, count_kernels
from bench.gpu.floors import num_nodes, vision_floor
from bench.gpu.models import random_vit, vision_graph
from export.vit import VisionTransformer, ViTConfig
from service.runtime import Device, open_session

BATCHES = (1, 2, 4, 8, 16, 32, 64)
MAX_ERROR = 0.02  # of the largest logit
NUM_CHECKED = 16


@dataclass(frozen=True, slots=True)
class VisionCheck:
    """float16 logits against PyTorch's in float32."""

    worst_error: float  # as a part of the largest logit
    same_label: float  # of the pictures

    @property
    def passed(self) -> bool:
        """Whether it is as good as it has to be."""
        return self.worst_error <= MAX_ERROR


@dataclass(frozen=True, slots=True)
class VisionLine:
    """One batch size."""

    batch: int
    seconds: float
    floor_seconds: float
    kernels: int
    peer_seconds: float

    @property
    def images_per_second(self) -> float:
        """Ours."""
        return self.batch / self.seconds

    @property
    def over_floor(self) -> float:
        """How many times its floor a run takes."""
        return self.seconds / self.floor_seconds

    @property
    def over_peer(self) -> float:
        """How many times the peer's throughput ours is."""
        return self.peer_seconds / self.seconds


class VisionBench:
    """One classifier: built once, checked, measured."""

    def __init__(self, config: ViTConfig, device: Device, chip: Chip) -> None:
        self._config, self._device, self._chip = config, device, chip
        self._model: VisionTransformer = random_vit(config)
        self._path = vision_graph(self._model, "fp16")
        self._session = open_session(self._path, device=device, threads=1)

    def check(self) -> VisionCheck:
        """Random pictures through both."""
        pictures = self._pictures(NUM_CHECKED)
        with torch.inference_mode():
            expected = self._model(torch.from_numpy(pictures)).numpy()
        (found,) = self._session.run(["logits"], {"pixel_values": pictures})
        error = np.abs(found - expected).max() / np.abs(expected).max()
        same = (found.argmax(1) == expected.argmax(1)).mean()
        return VisionCheck(float(error), float(same))

    def measure(self, batches: Sequence[int] = BATCHES) -> Iterator[VisionLine]:
        """Pictures lie on the device before, logits after."""
        peer = self._peer()
        for batch in batches:
            yield self._line(peer, batch)

    def _line(self, peer: Any, batch: int) -> VisionLine:
        pictures = self._pictures(batch)
        binding = self._bind(pictures)
        on_device = torch.from_numpy(pictures).to(self._device, peer.dtype)

        def run() -> None:
            self._session.run_with_iobinding(binding)

        def run_peer() -> None:
            with torch.inference_mode():
                peer(pixel_values=on_device)

        kernels = count_kernels(run) or num_nodes(self._path)
        floor = vision_floor(
            weights=sum(parameter.numel() for parameter in self._model.layers.parameters()),
            patches=(self._config.image_size // self._config.patch_size) ** 2 + 1,
            d_model=self._config.d_model,
            layers=self._config.layers,
            batch=batch,
            kernels=kernels,
        )
        return VisionLine(
            batch=batch,
            seconds=best_seconds(run, self._device),
            floor_seconds=floor.seconds(self._chip),
            kernels=kernels,
            peer_seconds=best_seconds(run_peer, self._device),
        )

    def _bind(self, pictures: np.ndarray) -> Any:
        binding = self._session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(pictures, self._device, 0)
        binding.bind_ortvalue_input("pixel_values", value)
        binding.bind_output("logits", self._device)
        return binding

    def _peer(self) -> Any:
        """Hugging Face's ViT of the same size, in float16."""
        from transformers import ViTConfig as PeerConfig
        from transformers import ViTForImageClassification

        config = self._config
        model = ViTForImageClassification(
            PeerConfig(
                hidden_size=config.d_model,
                num_hidden_layers=config.layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.ffn_size,
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_labels=config.num_labels,
            )
        )
        model.train(False)
        return model.to(device=self._device, dtype=torch.float16)

    def _pictures(self, count: int) -> np.ndarray:
        side = self._config.image_size
        return np.random.default_rng(count).standard_normal((count, 3, side, side), np.float32)
