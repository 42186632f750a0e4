"""Gradient of a table whose rows were looked up: the NumPy twin of ``embedding.pyx``.

The look-up itself is `numpy.take`, which no kernel was found to beat.
"""

from __future__ import annotations

import numpy as np


def embedding_backward(index, dy, dtable):
    """dtable[v] = Σ dy[n] over all n with index[n] = v, in the order of n.

    Parameters
    ----------
    index : ndarray of int64, shape (N,)
        Read only, as is `dy`. Row numbers in [0, V).
    dy : ndarray, shape (N, D)
    dtable : ndarray, shape (V, D)
        Filled, not added to: 0 where no index leads.
    """
    dtable[...] = 0
    np.add.at(dtable, index, dy)
