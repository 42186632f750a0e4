"""Named arrays in a file: the safetensors layout, read and written with only NumPy.

::

    8 bytes      n, the length of the header, an unsigned little-endian integer
    n bytes      {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3],
                 "data_offsets": [begin, end]}, ...}, JSON in UTF-8, padded with spaces
    the rest     the values, C-ordered, little-endian, without gaps or overlaps

Source: https://github.com/huggingface/safetensors, section "Format". A file is data, never code,
and may come from anyone: everything in its header is checked before memory is allocated.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from npdl._files import StrPath, atomic_write

#: From the last to the first in a file, as the reference implementation sorts them.
DTYPES = {
    **{"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2"},
    **{"BF16": "<u2", "I32": "<i4", "U32": "<u4", "F32": "<f4", "F64": "<f8"},
    **{"I64": "<i8", "U64": "<u8"},
}
_RANK = {name: i for i, name in enumerate(DTYPES)}
_NAMES = {np.dtype(code): name for name, code in DTYPES.items() if name != "BF16"}

#: Longer headers are neither read nor written. The reference stops at 100 MB, which in Python
#: objects would be gigabytes.
MAX_HEADER = 16 * 2**20
#: How many braces and brackets a header may hold: each can become an object of 64 bytes.
MAX_CONTAINERS = 2**20

Tensors = dict[str, NDArray]


def write(path: StrPath, tensors: Mapping[str, NDArray], metadata: Mapping[str, str]) -> None:
    """Write arrays and strings to a file, completely or not at all; see `npdl._files.atomic_write`.

    Parameters
    ----------
    path : path
    tensors : dict of ndarray
        Of bool, integers or floats.
    metadata : dict of str

    Raises
    ------
    TypeError
        If there is no such dtype in the format.
    ValueError
        If the header would be longer than `MAX_HEADER`.
    """
    import json

    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    names = sorted(tensors, key=lambda name: (-_RANK[_dtype_name(name, tensors[name])], name))
    for name in names:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _dtype_name(name, array),
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"Names and configuration must fit into {MAX_HEADER:,} bytes; large arrays belong "
            f"into parameters. Received: {len(text):,} bytes"
        )
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            array = tensors[name]
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            file.write(little.reshape(-1).view(np.uint8).data)


def _dtype_name(name: str, array: NDArray) -> str:
    found = _NAMES.get(array.dtype.newbyteorder("<"))
    if found is None:
        rule = f"The array {name!r} must hold booleans, integers or floats"
        raise TypeError(f"{rule}. Received: dtype={array.dtype}")
    return found


def read(path: StrPath) -> tuple[Tensors, dict[str, str]]:
    """Read what `write`, or any other writer of the format, has written.

    Parameters
    ----------
    path : path

    Returns
    -------
    tensors : dict of ndarray
        Arrays of native byte order; bfloat16 becomes float32.
    metadata : dict of str

    Raises
    ------
    ValueError
        If the file does not hold to the format; the message says where.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would block forever
        _refuse(path, "it is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(4)
        if first in _OTHER_FORMATS:
            _refuse(path, f"it is a file of {_OTHER_FORMATS[first]}")
        file.seek(0)
        try:
            header, start = _read_header(file, size)
            metadata = _metadata(header.pop("__metadata__", {}))
            checked = _layout(header, size - start)
            return {name: _read_array(file, *entry) for name, entry in checked.items()}, metadata
        except _Damaged as error:
            _refuse(path, str(error))


#: First bytes of files that are taken for safetensors by mistake.
_OTHER_FORMATS = {b"\x89HDF": "HDF5, such as Keras's .h5"}


class _Damaged(Exception):
    """What is wrong with a file."""


def _refuse(path: StrPath, what: str) -> NoReturn:
    raise ValueError(f"{os.fspath(path)!r} is no valid safetensors file: {what}.") from None


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the values begin."""
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if first[:4] == b"PK\3\4":
        raise _Damaged("it is a zip archive, such as an .npz file")
    if len(first) < 8 or length > size - 8:
        raise _Damaged(f"it has {size} bytes, which is too short")
    if length > MAX_HEADER:
        raise _Damaged(f"its header has {length:,} bytes, more than {MAX_HEADER:,}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise _Damaged("its header does not start with '{'")
    if text.count(b"{") + text.count(b"[") > MAX_CONTAINERS:
        raise _Damaged("its header is too complex")
    try:
        return parse(text.decode("utf-8")), 8 + length
    except ValueError as error:
        raise _Damaged(f"its header can't be read, {error}") from error


def parse(text: str) -> Any:
    """Parse strict JSON: each key once, no infinities.

    Raises
    ------
    ValueError
        If anything is wrong.
    """
    import json

    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _metadata(found: Any) -> dict[str, str]:
    if not (isinstance(found, dict) and all(isinstance(v, str) for v in found.values())):
        raise _Damaged("its metadata must be texts")
    return found


def _layout(header: dict[str, Any], size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Check all entries; return (dtype, shape, number of values) by name in order of the file."""
    entries = {name: _entry(name, value) for name, value in header.items()}
    position = 0
    order = sorted(entries, key=lambda name: entries[name][:2])
    for name in order:
        begin, end, *_ = entries[name]
        if begin != position:
            raise _Damaged(f"the values of {name!r} begin at {begin} instead of {position}")
        position = end
    if position != size:
        raise _Damaged(f"there are {size:,} bytes of values instead of {position:,}")
    return {name: entries[name][2:] for name in order}


def _entry(name: str, value: Any) -> tuple[int, int, str, tuple[int, ...], int]:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Damaged(f"the entry {name!r} must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _Damaged(f"{name!r} has the dtype {dtype!r}, which can't be read")
    if not (_are_sizes(shape) and len(shape) <= 32):
        raise _Damaged(f"the shape of {name!r} is none")
    if not (_are_sizes(offsets) and len(offsets) == 2):
        raise _Damaged(f"the data_offsets of {name!r} are none")
    width = np.dtype(DTYPES[dtype]).itemsize
    if width * math.prod(max(n, 1) for n in shape) >= 2**63:
        raise _Damaged(f"{name!r} is too large")
    count, (begin, end) = math.prod(shape), offsets
    if end - begin != width * count:
        raise _Damaged(f"{name!r} has {end - begin} bytes instead of {width * count}")
    return begin, end, dtype, tuple(shape), count


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of non-negative integers."""
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**63 for n in values)


def _read_array(file: BinaryIO, dtype: str, shape: tuple[int, ...], count: int) -> NDArray:
    code = np.dtype("u1" if dtype == "BOOL" else DTYPES[dtype])
    values = np.fromfile(file, code, count)
    if len(values) < count:
        raise _Damaged("it became shorter while it was read")
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "BOOL":
        values = values != 0
    return values.reshape(shape).astype(values.dtype.newbyteorder("="), copy=False)
