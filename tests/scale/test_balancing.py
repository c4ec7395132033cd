"""Three servers behind a balancer, one of which ends while callers call: nothing is lost."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from attendant import Client
from attendant.retry import RetryPolicy
from tests.scale.balancers import envoy, haproxy
from tests.scale.replicas import ROOT, Replica, replicas

Balancer = Callable[[list[Replica], Path], AbstractContextManager[str]]

NUM_REPLICAS = 3
NUM_CALLERS = 8
NUM_CALLS = 1200
# One server ends in the middle of the load, when so many calls have been answered.
CALLS_BEFORE = NUM_CALLS // 2
TEXTS = (ROOT / "examples" / "sentences.txt").read_text().splitlines()
ALONE = RetryPolicy(max_attempts=1)
# Envoy tries again by itself. HAProxy leaves a call that was cut off to the caller. A server that
# is told to end cuts none off.
ENDS = [
    pytest.param(envoy, "kill", ALONE, id="envoy-kill"),
    pytest.param(envoy, "terminate", ALONE, id="envoy-terminate", marks=pytest.mark.slow),
    pytest.param(haproxy, "kill", RetryPolicy(), id="haproxy-kill"),
    pytest.param(haproxy, "terminate", ALONE, id="haproxy-terminate", marks=pytest.mark.slow),
]
# Calls that run for longer than balancers take to notice that a server leaves, on each some.
NUM_LONG_CALLS, LONG_CALL_TEXTS, LONG_CALL_BEAMS = 6, 200, 4


@pytest.fixture
def servers() -> Iterator[list[Replica]]:
    with replicas(NUM_REPLICAS) as started:
        for replica in started:
            with Client(f"localhost:{replica.ports.grpc}") as client:
                client.translate(TEXTS[0])
        yield started


@pytest.fixture(scope="module")
def expected() -> list[str]:
    with replicas(1) as [replica], Client(f"localhost:{replica.ports.grpc}") as client:
        return [client.translate(text).text for text in TEXTS]


def under_load(address: str, retry: RetryPolicy, in_the_middle: Callable[[], None]) -> list[str]:
    """What `NUM_CALLS` calls by `NUM_CALLERS` callers are answered; raises the first that fails."""
    answered = threading.Semaphore(0)

    def call(client: Client, number: int) -> str:
        text = client.translate(TEXTS[number % len(TEXTS)]).text
        answered.release()
        return text

    clients = [Client(address, retry=retry) for _ in range(NUM_CALLERS)]
    with ThreadPoolExecutor(NUM_CALLERS) as callers:
        calls: list[Future[str]] = [
            callers.submit(call, clients[number % NUM_CALLERS], number)
            for number in range(NUM_CALLS)
        ]
        try:
            for _ in range(CALLS_BEFORE):
                assert answered.acquire(timeout=20)
            in_the_middle()
            answers = [each.result() for each in calls]
        finally:
            callers.shutdown(wait=False, cancel_futures=True)
    for client in clients:
        client.close()
    return answers


def call_for_long(address: str, retry: RetryPolicy) -> int:
    """How many texts of one call are answered, and how long that takes at least."""
    with Client(address, retry=retry, timeout_seconds=120) as client:
        found = client.translate(TEXTS[:1] * LONG_CALL_TEXTS, beam_size=LONG_CALL_BEAMS)
    return sum(one.error is None for one in found)


@pytest.mark.parametrize(("balancer", "end", "retry"), ENDS)
def test_a_server_that_ends_under_load_loses_no_call(
    servers: list[Replica],
    expected: list[str],
    tmp_path: Path,
    balancer: Balancer,
    end: str,
    retry: RetryPolicy,
) -> None:
    before: list[int] = []
    long_calls: list[Future[int]] = []
    pool = ThreadPoolExecutor(NUM_LONG_CALLS)

    def in_the_middle() -> None:
        before.extend(replica.answered() for replica in servers)
        long_calls.extend(pool.submit(call_for_long, address, retry) for _ in range(NUM_LONG_CALLS))
        getattr(busiest().process, end)()

    def busiest() -> Replica:
        return servers[before.index(max(before))]

    with balancer(servers, tmp_path) as address:
        answers = under_load(address, retry, in_the_middle)
        with pool:
            assert [one.result() for one in long_calls] == [LONG_CALL_TEXTS] * NUM_LONG_CALLS

    assert answers == [expected[number % len(TEXTS)] for number in range(NUM_CALLS)]
    # One call was for warming up. The one that ended had calls to lose, the others went on.
    assert min(before) > 1
    assert all(
        replica.answered() > had
        for replica, had in zip(servers, before, strict=True)
        if replica is not busiest()
    )
