"""Download of files whose SHA-256 is known.

A download goes to ``NAME.part`` beside its place and is renamed once its SHA-256 is right, so that
a file in its place is whole. What broke off is carried on from where it ended, by this process or
by the next one.
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
#: How many attempts in a row may bring nothing, and seconds to wait after each.
RETRIES, PAUSE = 4, 1.0

_CHUNK = 1 << 18

#: What is the network's fault, and may go away.
_NETWORK = (
    *(urllib.error.URLError, http.client.HTTPException, ssl.SSLError),
    *(ConnectionError, TimeoutError),
)


class DownloadError(OSError):
    """A file can't be had from an address."""


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
        except DownloadError as error:  # any other is the disk's fault
            failures.append(str(error))
    raise DownloadError("; ".join(failures))


def _download(url: str, target: Path, size: int, sha256: str) -> None:
    """Download a file; go on where a broken download ended."""
    print(f"downloading {url} ({size:,} bytes)", file=sys.stderr)
    part = target.with_name(target.name + ".part")
    if _size(part) > size:
        part.unlink()
    resumed = _size(part) > 0
    _complete(url, part, size)
    if resumed and _sha256(part) != sha256:
        # What an earlier run left may have been of something else.
        part.unlink()
        _complete(url, part, size)
    digest = _sha256(part)
    if digest != sha256:
        part.unlink()
        raise DownloadError(f"{url} must have the SHA-256 {sha256}. Received: {digest}")
    os.replace(part, target)


def _complete(url: str, part: Path, size: int) -> None:
    """Read all of a file into `part`; give up after some attempts that brought nothing."""
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
                tries = RETRIES  # it will say the same again
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
    """Append to `part` what comes of the bytes that it lacks, and one more if there are more."""
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
