"""The one source of random numbers, and the dtype of new parameters.

NumPy's own global random state is never read nor changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._dtype import get_dtype, set_dtype

__all__ = ["get_dtype", "get_rng", "set_dtype", "set_rng", "set_seed"]

_rng = np.random.default_rng()


def get_rng() -> np.random.Generator:
    """Return the generator that every random number of npdl comes from."""
    return _rng


def set_rng(rng: Any) -> None:
    """Use another generator.

    Parameters
    ----------
    rng : numpy.random.Generator
        Drawn from as it is. A legacy ``RandomState``, or the module ``numpy.random``, serves too:
        a generator starts from a copy of its state.
    """
    global _rng
    if isinstance(rng, np.random.Generator):
        _rng = rng
    elif hasattr(rng, "get_state"):
        state = rng.get_state(legacy=False)
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        _rng = np.random.Generator(bits)
    else:
        raise TypeError(f"`rng` must be a numpy.random.Generator. Received: rng={rng!r}")


def set_seed(seed: int | None) -> None:
    """Start anew from `seed`; the same seed gives the same numbers.

    Parameters
    ----------
    seed : int or None
        Not negative. None takes a seed from the operating system.
    """
    set_rng(np.random.default_rng(seed))
