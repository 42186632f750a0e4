"""The one source of random numbers, and the dtype of new parameters.

NumPy's own global random state is never read nor changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._dtype import get_dtype, set_dtype

__all__ = [
    "get_dtype",
    "get_rng",
    "get_rng_state",
    "set_dtype",
    "set_rng",
    "set_rng_state",
    "set_seed",
]

#: Made when it is first asked for: numpy.random takes as long to import as most of npdl.
_rng: np.random.Generator | None = None


def get_rng() -> np.random.Generator:
    """Return the generator that every random number of npdl comes from."""
    global _rng
    if _rng is None:
        _rng = np.random.default_rng()
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


def get_rng_state() -> dict[str, Any]:
    """Return where the generator stands, for `set_rng_state`: numbers, texts and arrays."""
    bits = get_rng().bit_generator
    state: dict[str, Any] = dict(bits.state)
    seeds = bits.seed_seq
    if isinstance(seeds, np.random.SeedSequence):  # what `Generator.spawn` counts on
        state["seed_sequence"] = seeds.state
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Go on from where the generator was; a new one takes its place.

    Parameters
    ----------
    state : dict
        From `get_rng_state`, of this process or another one.

    Raises
    ------
    ValueError
        If it is not such a state.
    """
    set_rng(_generator(state))


def _generator(state: dict[str, Any]) -> np.random.Generator:
    try:
        state = dict(state)
        if state["bit_generator"] not in _BIT_GENERATORS:
            raise ValueError(f"there is no bit generator {state['bit_generator']!r}")
        make = getattr(np.random, state["bit_generator"])
        seeds = state.pop("seed_sequence", None)
        if seeds is not None and not 0 < seeds["pool_size"] <= 64:
            raise ValueError("the pool of seeds is too large")
        bits = make(0 if seeds is None else np.random.SeedSequence(**seeds))
        bits.state = state
        # NumPy takes positions on trust, and reads beyond its tables where they are wrong.
        back = bits.state
        position = back["state"].get("pos", 0) if make is np.random.MT19937 else 0
        if not (0 <= position <= 624 and 0 <= back.get("buffer_pos", 0) <= 4):
            raise ValueError("the position is out of range")
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"This is no state of a random generator: {error!r}") from error
    return np.random.Generator(bits)


_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
