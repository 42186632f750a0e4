"""Gradient of a table whose rows were looked up: the NumPy twin of ``embedding.pyx``.

The look-up itself is `numpy.take`: no kernel was faster.
"""

from __future__ import annotations

import numpy as np


def embedding_backward(index, dy, dtable):
    """dtable[v] = Σ dy[n] over all n with index[n] = v, accurate however many there are.

    Parameters
    ----------
    index : ndarray of int64, shape (N,)
        Row numbers in [0, V). Read only, as is `dy`.
    dy : ndarray, shape (N, D)
    dtable : ndarray, shape (V, D)
        Filled, not added to: 0 for rows without an index.
    """
    total = np.zeros(dtable.shape, np.result_type(dtable, np.float64))
    np.add.at(total, index, dy)
    dtable[...] = total
