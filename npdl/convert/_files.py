"""Reading Keras's files: a zip archive with JSON and HDF5, none of it trusted."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import _safetensors
from npdl._files import StrPath

#: Longer descriptions of a model are not read.
MAX_CONFIG = 16 * 2**20
#: How much larger than the archive its members may be. Keras does not compress them.
MAX_RATIO = 16
#: How many groups and arrays a file of weights may hold.
MAX_OBJECTS = 100_000


class Unreadable(Exception):
    """What is wrong with a file."""


@contextlib.contextmanager
def refusing(path: StrPath, what: str) -> Iterator[None]:
    """Turn errors in the block into a ValueError that names the file."""
    try:
        yield
    except Unreadable as error:
        raise ValueError(f"{os.fspath(path)!r} can't be loaded as a {what}: {error}") from error


def h5py() -> Any:
    """The module.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        rule = "Reading Keras's files needs h5py"
        raise ImportError(f"{rule}: pip install 'npdl[keras]'") from error
    return h5py


def open_archive(path: StrPath) -> tuple[dict[str, Any], Weights]:
    """The configuration and the weights in a ``.keras`` file."""
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise Unreadable("it is not a regular file")
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    try:
        with zipfile.ZipFile(path) as archive:
            size = os.path.getsize(path)
            text = _member(archive, "config.json", MAX_CONFIG)
            binary = _member(archive, "model.weights.h5", MAX_RATIO * size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise Unreadable(f"it is no zip archive as Keras 3 writes them ({error})") from error
    if text.count(b"{") + text.count(b"[") > _safetensors.MAX_CONTAINERS:
        raise Unreadable("its config.json is too complex")
    try:
        config = _safetensors.parse(text.decode("utf-8"))
    except ValueError as error:
        raise Unreadable(f"its config.json can't be read, {error}") from error
    if not isinstance(config, dict):
        raise Unreadable("its config.json describes no model")
    return config, Weights(io.BytesIO(binary), len(binary))


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A file of an archive, in memory."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise Unreadable(f"{name!r} is in it {len(found)} times instead of once")
    # The declared size may be wrong, so no more than that is read.
    if found[0].file_size > limit:
        raise Unreadable(f"{name!r} has {found[0].file_size:,} bytes, more than {limit:,}")
    with archive.open(found[0]) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Unreadable(f"{name!r} has more than {limit:,} bytes")
    return data


class Weights:
    """The arrays of a ``.weights.h5`` file, by the path of the layer: ``layers/dense_1``.

    Links to other files or places, virtual, external and compressed arrays are refused: Keras
    writes none of them.
    """

    def __init__(self, source: Any, size: int) -> None:
        self._module = h5py()
        self._size = size
        self._taken: set[str] = set()
        with self._errors():
            self._file = self._module.File(source, "r")
            self._paths = self._walk()

    @classmethod
    def open(cls, path: StrPath) -> Weights:
        """The arrays of a separate file."""
        if not os.path.isfile(path):
            if os.path.exists(path):
                raise Unreadable("it is not a regular file")
            raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
        return cls(os.fspath(path), os.path.getsize(path))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise Unreadable(f"it is not an HDF5 file as Keras 3 writes it ({error})") from error

    def _walk(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all arrays by their paths."""
        found: dict[str, tuple[int, ...]] = {}
        waiting: list[tuple[str, Any, int]] = [("", self._file, 0)]
        count = 0
        while waiting:
            path, group, depth = waiting.pop()
            for key in group:
                count += 1
                if count > MAX_OBJECTS or depth > 64:
                    raise Unreadable("it holds too many groups")
                inner = f"{path}/{key}" if path else key
                if not isinstance(group.get(key, getlink=True), self._module.HardLink):
                    raise Unreadable(f"{inner!r} is a link to another place")
                item = group[key]
                if isinstance(item, self._module.Group):
                    waiting.append((inner, item, depth + 1))
                else:
                    found[inner] = self._checked(inner, item)
        total = sum(int(np.prod(shape, dtype=object)) for shape in found.values())
        if total > self._size:  # each element takes at least one byte
            raise Unreadable("its arrays are larger than the file")
        self.n_numbers = total
        return found

    def _checked(self, path: str, item: Any) -> tuple[int, ...]:
        if not isinstance(item, self._module.Dataset):
            raise Unreadable(f"{path!r} is not an array")
        plain = not (item.is_virtual or item.external or item.chunks or item.compression)
        if not plain or item.shape is None:
            raise Unreadable(f"{path!r} is not stored as a plain array")
        if item.size and item.id.get_storage_size() < item.size * item.dtype.itemsize:
            raise Unreadable(f"the values of {path!r} are not in the file")
        return tuple(item.shape)

    def arrays(self, path: str) -> list[NDArray]:
        """The arrays of a layer, in the order in which Keras made them."""
        prefix = f"{path}/vars/"
        names = [p for p in self._paths if p.startswith(prefix) and "/" not in p[len(prefix) :]]
        if not all(name[len(prefix) :].isdecimal() for name in names):
            raise Unreadable(f"the arrays of {path!r} have no numbers as names")
        names.sort(key=lambda name: int(name[len(prefix) :]))
        self._taken.update(names)
        found = []
        for name in names:
            with self._errors():
                array = self._file[name][()]
            if array.dtype.kind != "f":
                raise Unreadable(f"{name!r} has the dtype {array.dtype}, which is no float")
            found.append(np.asarray(array))
        return found

    def layer_names(self) -> dict[str, str]:
        """The path of each layer by the name that it had in Keras, as far as the file has it."""
        found = {}
        with self._errors():
            for key in self._file.get("layers", ()):
                name = self._file["layers"][key].get("vars", self._file).attrs.get("name")
                if isinstance(name, str):
                    found[name] = f"layers/{key}"
        return found

    def left(self) -> list[str]:
        """The arrays of layers that were not read; random seeds do not count."""
        ours = (p for p in self._paths if not p.startswith(("optimizer/", "seed_generator/")))
        names = (p for p in ours if p not in self._taken and "/seed_generator/" not in p)
        return sorted(names)
