"""Our clients with real servers: several of them, TLS, tokens."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from attendant import (
    AsyncClient,
    AttendantError,
    Client,
    RetryPolicy,
    Tls,
    Unauthenticated,
    Unavailable,
)
from attendant.addresses import resolve
from attendant.cli import main
from service.server import Server
from tests.service.authority import Authority, Files
from tests.service.conftest import StartServer, total, write_translator
from tests.service.test_process import running
from tests.service.test_security import TOKEN, hash_line

ONCE = RetryPolicy(max_attempts=1)
TWICE = RetryPolicy(max_attempts=2)

Translate = Callable[[str], Any]


def address(server: Server, host: str = "127.0.0.1") -> str:
    return f"{host}:{server.grpc_port}"


def answered(server: Server) -> int:
    labels = {"grpc_method": "Translate", "grpc_code": "OK"}
    return round(total(server.metrics, "grpc_server_handled_total", **labels))


@asynccontextmanager
async def client_of(kind: str, target: Any, **options: Any) -> AsyncIterator[Translate]:
    """Translates one text, by either client, the blocking one in a thread."""
    if kind == "aio":
        async with AsyncClient(target, **options) as client:
            yield client.translate
    else:
        with Client(target, **options) as blocking:
            yield lambda text: asyncio.to_thread(blocking.translate, text)


@pytest.fixture
async def servers(start_server: StartServer) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(start_server()) for _ in range(2)]


async def shares(translate: Translate, servers: list[Server], count: int = 20) -> list[int]:
    """How many of so many calls each server answers."""
    before = list(map(answered, servers))
    for _ in range(count):
        await translate("x")
    return [answered(server) - known for server, known in zip(servers, before, strict=True)]


async def until_shared(translate: Translate, servers: list[Server], expected: list[int]) -> None:
    """News of health takes a moment."""
    async with asyncio.timeout(30):
        while await shares(translate, servers) != expected:
            await asyncio.sleep(0.01)


async def until_answered(server: Server, count: int) -> None:
    async with asyncio.timeout(30):
        while answered(server) < count:
            await asyncio.sleep(0.001)


async def until_refused(translate: Translate) -> str:
    """The last word of why."""
    while True:
        try:
            await translate("x")
        except Unavailable as error:
            return error.message.split()[-1]


def say(server: Server, is_serving: bool) -> None:
    server._health.set({"": is_serving})


@pytest.mark.parametrize("kind", ["blocking", "aio"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_calls_go_round_the_servers_that_say_they_are_serving(
    servers: list[Server], kind: str, host: str
) -> None:
    """No retry: what is refused or lost would be an error."""
    targets = [address(server, host) for server in servers]
    async with client_of(kind, targets, retry=ONCE) as translate:
        await until_shared(translate, servers, [10, 10])
        say(servers[0], False)
        await until_shared(translate, servers, [0, 20])
        say(servers[0], True)
        await until_shared(translate, servers, [10, 10])
        for server in servers:
            say(server, False)
        async with asyncio.timeout(30):
            assert await until_refused(translate) == "unhealthy"


@pytest.mark.parametrize("kind", ["blocking", "aio"])
async def test_a_server_that_drains_under_load_loses_no_call(
    start_server: StartServer, kind: str
) -> None:
    """Without retries: the pause lets the client notice before anything is refused."""
    settings = {"drain_pause_seconds": 0.5, "drain_seconds": 30.0}
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(start_server(**settings)) for _ in range(2)]
        targets = list(map(address, servers))
        translate = await stack.enter_async_context(client_of(kind, targets, retry=ONCE))
        await until_shared(translate, servers, [10, 10])
        drained = asyncio.create_task(servers[0].drain())
        count = 0
        while not drained.done():
            translations = await asyncio.gather(*(translate(f"text {i}") for i in range(8)))
            assert [one.text for one in translations] == [f"TEXT {i}" for i in range(8)]
            count += 8
        await drained
        assert count > 50
        assert await shares(translate, servers) == [0, 20]


@pytest.mark.parametrize("kind", ["blocking", "aio"])
async def test_a_call_that_comes_while_its_server_stops_is_tried_again(
    start_server: StartServer, kind: str
) -> None:
    """gRPC itself says CANCELLED to it, which the client once took for the last word."""
    for _ in range(5):
        async with (
            start_server() as server,
            client_of(kind, address(server), retry=TWICE) as translate,
        ):

            async def call_until_it_ends(translate: Any) -> str:
                try:
                    while True:
                        await translate("x")
                except AttendantError as error:
                    return type(error).__name__

            ended = [asyncio.create_task(call_until_it_ends(translate)) for _ in range(8)]
            await until_answered(server, 50)
            await server.drain()
            assert await asyncio.gather(*ended) == ["Unavailable"] * 8


@pytest.mark.parametrize("kind", ["blocking", "aio"])
async def test_a_server_that_is_killed_under_load_fails_no_call_of_a_client_that_retries(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    write_translator(tmp_path / "other")
    async with start_server() as server, running(tmp_path / "other") as (process, _):
        (line,) = (one["message"] for one in process.lines if "gRPC port" in one["message"])
        port = line.split("gRPC port ")[1].split(",")[0]
        async with client_of(kind, [address(server), f"127.0.0.1:{port}"]) as translate:
            async with asyncio.timeout(30):  # until both are connected, and share
                while await shares(translate, [server]) != [10]:
                    pass
            process.process.send_signal(signal.SIGKILL)
            for _ in range(10):
                translations = await asyncio.gather(*(translate(f"text {i}") for i in range(8)))
                assert [one.text for one in translations] == [f"TEXT {i}" for i in range(8)]


async def test_a_list_of_one_is_balanced_too_and_an_address_alone_is_not(
    servers: list[Server],
) -> None:
    """So that a server that does not serve can be asked why."""
    say(servers[0], False)
    target = address(servers[0])
    async with client_of("aio", target, retry=ONCE) as translate:
        assert (await translate("x")).text == "X"
    async with client_of("aio", [target], retry=ONCE) as translate:
        with pytest.raises(Unavailable, match="unhealthy"):
            await translate("x")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["127.0.0.1:1", "127.0.0.2:2"], "ipv4:127.0.0.1:1,127.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
        (["dns:///host:1"], "dns:///host:1"),
    ],
)
def test_several_addresses_are_one_target(targets: list[str], expected: str) -> None:
    assert resolve(targets)[0] == expected


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ([], "found none"),
        (["127.0.0.1:1", "127.0.0.2"], "expected HOST:PORT, found 127.0.0.2"),
        (["127.0.0.1:1", "[::1]:1"], "IPv4 or IPv6 addresses alone, found both"),
    ],
)
def test_addresses_that_cannot_be_one_target_are_refused(
    targets: list[str], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Client(targets)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def mutual(authority: Authority, tmp_path: Path, name: str = "server") -> dict[str, Any]:
    """Settings of a server that wants everything."""
    files = authority.issue(name)
    (tmp_path / "tokens").write_text(hash_line(TOKEN, "alice"))
    return {
        **{"tls_certificate": files.certificate, "tls_key": files.key},
        **{"tls_client_ca": authority.ca, "tokens": tmp_path / "tokens"},
    }


def shown(authority: Authority, files: Files, **more: Any) -> Tls:
    return Tls(authority.ca, files.certificate, files.key, **more)


@pytest.mark.parametrize("kind", ["blocking", "aio"])
async def test_a_client_with_a_certificate_and_a_token_is_let_in(
    start_server: StartServer, authority: Authority, tmp_path: Path, kind: str
) -> None:
    own = authority.issue("service-a")
    async with start_server(**mutual(authority, tmp_path)) as server:
        tls = shown(authority, own)
        for target in (address(server, "localhost"), [address(server)] * 2):
            async with client_of(kind, target, tls=tls, token=TOKEN) as translate:
                assert (await translate("x")).text == "X"
        async with client_of(kind, address(server), tls=tls, token="wrong") as translate:
            with pytest.raises(Unauthenticated) as refused:
                await translate("x")
            assert refused.value.reason == "UNAUTHENTICATED"
        for given in ({"tls": Tls(authority.ca)}, {}):
            async with client_of(kind, address(server), retry=ONCE, **given) as translate:
                with pytest.raises(Unavailable):
                    await translate("x")


async def test_a_server_is_believed_by_the_name_in_its_certificate(
    start_server: StartServer, authority: Authority, tmp_path: Path
) -> None:
    own = authority.issue("service-a")
    async with start_server(**mutual(authority, tmp_path, "attendant.internal")) as server:
        for name, is_believed in (("attendant.internal", True), ("another.internal", False)):
            tls = shown(authority, own, server_name=name)
            target = [address(server)] * 2
            async with client_of("aio", target, tls=tls, token=TOKEN, retry=ONCE) as translate:
                if is_believed:
                    assert (await translate("x")).text == "X"
                else:
                    with pytest.raises(Unavailable):
                        await translate("x")


def test_half_of_a_certificate_is_refused(authority: Authority) -> None:
    with pytest.raises(ValueError, match="needed together"):
        Client(tls=Tls(certificate=authority.ca))
    with pytest.raises(ValueError, match="expected credentials or tls, found both"):
        Client(tls=Tls(), credentials=Tls().credentials())


async def test_the_command_has_flags_for_all_of_it(
    start_server: StartServer,
    authority: Authority,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = authority.issue("service-a")
    (tmp_path / "token").write_text(TOKEN)
    async with start_server(**mutual(authority, tmp_path)) as server:
        flags = [
            *("--target", f"{address(server)},{address(server)}", "--tls-ca", str(authority.ca)),
            *("--tls-certificate", str(own.certificate), "--tls-key", str(own.key)),
            *("--tls-server-name", "server", "--token-file", str(tmp_path / "token")),
        ]
        assert await asyncio.to_thread(main, ["translate", "x", *flags]) == 0
        assert capsys.readouterr().out == "X\n"
        assert await asyncio.to_thread(main, ["health", *flags]) == 0
        assert await asyncio.to_thread(main, ["translate", "x", *flags[:-2]]) == 1
        assert "UNAUTHENTICATED" in capsys.readouterr().err
        assert await asyncio.to_thread(main, ["health", *flags[:4], "--tls-key", "nowhere"]) == 2
