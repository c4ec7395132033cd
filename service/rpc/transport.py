"""How gRPC listens: the options of its connections, TLS, ports."""

import grpc
import grpc.aio

from service.certificates import CertificateFiles, Certificates
from service.settings import Settings


def options_of(settings: Settings) -> list[tuple[str, int]]:
    """A server's options."""
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # Otherwise a second server on the port would silently get half of the calls.
        ("grpc.so_reuseport", 0),
        # Let clients that keep idle connections alive ping every 30 s (gRPC's own limit is 5 min).
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ]


def listen(server: grpc.aio.Server, host: str, port: int, files: CertificateFiles | None) -> int:
    """Open a port, with TLS if there are files for it, and return it. Raises OSError."""
    address = f"{host}:{port}"
    try:
        if files is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(files))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is the port taken?") from error


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
