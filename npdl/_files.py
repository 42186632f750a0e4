"""Files that are written completely or not at all.

Modules that are slow to import and that only saving needs are imported when a file is saved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be deleted and needs no lock
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """Yield a file to write to, which replaces `path` in one step at the end.

    It lies in the same folder and is flushed to the disk first. A process that is killed leaves the
    old file or the new one, and at most a hidden temporary file, which the next write to `path`
    removes. After an error the old file is unchanged.

    Raises
    ------
    OSError
        As the system reports it: a full disk, a read-only folder, ...
    """
    from pathlib import Path

    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = None
    try:
        mode = _check_target(target)
        _sweep(target)
        temporary, file = _create(target)
        with file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while the lock keeps other processes from removing it
                os.replace(temporary, target)
                temporary = None
        if temporary is not None:
            os.replace(temporary, target)
            temporary = None
        _flush_folder(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        what = f"{error.strerror}. Nothing was written"
        raise OSError(error.errno, what, os.fspath(path)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _check_target(target: Path) -> int | None:
    """The permissions of the old file; None if there is none."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(mode):  # replacing a device would remove it
        raise FileExistsError(errno.EEXIST, "Is not a regular file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "The file is read-only")
    return stat.S_IMODE(mode)


def _stem(target: Path) -> str:
    return f".{target.name[:40]}."


def _create(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `target`, locked as long as it is open."""
    import secrets

    while True:
        temporary = target.with_name(f"{_stem(target)}{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        if _lock(file) is not False and (fcntl is None or os.fstat(file.fileno()).st_nlink):
            return temporary, file
        file.close()  # removed before it was locked, or about to be


def _sweep(target: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    import glob

    for left in target.parent.glob(glob.escape(_stem(target)) + "[0-9a-f]" * 8 + ".tmp"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            if fcntl is None or _lock(file):
                left.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool | None:
    """Lock a file if it is free. None where the system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _flush_folder(folder: Path) -> None:
    """Make the rename survive a power failure, where the system supports it."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
