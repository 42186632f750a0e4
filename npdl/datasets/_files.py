"""Files of data sets: found on the disk, or downloaded from their publisher."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from npdl._files import StrPath


@dataclass(frozen=True)
class Source:
    """A data set as it is published.

    Attributes
    ----------
    name : str
        Name of its folder in the cache.
    urls : sequence of str
        Addresses of the folder that holds the files, the first choice first.
    files : mapping of str to (int, str)
        Name of each file, its size in bytes and its SHA-256, as they are published.
    """

    name: str
    urls: Sequence[str]
    files: Mapping[str, tuple[int, str]]


def cache_folder() -> Path:
    """Return the folder for downloads.

    It is ``$NPDL_DATA`` if that is set, else a folder ``npdl`` where the system keeps its caches:
    ``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches`` or ``%LOCALAPPDATA%``.
    """
    own = os.environ.get("NPDL_DATA")
    if own:
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "npdl"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    return Path(os.environ.get(variable) or Path.home() / ".cache") / "npdl"


def find(source: Source, path: StrPath | None) -> Path:
    """The folder that holds the files: `path`, or the cache, after a download if needed.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    OSError
        If a file can't be downloaded. The message says where to put it by hand.
    """
    if path is not None:
        if not Path(path).exists():
            raise FileNotFoundError(f"`path` must exist. Received: path={os.fspath(path)!r}")
        return Path(path)
    folder = cache_folder() / source.name
    missing = [name for name in source.files if not (folder / name).exists()]
    if missing:
        # It imports much of the standard library, which few programs need.
        from npdl.datasets._download import fetch

        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder / ".lock"):
                for name in missing:
                    if not (folder / name).exists():
                        urls = [base + name for base in source.urls]
                        fetch(urls, folder / name, *source.files[name])
        except OSError as error:
            raise OSError(_advice(source, folder, error)) from error
    return folder


def _advice(source: Source, folder: Path, error: OSError) -> str:
    missing = [name for name in source.files if not (folder / name).exists()]
    return (
        f"{source.name} could not be downloaded: {error}.\n"
        f"Without a network, put {', '.join(missing)} from {source.urls[0]} into {folder}, or "
        "pass path=... with the folder that holds them."
    )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let only one process at a time download, where the system has locks."""
    with path.open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield
