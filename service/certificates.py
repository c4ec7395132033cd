"""The server's certificate, its key, and the authorities of its callers' certificates: PEM files.

Both ports ask before each handshake whether they have changed.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.settings import Settings
from service.watched import WatchedFiles


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files that belong together: `context` is for HTTP, the rest for gRPC."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class CertificateFiles(WatchedFiles[Certificates]):
    """The files that the settings name. Raises OSError or ValueError if they cannot be used."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        def read() -> Certificates:
            return _read(certificate, key, client_ca)

        self.needs_client_certificate = client_ca is not None
        super().__init__(tuple(filter(None, (certificate, key, client_ca))), read)

    @classmethod
    def of(cls, settings: Settings) -> "CertificateFiles | None":
        """None where the settings name no certificate: both ports are plaintext."""
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)

    def http_context(self) -> ssl.SSLContext:
        """A context that hands each new connection over to that of the files as they are then.

        A client certificate is asked for and verified, but not demanded: probes have none, and the
        routes that want one say so.
        """

        def hand_over(connection: Any, server_name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self.current().context

        context = _read_context(*self._paths)
        context.sni_callback = hand_over
        return context


def _read(certificate: Path, key: Path, client_ca: Path | None) -> Certificates:
    return Certificates(
        chain=certificate.read_bytes(),
        key=key.read_bytes(),
        client_ca=client_ca.read_bytes() if client_ca is not None else None,
        context=_read_context(certificate, key, client_ca),
    )


def _read_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Also the check that key and certificate belong together. Raises OSError or ValueError."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Whoever resumes a session is not verified again: its authority may have gone since.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        # A key that is encrypted is refused; without this OpenSSL would ask the terminal.
        context.load_cert_chain(certificate, key, password=b"")
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except ssl.SSLError as error:
        names = ", ".join(str(path) for path in (certificate, key, client_ca) if path is not None)
        raise ValueError(
            f"expected a certificate, its unencrypted key and authorities in {names}, "
            f"found: {error.reason or error}"
        ) from error
    return context
