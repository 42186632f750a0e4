"""Gradients made shorter where they are too long; arrays that are given are not changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def clip_by_value(grads: Sequence[np.ndarray], limit: float) -> list[np.ndarray]:
    """Return the gradients cut to [-limit, limit] element by element."""
    return [np.clip(g, -limit, limit) for g in grads]


def clip_by_norm(grads: Sequence[np.ndarray], limit: float) -> list[np.ndarray]:
    """Return the gradients, each scaled to a length ``‖g‖₂`` of at most `limit`."""
    return [_scaled(g, global_norm([g]), limit) for g in grads]


def clip_by_global_norm(grads: Sequence[np.ndarray], limit: float) -> list[np.ndarray]:
    """Return the gradients, all scaled by one factor to a `global_norm` of at most `limit`."""
    norm = global_norm(grads)
    return [_scaled(g, norm, limit) for g in grads]


def global_norm(grads: Sequence[np.ndarray]) -> float:
    """Return √(Σ g²) over all elements of all gradients."""
    # In float64: a sum of squares in float32 overflows where the gradients do not.
    return math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads))


def _scaled(g: np.ndarray, norm: float, limit: float) -> np.ndarray:
    # A norm of nan makes all of it nan, so that the loss shows it; no part is passed on as sound.
    return g if norm <= limit else g * (limit / norm)
