"""TLS, client certificates and tokens on both ports; who is called what; what stays open."""

import asyncio
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from attendant.v1 import model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc
from service.access import TokenFile
from service.callers import current_caller
from service.server import Server
from service.settings import Settings
from tests.service.authority import Authority, Files
from tests.service.conftest import StartServer, open_channel, total
from tests.service.fakes import FakeTranslator

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef0123456789abcdef"
SERVING = health_pb2.HealthCheckResponse.SERVING


def hash_line(token: str, name: str) -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()} {name}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may call\n\n{hash_line('other', 'bob')}{hash_line(TOKEN, 'alice')}")
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(authority: Authority) -> dict[str, Any]:
    """Settings of a server with a certificate."""
    files = authority.issue("server")
    return {"tls_certificate": files.certificate, "tls_key": files.key}


@asynccontextmanager
async def secure_channel(
    server: Server, ca: Path, files: Files | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(),
        files.key.read_bytes() if files else None,
        files.certificate.read_bytes() if files else None,
    )
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    target = f"127.0.0.1:{server.grpc_port}"
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        yield channel


def translate(channel: grpc.aio.Channel, text: str = "x", **metadata: str) -> Any:
    stub: Any = translation_pb2_grpc.TranslationServiceStub(channel)
    request = translation_pb2.TranslateRequest(contents=[text])
    return stub.Translate(request, metadata=tuple(metadata.items()), timeout=30)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def code_of(call: Any) -> str:
    """The status of a call, and of an error of ours that it carries its reason."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            assert b"UNAUTHENTICATED" in details
        return str(error.code().name)
    return "OK"


async def health_of(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)).status)


class Http:
    """What a path answers, by its status code."""

    def __init__(self, server: Server, context: ssl.SSLContext | None = None) -> None:
        scheme = "https" if context else "http"
        self._url = f"{scheme}://127.0.0.1:{server.http_port}"
        self._context = context

    async def code(self, path: str, body: Any = None, **headers: str) -> int:
        method = "POST" if body is not None else "GET"
        async with (
            aiohttp.ClientSession(self._url) as session,
            session.request(
                method, path, json=body, headers=headers, ssl=self._context or False
            ) as response,
        ):
            if response.status == 401:
                assert response.headers["WWW-Authenticate"] == "Bearer"
                error = (await response.json())["error"]
                assert error["details"][0]["reason"] == error["status"] == "UNAUTHENTICATED"
            return response.status


BODY = {"contents": ["x"]}


def client_context(ca: Path, files: Files | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


def _probe(server: Server, context: ssl.SSLContext, session: Any) -> tuple[bool, Any]:
    with (
        socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure,
    ):
        secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return secure.recv(1000).startswith(b"HTTP/1.1 200"), secure.session
        except ssl.SSLError:  # TLS 1.3 refuses a certificate after the handshake
            return False, None


async def probe(server: Server, context: ssl.SSLContext, session: Any = None) -> tuple[bool, Any]:
    """Whether the HTTP port answers, in a session that is resumed if it can be; the session."""
    return await asyncio.to_thread(_probe, server, context, session)


@pytest.mark.parametrize(
    "metadata",
    [{}, bearer("wrong"), bearer(""), bearer(TOKEN[:-1]), {"authorization": f"Basic {TOKEN}"}],
)
async def test_a_call_without_a_known_token_is_refused(
    start_server: StartServer, tokens: Path, metadata: dict[str, str]
) -> None:
    async with start_server(tokens=tokens) as server, open_channel(server) as channel:
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        inference = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        stream: Any = translation_pb2_grpc.TranslationServiceStub(channel)
        given = {"metadata": tuple(metadata.items()), "timeout": 30}
        calls = [
            translate(channel, **metadata),
            models.ListModels(model_pb2.ListModelsRequest(), **given),
            inference(b"", **given),
            stream.StreamTranslate(translation_pb2.StreamTranslateRequest(), **given).read(),
            # No message: gRPC's asyncio client calls one that it writes too late INTERNAL.
            reflection.ServerReflectionInfo(**given).read(),
        ]
        assert [await code_of(call) for call in calls] == ["UNAUTHENTICATED"] * len(calls)
        http = Http(server)
        assert await http.code("/v1/translate", BODY, **metadata) == 401
        assert await http.code("/v1/classify", {}, **metadata) == 401
        assert await http.code("/metrics", **metadata) == 401
        assert await http.code("/nothing", **metadata) == 401
        refused = {"grpc_code": "UNAUTHENTICATED"}
        assert total(server.metrics, "grpc_server_handled_total", **refused) == len(calls)


async def test_a_known_token_opens_both_ports(start_server: StartServer, tokens: Path) -> None:
    async with start_server(tokens=tokens) as server, open_channel(server) as channel:
        assert await code_of(translate(channel, **bearer(TOKEN))) == "OK"
        assert await code_of(translate(channel, authorization=f"bearer {TOKEN}")) == "OK"
        for path, body in (("/v1/translate", BODY), ("/metrics", None)):
            assert await Http(server).code(path, body, **bearer(TOKEN)) == 200


async def test_a_message_is_not_read_before_its_caller_is_known(
    start_server: StartServer, tokens: Path
) -> None:
    async with start_server(tokens=tokens) as server, open_channel(server) as channel:
        # Headers alone: whoever waits for the message, waits for ever.
        method: Any = channel.stream_unary("/attendant.v1.TranslationService/Translate")
        call = method(metadata=(("authorization", "Bearer wrong"),), timeout=30)
        assert await code_of(call) == "UNAUTHENTICATED"


async def test_probes_need_no_token(start_server: StartServer, tokens: Path) -> None:
    async with start_server(tokens=tokens, open_metrics=True) as server:
        async with open_channel(server) as channel:
            assert await health_of(channel) == SERVING
        for path in ("/healthz", "/readyz", "/metrics"):
            assert await Http(server).code(path) == 200


async def test_tokens_are_read_again_when_their_file_changes(
    start_server: StartServer, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with start_server(tokens=tokens) as server, open_channel(server) as channel:
        tokens.write_text(hash_line("new", "carol"))
        assert await code_of(translate(channel, **bearer("new"))) == "OK"
        assert await code_of(translate(channel, **bearer(TOKEN))) == "UNAUTHENTICATED"
        tokens.write_text("plainly-written-token dave\n")
        assert await code_of(translate(channel, **bearer("new"))) == "OK"
        assert "cannot be read again" in caplog.text
        assert "plainly" not in caplog.text


def test_a_file_of_tokens_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"{hash_line('x', 'ok')}plainly-written-token dave\n")
    with pytest.raises(ValueError, match="line 2: expected the SHA-256") as caught:
        Server(Settings(tokens=path))
    assert "plainly" not in str(caught.value)
    with pytest.raises(OSError, match="nothing"):
        Server(Settings(tokens=tmp_path / "nothing"))


def test_every_hash_is_compared_whichever_fits(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In constant time each, and all of them: the time tells neither a prefix nor a place."""
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def noted(known: bytes, found: bytes) -> bool:
        compared.append(known)
        return compare(known, found)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    known = TokenFile(tokens)
    names = [known.name_of(token) for token in ("other", TOKEN, "wrong")]
    assert names == ["bob", "alice", None]
    assert compared == [hashlib.sha256(token.encode()).digest() for token in ("other", TOKEN)] * 3


