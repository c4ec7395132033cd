"""A bundle answers what transformers answers, under the checkpoint's own generation defaults."""

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attendant import AsyncClient
from export.huggingface.importing import ImportOptions, import_checkpoint
from export.seq2seq import Transformer
from export.verify import verify_bundle
from export.verify.exactness import decode_in_flight
from export.verify.report import Bounds
from export.verify.stepping import Graphs
from export.verify.translation import Decoded, decode_by_graphs
from export.weights import load_bundle_model, read_bundle_weights
from service.bundle import Bundle, Direction
from service.languages import choose_direction
from service.metrics import Metrics
from service.server import Server
from service.settings import Settings
from service.translation.engine import TranslationEngine
from service.translation.options import Segmentation, default_options, merge_options
from service.translation.tokenizer import Tokenizer
from tests.export.huggingface.checkpoints import FAMILIES, Saved
from tests.export.huggingface.conftest import Checkpoints, Imports
from tests.tokenizers.lines import strange_lines

NUM_TEXTS = 24
WORDS = ("the", "a", "dog", "train", "runs", "on", "snow", "park", "Bahnhof", "été", "7:45")


@dataclass(frozen=True, slots=True)
class Told:
    """How transformers is told a direction."""

    source: str  # the tokenizer's src_lang
    generate: dict[str, Any]
    prefix: str = ""


def texts() -> list[str]:
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(NUM_TEXTS)]


def told_of(name: str, direction: Direction) -> Told:
    """What transformers has to be told of a direction."""
    source, target = direction.source.name, direction.target.token
    match name:
        case "marian" | "marian-separate":
            return Told("", {}, f">>{direction.target.name}<< ")
        case "mbart":
            return Told(source, {"decoder_start_token_id": target})
        case "bart":
            return Told("", {})
    return Told(source, {"forced_bos_token_id": target})


OTHER_DIRECTIONS = {
    "marian": ("en", "fr"),
    "marian-separate": ("en", "zh-Hans"),
    "m2m100": ("de", "zh"),
    "nllb": ("zh-Hant", "en"),
    "bart": ("en", "en"),
    "mbart": ("ro", "en"),
    "mbart50": ("de_DE", "sl"),
}


def theirs(saved: Saved, sources: list[list[int]], **options: Any) -> list[list[int]]:
    """What `generate` answers, without the start token and the padding behind the end."""
    eos = saved.model.generation_config.eos_token_id
    found = []
    for source in sources:
        ids = torch.tensor([source])
        generated = saved.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        target = generated[0, 1:].tolist()
        found.append(target[: target.index(eos) + 1] if eos in target else target)
    return found


def encode(saved: Saved, told: Told, contents: list[str]) -> list[list[int]]:
    tokenizer = saved.tokenizer.theirs
    if told.source:
        tokenizer.src_lang = told.source
    encoded: list[list[int]] = tokenizer([told.prefix + text for text in contents]).input_ids
    return encoded


async def translate(
    bundle: Bundle, contents: list[str], direction: Direction, beam_size: int
) -> list[str]:
    settings = Settings.model_validate({"device": "cpu", "precision": "fp32", "decode_workers": 1})
    engine = TranslationEngine(bundle, settings=settings, metrics=Metrics.create())
    options = merge_options(engine.default_options, engine.limits, beam_size=beam_size)
    engine.start()
    try:
        answer = await engine.translate(contents, options, Segmentation.NONE, direction=direction)
    finally:
        await engine.stop()
    return [result.hypotheses[0].text for result in answer.results]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("beam_size", [1, 4])
def test_token_ids_equal_those_of_generate(
    name: str, beam_size: int, checkpoints: Checkpoints, imports: Imports
) -> None:
    saved, bundle = checkpoints(name), imports(name).bundle
    direction = bundle.translation.first_direction
    told = told_of(name, direction)
    sources = encode(saved, told, texts())
    assert Tokenizer.from_bundle(bundle).encode(texts(), direction) == sources
    options = replace(default_options(bundle.translation), beam_size=beam_size, num_hypotheses=1)
    found = decode_in_flight(bundle, [(source, options) for source in sources], max_rows=16)
    expected = theirs(saved, sources, num_beams=beam_size, **told.generate)
    assert [best[0].token_ids for best in found] == expected
    assert len({len(ids) for ids in expected}) >= 4  # they stop at different lengths


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bundle_reads_and_writes_strange_lines_as_its_checkpoint(
    name: str, checkpoints: Checkpoints, imports: Imports
) -> None:
    """The card that was made of the files; tests/tokenizers has thousands more of such lines."""
    saved, card = checkpoints(name), imports(name).bundle.translation
    ours, lines = Tokenizer.from_bundle(imports(name).bundle), strange_lines(300, seed=7)
    told = told_of(name, card.first_direction)
    assert ours.encode(lines, card.first_direction) == encode(saved, told, lines)
    for line in lines:
        ids = saved.tokenizer.theirs(text_target=line).input_ids
        assert ours.decode(ids) == saved.tokenizer.theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_engine_answers_other_directions_with_the_same_text(
    name: str, checkpoints: Checkpoints, imports: Imports
) -> None:
    saved, bundle = checkpoints(name), imports(name).bundle
    direction = choose_direction(bundle.translation, *OTHER_DIRECTIONS[name])
    told, contents = told_of(name, direction), texts()[:8]
    found = await translate(bundle, contents, direction, beam_size=4)
    ids = theirs(saved, encode(saved, told, contents), num_beams=4, **told.generate)
    decode = saved.tokenizer.theirs.decode
    assert found == [decode(one, skip_special_tokens=True) for one in ids]


