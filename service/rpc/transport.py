"""How gRPC listens: the options of its connections, TLS, ports."""

import grpc
import grpc.aio

from service.certificates import CertificateFiles, Certificates
from service.settings import Settings


def options_of(settings: Settings) -> list[tuple[str, int]]:
    """A server's options."""
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Otherwise a second server on the port would silently get half of the calls.
        ("grpc.so_reuseport", 0),
        # Both ways: also ask for a sign of life where no call runs, and let clients do so.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        # Tried on grpcio 1.85: without this one the timeout above is never acted on.
        ("grpc.http2.ping_timeout_ms", _milliseconds(settings.keepalive_timeout_seconds)),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(settings.min_ping_seconds),
        ),
    ]
    for name, seconds in (
        ("grpc.max_connection_age_ms", settings.max_connection_age_seconds),
        ("grpc.max_connection_idle_ms", settings.max_connection_idle_seconds),
    ):
        if seconds:
            options.append((name, _milliseconds(seconds)))
    grace = _milliseconds(settings.max_connection_age_grace_seconds)
    options.append(("grpc.max_connection_age_grace_ms", grace))
    if settings.max_concurrent_streams:
        options.append(("grpc.max_concurrent_streams", settings.max_concurrent_streams))
    return options


def _milliseconds(seconds: float) -> int:
    """As gRPC's options have it, and no more than fits there."""
    return min(round(seconds * 1000), 2**31 - 1)


def listen(server: grpc.aio.Server, host: str, port: int, files: CertificateFiles | None) -> int:
    """Open a port, with TLS if there are files for it, and return it. Raises OSError."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(files))
    except RuntimeError as error:
        raise OSError(
            f"cannot listen on {address}: the port is taken, or no address of this machine"
        ) from error


def _credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """gRPC asks before each handshake for what the files hold."""
    return grpc.dynamic_ssl_server_credentials(
        _configuration(files.current()),
        lambda: _configuration(files.current()),
        require_client_authentication=files.needs_client_certificate,
    )


def _configuration(found: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(found.key, found.chain)], root_certificates=found.client_ca
    )
