"""How a client knows its server, and shows who it is: files, as PEM."""

import os
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """An encrypted connection.

    `ca` are the authorities whose servers are believed, by default gRPC's own list; `certificate`
    and `key` are what the client shows if the server asks; `server_name` is the name that the
    server's certificate has to have, if it is not that of the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises OSError, and ValueError for a certificate without its key."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate and its key are needed together")
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return Path(path).read_bytes() if path is not None else None
