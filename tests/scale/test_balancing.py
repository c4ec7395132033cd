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
# Envoy tries again by itself. HAProxy leaves a call that was cut off to the caller.
BALANCERS = [
    pytest.param(envoy, ALONE, id="envoy"),
    pytest.param(haproxy, RetryPolicy(), id="haproxy"),
]


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


@pytest.mark.parametrize(("balancer", "retry"), BALANCERS)
@pytest.mark.parametrize("end", ["kill", pytest.param("terminate", marks=pytest.mark.slow)])
def test_a_server_that_ends_under_load_loses_no_call(
    servers: list[Replica],
    expected: list[str],
    tmp_path: Path,
    balancer: Balancer,
    retry: RetryPolicy,
    end: str,
) -> None:
    before: list[int] = []

    def in_the_middle() -> None:
        before.extend(replica.answered() for replica in servers)
        getattr(busiest().process, end)()

    def busiest() -> Replica:
        return servers[before.index(max(before))]

    with balancer(servers, tmp_path) as address:
        answers = under_load(address, retry, in_the_middle)

    assert answers == [expected[number % len(TEXTS)] for number in range(NUM_CALLS)]
    # One call was for warming up. The one that ended had calls to lose, the others went on.
    assert min(before) > 1
    assert all(
        replica.answered() > had
        for replica, had in zip(servers, before, strict=True)
        if replica is not busiest()
    )
