"""Hugging Face `generate` of the same weights, all sources in one batch."""

import time
from typing import Any

import torch

from bench.gpu.chip import synchronise
from bench.gpu.ours import Decoded
from export.marian import to_marian
from export.seq2seq import Transformer
from service.runtime import Device


class HuggingFace:
    """A MarianMTModel on the device."""

    def __init__(self, model: Transformer, device: Device, *, half: bool) -> None:
        marian = to_marian(model.state_dict(), model.config)
        self._pad = model.config.pad_token_id
        self._eos = model.config.eos_token_id
        self._device = device
        # Its own types do not fit together: `generate` is not for the model that it is of.
        self._model: Any = marian.to(device=device, dtype=torch.float16 if half else torch.float32)

    def decode(
        self,
        sources: list[list[int]],
        *,
        beam_size: int,
        target_tokens: int,
        compiled: bool = False,
    ) -> Decoded:
        """Translate all of them in one batch; `compiled` with a static cache."""
        input_ids, mask = self._batch(sources)
        options: dict[str, Any] = {"max_new_tokens": target_tokens, "do_sample": False}
        options |= {"num_beams": beam_size, "early_stopping": beam_size > 1}
        if compiled:
            options |= self._compiled_options()
        synchronise(self._device)
        begun = time.perf_counter()
        with torch.inference_mode():
            found = self._model.generate(input_ids, attention_mask=mask, **options)
        synchronise(self._device)
        seconds = time.perf_counter() - begun
        rows = found[:, 1 : target_tokens + 1].tolist()
        return Decoded([self._up_to_the_end(row) for row in rows], seconds)

    def token_scores(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        """The log-probability of each token of each target, by teacher forcing."""
        input_ids, mask = self._batch(sources)
        labels, _ = self._batch(targets)
        starts = torch.full_like(labels[:, :1], self._pad)
        with torch.inference_mode():
            logits = self._model(
                input_ids=input_ids,
                attention_mask=mask,
                decoder_input_ids=torch.cat([starts, labels[:, :-1]], dim=1),
            ).logits.float()  # (B, T, V)
        log_probabilities = logits.log_softmax(-1).gather(2, labels[:, :, None])[:, :, 0]  # (B, T)
        rows = zip(log_probabilities.tolist(), targets, strict=True)
        return [row[: len(target)] for row, target in rows]

    def _up_to_the_end(self, row: list[int]) -> list[int]:
        return row[: row.index(self._eos) + 1] if self._eos in row else row

    def _batch(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        padded = [row + [self._pad] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, device=self._device), torch.tensor(mask, device=self._device)

    def _compiled_options(self) -> dict[str, Any]:
        """`generate` compiles by itself where the cache is static, on a GPU; elsewhere if told."""
        from transformers import CompileConfig

        if self._device == "cuda":
            return {"cache_implementation": "static"}
        config = CompileConfig(backend="eager", mode=None, fullgraph=False)
        config._compile_all_devices = True
        return {"cache_implementation": "static", "compile_config": config}
