"""Clipping of gradients; the arrays passed in are not changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

#: How many numbers to square at a time.
_SPAN = 1 << 14


def clip_by_value(
    grads: Sequence[np.ndarray], limit: float, out: Sequence[np.ndarray | None] | None = None
) -> list[np.ndarray]:
    """Return the gradients cut to [-limit, limit] element by element, in `out` if given."""
    return [np.clip(g, -limit, limit, out=to) for g, to in zip(grads, out or [None] * len(grads))]


def clip_by_norm(
    grads: Sequence[np.ndarray], limit: float, out: Sequence[np.ndarray | None] | None = None
) -> list[np.ndarray]:
    """Return the gradients, each scaled to a length ``‖g‖₂`` of at most `limit`."""
    pairs = zip(grads, out or [None] * len(grads))
    return [_scaled(g, global_norm([g]), limit, to) for g, to in pairs]


def clip_by_global_norm(
    grads: Sequence[np.ndarray], limit: float, out: Sequence[np.ndarray | None] | None = None
) -> list[np.ndarray]:
    """Return the gradients, all scaled by one factor to a `global_norm` of at most `limit`."""
    norm = global_norm(grads)
    return [_scaled(g, norm, limit, to) for g, to in zip(grads, out or [None] * len(grads))]


def global_norm(grads: Sequence[np.ndarray]) -> float:
    """Return √(Σ g²) over all elements of all gradients."""
    # In float64: a sum of squares in float32 overflows where the gradients do not.
    squares = np.empty(_SPAN)
    total = 0.0
    for g in grads:
        flat = g.reshape(-1)
        for start in range(0, flat.size, _SPAN):
            part = flat[start : start + _SPAN]
            total += float(np.square(part, out=squares[: part.size], dtype=np.float64).sum())
    return math.sqrt(total)


def _scaled(g: np.ndarray, norm: float, limit: float, out: np.ndarray | None) -> np.ndarray:
    # A norm of nan makes all gradients nan, so the loss shows it.
    return g if norm <= limit else np.multiply(g, limit / norm, out=out)
