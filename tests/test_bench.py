"""The benchmark runs, compares like with like, and its figures are those of what was run."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from bench.answers import Agreement, DifferentAnswers
from bench.base_model import TOKENIZER, widen_tokenizer, word
from bench.capacity import Cost, Line
from bench.comparison import Comparison, Figure, Target, comparison_table
from bench.contender import OURS, Contender, ContenderError, Stage, stage
from bench.grid import Batch, Threads, Trial, best_of, grid_table, thread_settings, worth_trying
from bench.load import Run, median_run, poisson_arrivals, run_callers, run_open_loop
from bench.models import DEFAULT, MODELS, OPUS, prepare
from bench.peers.batcher import Batcher
from bench.peers.ct2_checkpoint import number_tokens
from bench.peers.environments import how_to_install, is_installed, names
from bench.record import put_between_marks, section_name
from bench.sections.floor import floor_seconds
from bench.sections.table import SECTIONS, split_by_peers
from bench.sentences import Sentences, encode, repeat, token_counter
from bench.server import ROOT, running_server
from bench.statistics import Ratio, alternate, percentile
from bench.traffic import MAX_SOURCE_TOKENS, MIN_SOURCE_TOKENS, SEARCHES, mixed_traffic, request
from bench.translators import CTranslate2, our_translator, search_options
from export.bundling import load_tokenizer
from service.bundle import Bundle
from service.translation.tokenizer import Tokenizer

SOURCE = "A man is riding a horse on the beach."
TARGET = "Ein Mann reitet auf einem Pferd am Strand."
NEVER = 3600.0  # seconds

RunBatch = Callable[[Hashable, Sequence[int]], Sequence[int]]


@pytest.fixture
async def on() -> AsyncIterator[Stage]:
    async with stage() as opened:
        yield opened


def run_of(units: int, seconds: float, latencies: Sequence[float] = (0.1,)) -> Run:
    return Run(units, 0, seconds, tuple(latencies), 0.0, 0.0)


async def test_callers_share_the_batches_and_never_exceed_their_number() -> None:
    running = most = 0
    seen: list[int] = []

    async def call(batch: Sequence[int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        seen.extend(batch)
        running -= 1
        return 10 * len(batch)

    batches = [[1, 2], [3], [4, 5, 6], [7]]
    run = await run_callers(call, batches, 2, lambda: 0.0)
    assert (sorted(seen), most) == ([1, 2, 3, 4, 5, 6, 7], 2)
    assert (run.num_units, run.num_tokens, len(run.latencies)) == (7, 70, 4)


def test_percentiles_and_medians_are_of_runs_that_were_made() -> None:
    run = run_of(100, 10.0, [n / 100 for n in range(100, 0, -1)])
    assert (run.percentile(0.5), run.percentile(0.99)) == (0.51, 1.0)
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    runs = [run_of(10, 1.0), run_of(10, 3.0), run_of(10, 2.0)]
    assert median_run(runs) is runs[2]


async def test_rounds_take_turns_and_the_first_is_left_out() -> None:
    turns: list[str] = []

    async def measure(name: str) -> int:
        turns.append(name)
        return len(turns)

    found = await alternate({name: partial(measure, name) for name in "AB"}, num_rounds=2)
    assert "".join(turns) == "ABABAB"
    assert found == {"A": [3, 5], "B": [4, 6]}


def test_a_ratio_is_of_medians_and_its_spread_is_of_rounds() -> None:
    ratio = Ratio.of([10.0, 30.0, 20.0], [10.0, 10.0, 40.0])
    assert (ratio.value, ratio.lowest, ratio.highest) == (2.0, 0.5, 3.0)


@pytest.mark.parametrize(
    ("target", "ratio", "verdict"),
    [
        (Target(1.2, 1.5), 1.19, "missed"),
        (Target(1.2, 1.5), 1.2, "met"),
        (Target(1.2, 1.5), 1.5, "aim"),
        (Target(0.5, 0.25), 0.51, "missed"),
        (Target(0.5, 0.25), 0.5, "met"),
        (Target(0.5, 0.25), 0.2, "aim"),
    ],
)
def test_a_target_may_be_high_or_low(target: Target, ratio: float, verdict: str) -> None:
    assert target.verdict(ratio) == verdict


def test_a_comparison_of_times_is_better_the_longer_the_peer_takes() -> None:
    line = Comparison(
        *("alone", "a case", "ms", [Figure(2.0, 1.0)], "a peer", [Figure(5.0, 4.0)]),
        *(Target(2.0, 3.0), "theirs by ours"),
    )
    assert (line.ratio.value, line.cpu_ratio, line.verdict) == (2.5, 4.0, "met")
    row = "| alone | a case | ms | 2 | a peer | 5 | 2.50 (2.50 to 2.50) | 4.00 | 2 / 3 | met |"
    assert comparison_table([line]).endswith(row)


def test_what_a_call_and_a_sentence_cost_is_told_from_calls_of_two_sizes() -> None:
    costs = Cost(call=0.003, sentence=0.001)

    found = Cost.of(one=0.003 + 0.001, many=(0.003 + 32 * 0.001) / 32)

    assert (found.call, found.sentence) == pytest.approx((costs.call, costs.sentence))
    assert costs.of_sentence(3) == pytest.approx(0.002)


def test_two_replicas_without_cores_for_their_callers_do_less_than_twice_as_much() -> None:
    costs = {"server": Cost(0.008, 0.001), "client": Cost(0.008, 0.0)}
    line = Line("", **costs, one=400, two=600, server_beside=0.003, busy=1.0)

    assert line.predicted_one == pytest.approx(500)  # calls of 8
    assert line.predicted_two == pytest.approx(2 / 0.003)


def test_the_grid_goes_on_with_threads_worth_trying_and_marks_the_best() -> None:
    one, two, slow = Threads(1, 1, False), Threads(2, 1, False), Threads(1, 2, True)
    first = Batch(32, "examples")
    trials = [Trial(one, first, 90.0), Trial(two, first, 100.0), Trial(slow, first, 10.0)]
    assert worth_trying(trials) == [one, two]
    trials.append(Trial(one, Batch(1024, "tokens"), 120.0))
    assert best_of(trials).batch == Batch(1024, "tokens")
    assert "**120.0**" in grid_table("CTranslate2", trials).splitlines()[2]
    shapes = {(threads.inter, threads.intra) for threads in thread_settings(2)}
    assert shapes == {(2, 1), (1, 2), (1, 1)}


def test_answers_are_compared_by_their_best_hypotheses() -> None:
    agreement = Agreement.of([[[1, 2, 3], [9]], [[4, 5]]], [[[1, 2, 3]], [[4, 6, 7]]])
    assert (agreement.num_same, agreement.num_same_first) == (1, 2)
    assert agreement.shared_tokens == pytest.approx(4 / 6)
    agreement.require(0.5)
    with pytest.raises(DifferentAnswers, match="1 of 2 answers the same"):
        agreement.require(0.98)


def test_arrivals_come_at_the_rate_and_are_the_same_for_both() -> None:
    arrivals = poisson_arrivals(4000, 50.0, seed=1)
    assert arrivals == poisson_arrivals(4000, 50.0, seed=1) == sorted(arrivals)
    assert arrivals != poisson_arrivals(4000, 50.0, seed=2)
    assert len(arrivals) / arrivals[-1] == pytest.approx(50.0, rel=0.1)


async def test_an_open_loop_waits_for_nobody_and_counts_from_when_it_should_have_begun() -> None:
    last_has_begun = asyncio.Event()

    async def first() -> float:
        await last_has_begun.wait()
        return asyncio.get_running_loop().time()

    async def last() -> float:
        last_has_begun.set()
        return asyncio.get_running_loop().time()

    (due, ended), (last_due, last_began) = await run_open_loop([first, last], [0.0, 0.01])
    assert last_due - due == pytest.approx(0.01)
    assert last_due <= last_began <= ended


async def test_what_a_contender_prints_is_no_reply(on: Stage) -> None:
    contender = await on.contender("scripted", OURS, "tests.scripted_contender")
    reply = await contender.ask("echo", words=["a", "b"])
    assert reply["said"] == {"words": ["a", "b"]}
    assert {"seconds", "cpu_seconds"} <= reply.keys()


async def test_a_contender_that_fails_says_why_and_goes_on(on: Stage) -> None:
    contender = await on.contender("scripted", OURS, "tests.scripted_contender")
    with pytest.raises(ContenderError, match="ValueError: as it was told"):
        await contender.ask("fail")
    assert (await contender.ask("echo"))["said"] == {}


async def test_while_one_has_its_turn_the_others_are_stopped(on: Stage) -> None:
    first, second = [
        await on.contender(name, OURS, "tests.scripted_contender") for name in ("first", "second")
    ]
    async with on.only("first"):
        assert await _state_becomes(second, "T")
        await first.ask("echo")
    assert await _state_becomes(second, "SR")
    await second.ask("echo")
    assert len(on.disturbances) == 1


async def _state_becomes(contender: Contender, letters: str) -> bool:
    """Whether the process gets into one of these states; the kernel may take a moment."""
    async with asyncio.timeout(10):
        while True:
            stat = Path(f"/proc/{contender.pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] in letters:
                return True
            await asyncio.sleep(0)


async def test_our_contender_answers_as_the_server_does(on: Stage) -> None:
    ours = await our_translator(on, DEFAULT, "int8")
    sources = encode(DEFAULT, [SOURCE, "Two dogs.", "A woman in a red dress.", SOURCE])
    options = search_options(DEFAULT, beam_size=4, num_hypotheses=2)
    together = await ours.ask("translate", sources=sources, **options)
    alone = await ours.ask("alone", sources=sources, **options)
    assert together["ids"] == alone["ids"]
    assert together["seconds"] > 0
    assert [len(hypotheses) for hypotheses in together["ids"]] == [2] * 4
    tokenizer = Tokenizer.from_bundle(Bundle.open(DEFAULT.bundle))
    assert tokenizer.decode(together["ids"][0][0]) == TARGET


async def test_python_a_step_is_what_a_turn_takes_beside_the_graph(on: Stage) -> None:
    contender = await on.contender("steps", OURS, "bench.contenders.steps")
    await contender.ask("load", bundle=str(DEFAULT.bundle), precision="int8")
    options = search_options(DEFAULT, beam_size=1) | {"min_tokens": 6, "max_tokens": 6}
    turns = (await contender.ask("steps", num_sequences=2, **options))["turns"]
    assert len(turns) == 6 - 2  # the first encodes, the last lets them leave
    assert all(in_graph > 0 and beside > 0 for in_graph, beside in turns)


async def test_a_step_is_timed_beside_what_the_machine_can_do(on: Stage) -> None:
    contender = await on.contender("floor", OURS, "bench.contenders.floor")
    await contender.ask("load", bundle=str(DEFAULT.bundle), precision="int8", max_tokens=300)
    limits = await contender.ask("limits")
    sizes = Bundle.open(DEFAULT.bundle).translation.architecture
    few, many = [
        await contender.ask("step", num_rows=num_rows, target_tokens=300, source_tokens=16)
        for num_rows in (1, 64)
    ]
    assert few["seconds"] < many["seconds"]
    assert many["seconds"] > floor_seconds(sizes, limits, 64, 300)
    for target_tokens in (4, 16, 4):  # in caches that others have been laid out for
        await contender.ask("step", num_rows=2, target_tokens=target_tokens, source_tokens=16)


def test_a_floor_is_of_operations_or_of_bytes() -> None:
    sizes = Bundle.open(DEFAULT.bundle).translation.architecture  # 4 layers, d 192, ffn 768
    weights = 4 * (8 * 192**2 + 2 * 192 * sizes.ffn_size) + sizes.vocab_size * 192
    cached = 2 * 4 * 192 * (16 + 10)
    limits = {"operations_per_second": 1.0, "bytes_per_second": 1e30}
    assert floor_seconds(sizes, limits, 3, 10) == 2 * 3 * (weights + cached)
    limits = {"operations_per_second": 1e30, "bytes_per_second": 1.0}
    assert floor_seconds(sizes, limits, 3, 10) == weights + 3 * (cached + 4 * sizes.vocab_size)


async def test_callers_of_a_server_see_answers_and_first_words(on: Stage) -> None:
    callers = await on.contender("callers", OURS, "bench.contenders.callers")
    requests = [request(DEFAULT, [SOURCE]) for _ in range(4)]
    async with running_server() as server:
        closed = await callers.ask("closed", target=server.target, requests=requests, num_callers=2)
        opened = await callers.ask(
            "open",
            target=server.target,
            requests=requests,
            arrivals=[0.0, 0.01, 0.02, 0.03],
            stream=True,
        )
    assert closed["texts"] == opened["texts"] == [[TARGET]] * 4
    assert len(closed["latencies"]) == 4
    for first, whole in zip(opened["first_token"], opened["latencies"], strict=True):
        assert 0 < first < whole


@pytest.mark.skipif(not is_installed("ctranslate2"), reason=how_to_install("ctranslate2"))
async def test_ctranslate2_computes_the_same_function_from_the_same_weights(on: Stage) -> None:
    prepare(DEFAULT)
    ours = await our_translator(on, DEFAULT, "fp32")
    peer = await CTranslate2(on, DEFAULT, "fp32").use(Threads(1, 1, False), Batch(4, "examples"))
    sources = encode(DEFAULT, Sentences.read(None, None).timed[:8])
    for beam_size in (1, 4):
        options = search_options(DEFAULT, beam_size)
        answers = [
            (await one.ask("translate", sources=sources, **options))["ids"] for one in (ours, peer)
        ]
        assert answers[0] == answers[1]


def batcher_of(
    run: RunBatch, executor: ThreadPoolExecutor, **limits: Any
) -> Batcher[Any, int, int]:
    return Batcher(run, executor, **{"num_workers": 1, "max_batch_size": 2} | limits)


async def test_a_full_batch_does_not_wait_and_options_are_never_mixed() -> None:
    batches: list[tuple[Hashable, list[int]]] = []

    def run(options: Hashable, sources: Sequence[int]) -> list[int]:
        batches.append((options, list(sources)))
        return [10 * source for source in sources]

    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(run, executor, delay_seconds=NEVER)
        asked = [batcher.submit(*pair) for pair in (("a", 1), ("b", 2), ("a", 3), ("b", 4))]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*asked) == [10, 20, 30, 40]
    assert sorted(batches) == [("a", [1, 3]), ("b", [2, 4])]


async def test_a_batch_that_never_fills_goes_when_its_time_has_come() -> None:
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(lambda _, sources: sources, executor, delay_seconds=0.001)
        async with asyncio.timeout(10):
            assert await batcher.submit("a", 1) == 1


async def test_while_all_workers_are_busy_a_batch_goes_on_growing() -> None:
    free = Event()
    batches: list[list[int]] = []

    def run(_: Hashable, sources: Sequence[int]) -> Sequence[int]:
        batches.append(list(sources))
        free.wait(10)
        return sources

    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(run, executor, max_batch_size=3, delay_seconds=0.0)
        first = asyncio.create_task(batcher.submit("a", 1))
        while not batches:
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.submit("a", source)) for source in (2, 3)]
        await asyncio.sleep(0)
        free.set()
        assert await asyncio.gather(first, *others) == [1, 2, 3]
    assert batches == [[1], [2, 3]]


async def test_a_batch_that_fails_is_the_error_of_its_members_alone() -> None:
    def run(options: Hashable, sources: Sequence[int]) -> Sequence[int]:
        if options == "bad":
            raise ValueError("bad options")
        return sources

    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(run, executor, delay_seconds=0.0)
        asked = (batcher.submit("bad", 1), batcher.submit("good", 2))
        async with asyncio.timeout(10):
            found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[0], ValueError)
    assert found[1] == 2


def test_mixed_traffic_has_all_lengths_and_every_search_as_often() -> None:
    count = token_counter(DEFAULT)
    requests = mixed_traffic(DEFAULT, Sentences.read(None, None).timed, 60, count)
    lengths = [count(one["texts"][0]) for one in requests]
    assert MIN_SOURCE_TOKENS <= min(lengths) < 20
    assert 80 < max(lengths) < MAX_SOURCE_TOKENS + 20
    searches = [(one["beam_size"], one["num_hypotheses"]) for one in requests]
    assert [searches.count(search) for search in SEARCHES] == [20, 20, 20]


def test_without_files_no_sentence_is_both_timed_and_tuned_on() -> None:
    own = Sentences.read(None, None)
    assert len(own.timed) == len(own.tuning) == 32
    assert not set(own.timed) & set(own.tuning)
    assert "half of our own" in own.origin
    assert repeat(own.timed, 33)[32] == own.timed[0]


def test_a_widened_tokenizer_reads_as_before_and_writes_more(tmp_path: Path) -> None:
    widened = tmp_path / "target.spm"
    widen_tokenizer(TOKENIZER, widened, 6000)
    before, after = load_tokenizer(TOKENIZER), load_tokenizer(widened)
    assert len(after) == 6000
    assert after.encode(SOURCE) == before.encode(SOURCE)
    assert after.decode([5999, 5998]) == f"{word(5999)} {word(5998)}"


def test_a_block_is_replaced_between_its_marks_and_added_where_there_is_none() -> None:
    page = "before\n<!-- one: begin -->\nold\n<!-- one: end -->\nafter\n"
    page = put_between_marks(page, "one", "new\n")
    assert page == "before\n<!-- one: begin -->\n\nnew\n\n<!-- one: end -->\nafter\n"
    page = put_between_marks(page, "two", "more\n")
    assert page.startswith("before\n<!-- one: begin -->\n\nnew\n")
    assert page.endswith("## two\n\n<!-- two: begin -->\n\nmore\n\n<!-- two: end -->\n")


def test_figures_of_other_models_are_kept_beside_those_of_the_usual_ones() -> None:
    assert section_name("offline", MODELS) == "offline"
    assert section_name("offline", [OPUS]) == "offline-opus-mt"


def test_a_converted_model_has_ids_for_words(tmp_path: Path) -> None:
    (tmp_path / "shared_vocabulary.json").write_text(json.dumps(["</s>", "<unk>", "▁a"]))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "epsilon": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    number_tokens(tmp_path)
    assert json.loads((tmp_path / "shared_vocabulary.json").read_text()) == ["0", "1", "2"]
    numbered = {"bos_token": "<s>", "eos_token": "0", "unk_token": "1", "epsilon": None}
    assert json.loads((tmp_path / "config.json").read_text()) == numbered


def test_a_section_whose_peer_is_missing_is_one_sentence() -> None:
    assert {peer for section in SECTIONS.values() for peer in section.peers} <= set(names())
    chosen, lacking = split_by_peers([], installed=lambda peer: True)
    assert ([section.name for section in chosen], lacking) == (list(SECTIONS), [])
    chosen, lacking = split_by_peers(["alone", "steps"], installed=lambda peer: False)
    assert [section.name for section in chosen] == ["steps"]
    assert lacking == [f"{how_to_install('ctranslate2')} (sections alone)"]


def test_the_benchmark_prints_a_table_of_positive_figures() -> None:
    flags = ["--callers", "1", "--units", "2", "--rounds", "1", "--requests", "20"]
    command = [sys.executable, "-m", "bench", "service", *flags]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"^\| (?:translate|classify).*\|$", found.stdout, re.MULTILINE)
    assert len(rows) == 4 + 2
    for row in rows:
        numbers = [float(cell.replace(",", "")) for cell in row.split("|")[2:-1] if cell.strip()]
        assert all(number > 0 for number in numbers[:5])
    assert re.search(r"MiB after 20 \([+-]\d", found.stdout)
