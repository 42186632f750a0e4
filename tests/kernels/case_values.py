"""Sizes and activations that the cases of several kernels share."""

from __future__ import annotations

from npdl._ext import activation_np

# One less, equal and one more than the sides of every register tile: 4, 6, 8 or 12 rows, and 8, 12,
# 16, 24, 32 or 48 columns.
EDGES = (1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49)
DEPTHS = (255, 256, 257, 513)  # around the block of k that is packed at once
ACTIVATIONS = {
    f"{name.lower()}-{steepness}": (getattr(activation_np, name), steepness)
    for name in (
        *("LINEAR", "RELU", "TANH", "SIGMOID", "SOFT_PLUS", "SOFT_SIGN", "ELLIOT"),
        "SYMMETRIC_ELLIOT",
    )
    for steepness in (1.0, 1.7)
}
ACTIVATIONS |= {
    "leaky_relu-0.3": (activation_np.LEAKY_RELU, 0.3),
    "elu-1.0": (activation_np.ELU, 1.0),
    "elu-1.7": (activation_np.ELU, 1.7),
    "selu": (activation_np.SELU, 1.0),
    "hard_sigmoid": (activation_np.HARD_SIGMOID, 1.0),
    "hard_tanh": (activation_np.HARD_TANH, 1.0),
}
#: Activations that are not for a loop over steps, where e^x soon overflows, or that are never
#: fused.
EXPONENTIAL = {"exponential": (activation_np.EXPONENTIAL, 1.0)}
ELEMENTWISE = {
    **ACTIVATIONS,
    **EXPONENTIAL,
    "gelu": (activation_np.GELU, 1.0),
    "silu": (activation_np.SILU, 1.0),
    "mish": (activation_np.MISH, 1.0),
}
