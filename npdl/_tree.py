"""Trees of dicts, lists, numbers, strings and arrays, split into strict JSON and named arrays.

An array becomes ``{"$array": name}``, a float that JSON lacks ``{"$float": "inf"}``. Any other key
that starts with ``$`` gets another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(tree: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """Return a tree as JSON types; put its arrays into `arrays` under names that give their place.

    Parameters
    ----------
    tree : dict, list, tuple, number, str, None or ndarray
        A tuple becomes a list.
    name : str
        The place of the tree, such as "optimizer".
    arrays : dict of ndarray
        The arrays are added to it.

    Raises
    ------
    TypeError
        If something else is in the tree, or a key is not a string.
    """
    if isinstance(tree, np.ndarray):
        while name in arrays:
            name += "'"
        arrays[name] = tree
        return {"$array": name}
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"$float": str(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, tuple | list):
        return [pack(value, f"{name}/{i}", arrays) for i, value in enumerate(tree)]
    if isinstance(tree, Mapping):
        return {_key(k): pack(value, f"{name}/{k}", arrays) for k, value in tree.items()}
    raise TypeError(f"A {type(tree).__name__} can't be saved. Received: {name}={tree!r}")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"State dictionaries must have string keys. Received: {key!r}")
    return "$" + key if key.startswith("$") else key


def unpack(tree: Any, arrays: dict[str, NDArray]) -> Any:
    """Return the tree that `pack` split; take its arrays out of `arrays`.

    Raises
    ------
    ValueError
        If an array is missing, or the JSON is not what `pack` returns.
    """
    if isinstance(tree, list):
        return [unpack(value, arrays) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key == "$array":
            if not (isinstance(value, str) and value in arrays):
                raise ValueError(f"the array {value!r} is missing")
            return arrays.pop(value)
        if key == "$float":
            if value not in ("inf", "-inf", "nan"):
                raise ValueError(f"{value!r} is not inf, -inf or nan")
            return float(value)
    return {k.removeprefix("$"): unpack(value, arrays) for k, value in tree.items()}
