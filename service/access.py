"""Who may call, and by which name: bearer tokens, client certificates, a metadata key.

A token is 32 random bytes or more, so that one round of SHA-256 keeps it: nobody can try them all.
Its file has a line a token, `SHA-256 NAME`; white space and lines with # are passed over.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import Unauthenticated
from service.settings import Settings
from service.watched import WatchedFiles

_LINE = re.compile(r"(?P<hash>[0-9a-f]{64})\s+(?P<name>[\w.@/-]{1,128})", re.ASCII)
_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of both ports. Without tokens every caller may call."""

    tokens: "TokenFile | None"
    needs_certificate: bool
    caller_metadata: str

    @classmethod
    def of(cls, settings: Settings) -> "Access":
        """By the settings. Raises OSError or ValueError if the file of tokens cannot be used."""
        return cls(
            tokens=TokenFile(settings.tokens) if settings.tokens is not None else None,
            needs_certificate=settings.tls_client_ca is not None,
            caller_metadata=settings.caller_metadata.lower(),
        )

    def check_token(self, authorization: str | None) -> str:
        """The name of the token in the header `authorization`, or "" where none is needed.

        Raises Unauthenticated.
        """
        if self.tokens is None:
            return ""
        if authorization is None or not authorization.lower().startswith(_BEARER):
            raise Unauthenticated("expected a token: authorization: Bearer TOKEN")
        name = self.tokens.name_of(authorization[len(_BEARER) :].strip())
        if name is None:
            raise Unauthenticated("the token is none of those that may call")
        return name

    def name_caller(self, token: str, certificate: str, metadata: Mapping[str, object]) -> str:
        """The best name there is: the token's, the certificate's, or what the caller says."""
        if token or certificate or not self.caller_metadata:
            return token or certificate
        said = metadata.get(self.caller_metadata)
        return said if isinstance(said, str) and _NAME.fullmatch(said) else ""


class TokenFile(WatchedFiles[tuple[tuple[bytes, str], ...]]):
    """Hashes of tokens and the names of their callers. Raises OSError or ValueError."""

    def __init__(self, path: Path) -> None:
        super().__init__((path,), lambda: tuple(_lines(path)))

    def name_of(self, token: str) -> str | None:
        """Whose token it is. Takes as long whichever it is, and if it is none."""
        found = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        names = [name for known, name in self.current() if hmac.compare_digest(known, found)]
        return names[0] if names else None


def _lines(path: Path) -> Iterable[tuple[bytes, str]]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: byte {error.start}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:  # and not a word of it: it may be a token that was written plainly
                raise ValueError(
                    f"{path}, line {number}: expected the SHA-256 of a token (64 characters, "
                    "0 to 9 and a to f) and a name"
                )
            yield bytes.fromhex(match["hash"]), match["name"]
