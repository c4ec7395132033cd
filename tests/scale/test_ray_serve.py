"""Attendant on a Ray cluster of two nodes: what callers see is what our own server shows them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from attendant import Client, InvalidArgument, NotFound
from attendant.v1 import translation_pb2, translation_pb2_grpc
from tests.scale.ray_cluster import RayCluster, counted, ray_nodes, wait_for
from tests.scale.replicas import ROOT
from tests.scale.test_balancing import TEXTS

pytestmark = pytest.mark.slow

NUM_CALLERS = 8
NUM_CALLS = 1200
TRANSLATED = r'grpc_server_handled_total\{.*grpc_code="OK".*grpc_method="Translate".*\}'
CLASSIFIED = r'grpc_server_handled_total\{.*grpc_code="OK".*grpc_method="Classify".*\}'
LEFT = r'grpc_server_handled_total\{.*grpc_code="CANCELLED".*grpc_method="%s".*\}'
RUNNING = r"attendant_rows_running\{.*\}"
SHIP = str(ROOT / "examples" / "ship.jpg")


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    with ray_nodes() as cluster:
        cluster.start_application()
        yield cluster


@pytest.fixture
def cluster(nodes: RayCluster) -> RayCluster:
    nodes.complete()
    return nodes


@pytest.fixture
def client(cluster: RayCluster) -> Iterator[Client]:
    with Client(cluster.proxies[0]) as client:
        yield client


def counts(cluster: RayCluster, pattern: str) -> list[int]:
    return [counted(port, pattern) for port in cluster.replicas()]


def test_a_node_that_is_killed_under_load_loses_no_call(
    cluster: RayCluster, client: Client
) -> None:
    """Of the calls that run then, some are of callers of that node's proxy, which see their
    connection end, and some of the other's, which is told that a replica has died.
    """
    expected = [client.translate(text, beam_size=4).text for text in TEXTS]
    before = counts(cluster, TRANSLATED)
    answered = threading.Semaphore(0)

    def call(caller: Client, number: int) -> str:
        text = caller.translate(TEXTS[number % len(TEXTS)], beam_size=4).text
        answered.release()
        return text

    # Half of the callers begin at each of the proxies, all can go to either.
    callers = [Client(cluster.proxies) for _ in range(NUM_CALLERS)]
    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        calls = [
            pool.submit(call, callers[number % NUM_CALLERS], number) for number in range(NUM_CALLS)
        ]
        try:
            for _ in range(NUM_CALLS // 2):
                assert answered.acquire(timeout=60)
            shares = counts(cluster, TRANSLATED)
            cluster.kill_node()
            answers = [each.result() for each in calls]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for caller in callers:
        caller.close()

    assert answers == [expected[number % len(TEXTS)] for number in range(NUM_CALLS)]
    assert all(now - had > NUM_CALLS // 8 for now, had in zip(shares, before, strict=True))


def test_calls_that_run_bring_a_second_replica(cluster: RayCluster) -> None:
    assert cluster.num_replicas_without_load == 1
    assert len(cluster.replicas()) == 2


def test_an_error_says_what_it_says_without_ray(client: Client) -> None:
    with pytest.raises(NotFound) as unary:
        client.translate("Two dogs.", model="none", request_id="mine")
    with pytest.raises(NotFound) as streamed:
        list(client.translate_stream("Two dogs.", model="none", request_id="mine"))
    with pytest.raises(InvalidArgument) as option:
        client.translate("Two dogs.", beam_size=1000)

    assert unary.value.reason == streamed.value.reason == "MODEL_NOT_FOUND"
    assert str(unary.value) == str(streamed.value)
    assert option.value.field_violations[0].field == "options.beam_size"


def test_a_message_that_is_none_is_refused_as_without_ray(cluster: RayCluster) -> None:
    with grpc.insecure_channel(cluster.proxies[0]) as channel:
        call = channel.unary_unary("/attendant.v1.TranslationService/Translate")
        with pytest.raises(grpc.RpcError) as failure:
            call(b"\xff", timeout=30)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the 1 bytes are no request of Translate" in failure.value.details()


def test_a_stream_comes_word_by_word(client: Client) -> None:
    *events, finished, summary = client.translate_stream(TEXTS[0], beam_size=1)

    assert len(events) > 1
    assert "".join(event.text for event in events) == finished.translation.text
    assert summary.model == "captions-en-de"


@pytest.mark.parametrize("method", ["Translate", "StreamTranslate"])
def test_a_caller_that_leaves_frees_its_rows(cluster: RayCluster, method: str) -> None:
    request = translation_pb2.TranslateRequest(contents=TEXTS * 300)
    request.options.beam_size = 8
    with grpc.insecure_channel(cluster.proxies[0]) as channel:
        stub = translation_pb2_grpc.TranslationServiceStub(channel)
        if method == "Translate":
            call = stub.Translate.future(request)
        else:
            call = stub.StreamTranslate(translation_pb2.StreamTranslateRequest(request=request))
        wait_for(lambda: sum(counts(cluster, RUNNING)) > 0)
        call.cancel()

        wait_for(lambda: sum(counts(cluster, LEFT % method)) == 1)
        wait_for(lambda: sum(counts(cluster, RUNNING)) == 0)


def test_calls_for_a_model_go_where_it_has_been_loaded(cluster: RayCluster, client: Client) -> None:
    """Ray's proxies hear of it a moment later, so that the first calls may go anywhere."""

    def go_to_one_replica() -> bool:
        before = counts(cluster, CLASSIFIED)
        for _ in range(16):
            client.classify(SHIP, model="cifar10", metadata={"multiplexed_model_id": "cifar10"})
        after = counts(cluster, CLASSIFIED)
        return 16 in [now - had for now, had in zip(after, before, strict=True)]

    assert any(go_to_one_replica() for _ in range(4))
