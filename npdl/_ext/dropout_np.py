"""Dropout: the NumPy twin of ``dropout.pyx``.

Whether a number is dropped is a function of a seed and of its position, so each number can be
decided independently. The numbers come in chunks. The seed and the number of the chunk make two
keys (the mixing function of SplitMix64, Steele et al. 2014), and these and the place i in the chunk
make a word of 32 bits::

    h = key0 + i,   h = (h ^ h >> 16) 0x7FEB352D,   h = (h ^ h >> 15 ^ key1) 0x846CA68B

(Wellons' lowbias32, with a key in the middle.) A number is dropped where h < 2³² p.
"""

from __future__ import annotations

import numpy as np

CHUNK = 16384


def draw(seed, p, n):
    """1 where a number is kept and 0 where it is dropped, for n numbers: bytes."""
    z = np.arange(1, -(-n // CHUNK) + 1, dtype=np.uint64) * 0x9E3779B97F4A7C15 + np.uint64(seed)
    z ^= z >> 30
    z *= 0xBF58476D1CE4E5B9
    z ^= z >> 27
    z *= 0x94D049BB133111EB
    z ^= z >> 31
    key0, key1 = z.astype(np.uint32)[:, None], (z >> 32).astype(np.uint32)[:, None]
    h = key0 + np.arange(min(n, CHUNK), dtype=np.uint32)
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h ^= key1
    h *= 0x846CA68B
    return (h >= int(p * 2**32)).view(np.uint8).reshape(-1)[:n]


def dropout_forward(x, seed, p, y, mask):
    """y = x / (1 - p) where a number is kept, else 0 x.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Read only.
    seed : int in [0, 2**64)
        The result depends only on it, on `p` and on n.
    p : float in [0, 1)
        The fraction that is dropped.
    y : ndarray, shape (n,)
        Filled.
    mask : ndarray of uint8, shape (n,)
        Filled: 1 where a number is kept, else 0.
    """
    mask[...] = draw(seed, p, len(x))
    dropout_backward(x, mask, p, y)


def dropout_backward(dy, mask, p, dx):
    """dx = dy / (1 - p) where a number was kept, else 0 dy.

    Parameters
    ----------
    dy : ndarray, shape (n,)
        Read only, as is `mask`.
    mask : ndarray of uint8, shape (n,)
        From the forward pass.
    p : float in [0, 1)
    dx : ndarray, shape (n,)
        Filled.
    """
    np.multiply(mask, 1 / (1 - p), out=dx, dtype=dx.dtype)
    dx *= dy
