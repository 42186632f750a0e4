"""The arrays of a file: in it, or in files beside it."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npdl._checks import error_message


def array_of(tensor: Any, folder: str | None = None) -> NDArray:
    """The array of a tensor; another file must be in the same folder or below.

    Raises
    ------
    ValueError
        If it is elsewhere, or of another length than the shape says.
    """
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _external(tensor, folder)
    return np.array(onnx.numpy_helper.to_array(tensor))


def _external(tensor: Any, folder: str | None) -> NDArray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    base = os.path.realpath(folder) if folder is not None else ""
    path = os.path.realpath(os.path.join(base, location))
    if (
        folder is None
        or not location
        or os.path.isabs(location)
        or os.path.commonpath([base, path]) != base
        or not os.path.isfile(path)
    ):
        rule = "The arrays must lie in the file itself, or in a file of its folder"
        raise ValueError(error_message(rule, tensor=tensor.name, location=location))
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    shape = tuple(tensor.dims)
    size = math.prod(shape) * dtype.itemsize
    start = int(entries.get("offset", 0))
    length = int(entries.get("length", size))
    whole = os.path.getsize(path)
    if min(shape, default=1) < 0 or length != size or not 0 <= start <= whole - size:
        rule = f"The tensor must have {size} bytes in the file {location!r} of {whole}"
        raise ValueError(error_message(rule, tensor=tensor.name, offset=start, length=length))
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(size)
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)
