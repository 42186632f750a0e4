"""Sums of two arrays: the NumPy twin of ``merge.pyx``."""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import LINEAR, apply


def add_forward(a, b, y, act):
    """y = f(a + b), element by element.

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        Read only.
    y : ndarray, shape (n,)
        Filled. It may be `a` or `b` itself.
    act : tuple (code, steepness)
        The activation f, one whose derivative is a function of its output, see ``activation_np``.
    """
    np.add(a, b, out=y)
    if act[0] != LINEAR:
        y[...] = apply(act, y)
