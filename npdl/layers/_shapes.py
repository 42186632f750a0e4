"""Shapes of arrays, compared with the shapes that a layer expects."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

#: A shape whose unknown axes, such as the sample axis, are None.
Shape = tuple[int | None, ...]

#: Caches functions of shapes and options: whether an input fits a layer, and its output shape. The
#: same few shapes come at every call.
cached_by_shape = functools.lru_cache(1024)


class UnknownSize(ValueError):
    """A layer needs the size of an axis that is not known yet."""


def shape_text(shape: Sequence[Any]) -> str:
    """``("N", "...", 5)`` -> ``"(N, ..., 5)"``."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def shape_matches(shape: tuple[int, ...], expected: Sequence[Any]) -> bool:
    """Whether a shape is as expected: sizes, letters for any size, "..." for any axes."""
    if "..." in expected:
        gap = expected.index("...")
        tail = len(expected) - gap - 1
        return (
            len(shape) >= gap + tail
            and _sizes_match(shape[:gap], expected[:gap])
            and _sizes_match(shape[len(shape) - tail :], expected[gap + 1 :])
        )
    return len(shape) == len(expected) and _sizes_match(shape, expected)


def _sizes_match(sizes: Sequence[int], expected: Sequence[Any]) -> bool:
    for size, want in zip(sizes, expected):
        if size != want and not isinstance(want, str):
            return False
    return True


@cached_by_shape
def shape_fits(shape: tuple[int, ...], expected: tuple[Any, ...]) -> bool:
    """Whether an array has the expected shape, see `shape_matches`, and is not empty."""
    return 0 not in shape and shape_matches(shape, expected)