@pytest.mark.parametrize("name", ["marian", "nllb"])
async def test_a_server_answers_each_target_language_as_its_checkpoint(
    name: str, checkpoints: Checkpoints, imports: Imports, tmp_path: Path
) -> None:
    saved, bundle = checkpoints(name), imports(name).bundle
    shutil.copytree(bundle.folder, tmp_path / name / "1")
    settings = Settings(
        models=tmp_path, grpc_port=0, http_port=0, device="cpu", precision="fp32", decode_workers=1
    )
    server = Server(settings)
    await server.start()
    first = bundle.translation.first_direction
    other = choose_direction(bundle.translation, *OTHER_DIRECTIONS[name])
    assert first.target != other.target
    async with AsyncClient(f"127.0.0.1:{server.grpc_port}") as client:
        for direction in (first, other):
            told, contents = told_of(name, direction), texts()[:4]
            found = await client.translate(
                contents,
                source=direction.source.code,
                to=direction.target.code,
                segmentation="none",
                beam_size=4,
            )
            ids = theirs(saved, encode(saved, told, contents), num_beams=4, **told.generate)
            decode = saved.tokenizer.theirs.decode
            assert [one.text for one in found] == [
                decode(one, skip_special_tokens=True) for one in ids
            ]
    await server.drain()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_report_and_the_verifier_find_the_bundle_exact(name: str, imports: Imports) -> None:
    report = imports(name)
    assert report.parity["fp32"].greedy_alike == report.parity["fp32"].sentences
    assert report.parity["fp32"].logits_error < 1e-4
    # Noise has near ties that int8 decides otherwise.
    verified = verify_bundle(report.bundle.folder, bounds=Bounds(int8_agreement=0.5))
    assert verified.passed, verified.table()


@pytest.mark.parametrize("name", FAMILIES)
def test_fp32_weights_are_those_of_the_checkpoint(
    name: str, checkpoints: Checkpoints, imports: Imports
) -> None:
    stored = read_bundle_weights(imports(name).bundle.folder)
    theirs = checkpoints(name).model.state_dict()
    assert torch.equal(
        stored["encoder_layers.1.feed_forward.fc1.weight"],
        theirs["model.encoder.layers.1.fc1.weight"],
    )
    assert torch.equal(stored["embedding.weight"], theirs["model.decoder.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["m2m100", "nllb"])
def test_padding_that_a_decoder_generates_has_no_position(
    name: str, checkpoints: Checkpoints, imports: Imports
) -> None:
    """Nothing forbids it there; transformers gives it the padding's row, which is zero."""
    saved, bundle = checkpoints(name), imports(name).bundle
    source, target = [9, 17, 25, 2], [30, 1, 31, 1, 1, 32]
    ids, history = torch.tensor([source]), torch.tensor([[2, *target[:-1]]])
    steps, cache = [], None
    for step in range(len(target)):  # as `generate` does, which counts what is cached
        with torch.no_grad():
            output = saved.model(
                ids, decoder_input_ids=history[:, step : step + 1], past_key_values=cache
            )
        cache = output.past_key_values
        steps.append(output.logits[0, 0].numpy())
    expected = np.stack(steps)
    forced = [Decoded(target, expected)]
    found = decode_by_graphs(Graphs.open(bundle, "fp32"), [source], len(target), forced)
    np.testing.assert_allclose(found[0].logits, expected, atol=1e-4)
    pytorch = load_bundle_model(bundle.folder, Transformer)
    with torch.no_grad():
        found_there = pytorch(ids, torch.ones_like(ids), history)[0].numpy()
    np.testing.assert_allclose(found_there, expected, atol=1e-4)


def test_fp16_graphs_are_written_too(checkpoints: Checkpoints, output: Path) -> None:
    options = ImportOptions(precisions=("fp32", "fp16"))
    report = import_checkpoint(checkpoints("mbart").folder, output, options)
    assert 0 < report.parity["fp16"].logits_error < 0.05
    assert report.sizes["fp16"] < 0.7 * report.sizes["fp32"]
