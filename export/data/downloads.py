"""Files from the web: a broken download goes on where it broke; a file is whole or not there."""

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ATTEMPTS = 5
TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file below a base address; `sha256` is what its content must have, None where unknown."""

    name: str
    sha256: str | None = None


def download(file: RemoteFile, base: str, folder: Path) -> Path:
    """Fetch a file into the folder, unless it is there already.

    What has arrived waits in NAME.partial. Raises ValueError where the content is not what it must
    be, OSError where it cannot be had.
    """
    path = folder / file.name
    if path.exists() and _is_right(path, file):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{file.name}.partial"
    _fetch(f"{base.rstrip('/')}/{file.name}", partial)
    if not _is_right(partial, file):
        partial.unlink()
        raise ValueError(f"{base} has another {file.name}: expected sha256 {file.sha256}")
    return partial.replace(path)


def _is_right(path: Path, file: RemoteFile) -> bool:
    if file.sha256 is None:
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _fetch(url: str, partial: Path) -> None:
    """Append what is missing until nothing is; a connection may break a few times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if _append(url, partial):
                return
        except (http.client.HTTPException, urllib.error.URLError, TimeoutError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == ATTEMPTS:
                raise OSError(f"cannot download {url}: {error}") from error
    raise OSError(f"cannot download {url}: the connection broke {ATTEMPTS} times")


def _append(url: str, partial: Path) -> bool:
    """One request. Returns whether the file is complete now."""
    begin = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Either all of it is here, or it has become shorter.
        if error.headers.get("Content-Range") == f"bytes */{begin}":
            return True
        partial.unlink()
        return False
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            begin = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        with partial.open("r+b" if begin else "wb") as stream:
            stream.seek(begin)
            while chunk := response.read(CHUNK_BYTES):
                stream.write(chunk)
            return length is None or stream.tell() == begin + int(length)
