"""Download of files whose SHA-256 is known.

A download goes to ``NAME.part`` beside its place and is renamed once its SHA-256 is right, so a
file in its place is always complete. A download that broke off is resumed, by this process or the
next one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from npdl._version import __version__

#: Seconds without a byte after which a connection counts as broken.
TIMEOUT = 30.0
#: Failed attempts in a row before giving up, and seconds to wait between them.
RETRIES, PAUSE = 4, 1.0

_CHUNK = 1 << 18

#: Errors of the network, which may be temporary.
_NETWORK = (
    *(urllib.error.URLError, http.client.HTTPException, ssl.SSLError),
    *(ConnectionError, TimeoutError),
)


class DownloadError(OSError):
    """A file can't be downloaded from an address."""


def fetch(urls: Sequence[str], target: Path, size: int, sha256: str) -> None:
    """Download a file of known size and SHA-256 from the first address that has it.

    Raises
    ------
    OSError
        If no address has it, or the file can't be written.
    """
    failures = []
    for url in urls:
        try:
            return _download(url, target, size, sha256)
        except DownloadError as error:  # any other is an error of the disk
            failures.append(str(error))
    raise DownloadError("; ".join(failures))


def _download(url: str, target: Path, size: int, sha256: str) -> None:
    """Download a file; resume a download that broke off."""
    print(f"downloading {url} ({size:,} bytes)", file=sys.stderr)
    part = target.with_name(target.name + ".part")
    if _size(part) > size:
        part.unlink()
    resumed = _size(part) > 0
    _complete(url, part, size)
    if resumed and _sha256(part) != sha256:
        # An earlier run may have left part of another file.
        part.unlink()
        _complete(url, part, size)
    digest = _sha256(part)
    if digest != sha256:
        part.unlink()
        raise DownloadError(f"{url} must have the SHA-256 {sha256}. Received: {digest}")
    os.replace(part, target)


def _complete(url: str, part: Path, size: int) -> None:
    """Read a whole file into `part`; give up after some failed attempts."""
    tries, most = 0, _size(part)
    while tries <= RETRIES:
        before = _size(part)
        if before > size:
            part.unlink()
            raise DownloadError(f"{url} must have {size:,} bytes. Received: more")
        if before == size:
            return
        try:
            _read_on(url, part, size)
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == 416 and before:  # what is there is not the beginning of the file
                part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                tries = RETRIES  # a retry would get the same answer
        except _NETWORK as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        if _size(part) > most:
            tries, most = 0, _size(part)
        else:
            tries += 1
            if tries <= RETRIES:
                time.sleep(PAUSE)
    raise DownloadError(f"{url}: {reason}, after {_size(part):,} of {size:,} bytes")


def _read_on(url: str, part: Path, size: int) -> None:
    """Append the missing bytes to `part`, and one more if the server sends more."""
    start = _size(part)
    headers = {"User-Agent": f"npdl/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        content_range = answer.headers.get("Content-Range", "")
        goes_on = answer.status == 206 and content_range.startswith(f"bytes {start}-")
        with part.open("ab" if goes_on else "wb") as file:
            lacking = size + 1 - (start if goes_on else 0)
            while lacking and (chunk := answer.read1(min(_CHUNK, lacking))):
                file.write(chunk)
                lacking -= len(chunk)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