async def test_plaintext_is_refused_where_there_is_tls(
    start_server: StartServer, authority: Authority, tls: dict[str, Any]
) -> None:
    async with start_server(**tls) as server:
        async with open_channel(server) as channel:
            assert await code_of(translate(channel)) == "UNAVAILABLE"
        with pytest.raises(aiohttp.ClientError):
            await Http(server).code("/healthz")
        async with secure_channel(server, authority.ca) as channel:
            assert await code_of(translate(channel)) == "OK"
        http = Http(server, client_context(authority.ca))
        assert await http.code("/v1/translate", BODY) == 200


async def test_mutual_tls_takes_certificates_of_its_authority_alone(
    start_server: StartServer, authority: Authority, tls: dict[str, Any], tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("mallory")
    own = authority.issue("service-a")
    mutual = {**tls, "tls_client_ca": authority.ca}
    async with start_server(**mutual) as server:
        for files, code in ((own, "OK"), (stranger, "UNAVAILABLE"), (None, "UNAVAILABLE")):
            async with secure_channel(server, authority.ca, files) as channel:
                assert await code_of(translate(channel)) == code
        http = Http(server, client_context(authority.ca, own))
        assert await http.code("/v1/translate", BODY) == 200
        assert await http.code("/metrics") == 200
        http = Http(server, client_context(authority.ca))
        assert await http.code("/v1/translate", BODY) == 401
        assert await http.code("/metrics") == 401
        assert await http.code("/readyz") == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await Http(server, client_context(authority.ca, stranger)).code("/readyz")


async def test_the_health_port_is_plaintext_and_has_health_alone(
    start_server: StartServer, authority: Authority, tls: dict[str, Any], tokens: Path
) -> None:
    mutual = {**tls, "tls_client_ca": authority.ca, "tokens": tokens, "health_port": 0}
    async with start_server(**mutual) as server:
        target = f"127.0.0.1:{server.health_port}"
        async with grpc.aio.insecure_channel(target) as channel:
            assert await health_of(channel) == SERVING
            assert await code_of(translate(channel, **bearer(TOKEN))) == "UNIMPLEMENTED"


async def test_certificates_are_read_again_when_their_files_change(
    start_server: StartServer,
    authority: Authority,
    tls: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both ports, for new connections; the file of authorities, too; half a change is none."""
    files = Files(tls["tls_certificate"], tls["tls_key"])
    client = authority.issue("client")
    accepted = tmp_path / "accepted.pem"
    accepted.write_bytes(authority.ca.read_bytes())
    async with start_server(**tls, tls_client_ca=accepted) as server:

        async def works(trusted: Authority, shown: Files) -> list[bool]:
            async with secure_channel(server, trusted.ca, shown) as channel:
                by_grpc = await code_of(translate(channel)) == "OK"
            try:
                context = client_context(trusted.ca, shown)
                by_http = await Http(server, context).code("/v1/translate", BODY) == 200
            except (aiohttp.ClientError, ssl.SSLError):
                by_http = False
            return [by_grpc, by_http]

        assert await works(authority, client) == [True, True]
        renewed = Authority(tmp_path, "renewed")
        others = renewed.issue("client-of-the-renewed")
        key = files.key.read_bytes()
        renewed.issue("server", into=files)
        new_key = files.key.read_bytes()
        files.key.write_bytes(key)
        assert await works(authority, client) == [True, True]
        assert "cannot be read again" in caplog.text
        files.key.write_bytes(new_key)
        assert await works(renewed, client) == [True, True]
        assert await works(authority, client) == [False, False]
        assert await works(renewed, others) == [False, False]
        context = client_context(renewed.ca, client)
        was_served, session = await probe(server, context)
        accepted.write_bytes(renewed.ca.read_bytes())
        assert await works(renewed, others) == [True, True]
        assert await works(renewed, client) == [False, False]
        # Nor is who was known before the change: a session that is resumed is not verified again.
        is_served, _ = await probe(server, context, session)
        assert (was_served, is_served) == (True, False)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tls_certificate": "a"}, "tls_certificate and tls_key are needed together"),
        ({"tls_key": "a"}, "tls_certificate and tls_key are needed together"),
        ({"tls_client_ca": "a"}, "tls_client_ca needs tls_certificate and tls_key"),
    ],
)
def test_half_of_tls_is_refused(given: dict[str, str], complaint: str) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    with pytest.raises(SystemExit, match=complaint):
        Settings.load(flags)


async def test_files_that_are_no_certificates_end_the_start_with_a_line(
    authority: Authority, tls: dict[str, Any]
) -> None:
    wrong = authority.issue("other").key
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "--grpc-port", "0", "--http-port", "0"),
        *("--tls-certificate", str(tls["tls_certificate"]), "--tls-key", str(wrong)),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    last = errors.decode().splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("attendant-server: expected a certificate, its unencrypted key")


class Named(FakeTranslator):
    """Answers with the name of its caller."""

    async def _suffer(self, text: str) -> None:
        self.callers = [*getattr(self, "callers", ()), current_caller.get()]


async def test_the_engine_learns_the_caller_s_name(
    start_server: StartServer,
    fakes: dict[str, FakeTranslator],
    authority: Authority,
    tls: dict[str, Any],
    tokens: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.service.conftest.FakeTranslator", Named)
    own, unnamed = authority.issue("service-a"), authority.issue("service-b", common_name=False)
    mutual = {**tls, "tls_client_ca": authority.ca, "caller_metadata": "X-Team"}

    async def called(server: Server, files: Files | None, **metadata: str) -> list[str]:
        if files is None:
            async with open_channel(server) as channel:
                await translate(channel, **metadata)
            http = Http(server)
        else:
            async with secure_channel(server, authority.ca, files) as channel:
                await translate(channel, **metadata)
            http = Http(server, client_context(authority.ca, files))
        assert await http.code("/v1/translate", BODY, **metadata) == 200
        return list(fakes["en-de"].callers[-2:])  # type: ignore[attr-defined]

    team = {"x-team": "blue"}
    async with start_server(**mutual, tokens=tokens) as server:
        assert await called(server, own, **bearer(TOKEN), **team) == ["alice"] * 2
    async with start_server(**mutual) as server:
        assert await called(server, own, **team) == ["service-a"] * 2
        assert await called(server, unnamed, **team) == ["service-b"] * 2
    async with start_server(caller_metadata="X-Team") as server:
        assert await called(server, None, **team) == ["blue"] * 2
        assert await called(server, None) == [""] * 2
    async with start_server() as server:
        assert await called(server, None, **team) == [""] * 2


def test_the_documented_line_makes_a_token_and_its_hash(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "security.md").read_text()
    line = next(line for line in document.splitlines() if "secrets" in line)
    made = subprocess.run(
        ["bash", "-c", line.replace("python3", sys.executable)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    token = made.stdout.strip()
    (tmp_path / "tokens.txt").read_text()
    server = Server(Settings(tokens=tmp_path / "tokens.txt"))
    assert server._access.check_token(f"Bearer {token}") == "alice"
    assert len(token) >= 43
    assert json.dumps(token) not in (tmp_path / "tokens.txt").read_text()
