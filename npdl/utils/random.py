"""npdl's random generator, and the dtype of new parameters.

NumPy's own global random state is never read nor changed. The generator is one for all threads of
the process, except in blocks of `use_rng`. A forked process continues with its own generator, so
the workers of a pool do not all draw the same numbers; after `set_seed` they are the same in each
run of the program.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from npdl._dtype import get_dtype, set_dtype, use_dtype

__all__ = [
    "get_dtype",
    "get_rng",
    "get_rng_state",
    "set_dtype",
    "set_rng",
    "set_rng_state",
    "set_seed",
    "use_dtype",
    "use_rng",
]

#: Of the process; created when first used, since numpy.random takes as long to import as most of
#: npdl. And of a block of `use_rng`, in its thread.
_rng: np.random.Generator | None = None
_local: ContextVar[np.random.Generator | None] = ContextVar("npdl_rng", default=None)


def get_rng() -> np.random.Generator:
    """Return the generator that every random number of npdl comes from."""
    global _rng
    found = _local.get() or _rng
    if found is None:
        found = _rng = np.random.default_rng()
    return found


def set_rng(rng: Any) -> None:
    """Use another generator, in all threads.

    Within a block of `use_rng` it is used until the end of the block, in its thread.

    Parameters
    ----------
    rng : numpy.random.Generator
        Drawn from as it is. A legacy ``RandomState``, or the module ``numpy.random``, serves too:
        a generator starts from a copy of its state.
    """
    global _rng
    new = _as_generator(rng)
    if _local.get() is None:
        _rng = new
    else:
        _local.set(new)


@contextlib.contextmanager
def use_rng(rng: Any) -> Iterator[None]:
    """Within a ``with`` block, draw npdl's random numbers from a generator, in this thread only.

    Parameters
    ----------
    rng : numpy.random.Generator, int or None
        As in `set_rng`; or a seed, as in `set_seed`.

    Examples
    --------
    >>> import npdl
    >>> with npdl.use_rng(1):
    ...     one = npdl.utils.get_rng().random()
    >>> with npdl.use_rng(1):
    ...     other = npdl.utils.get_rng().random()
    >>> one == other
    True
    """
    seed = rng is None or hasattr(rng, "__index__")
    token = _local.set(np.random.default_rng(rng) if seed else _as_generator(rng))
    try:
        yield
    finally:
        _local.reset(token)


def _as_generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if not hasattr(rng, "get_state"):
        raise TypeError(f"`rng` must be a numpy.random.Generator. Received: rng={rng!r}")
    state = rng.get_state(legacy=False)
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def set_seed(seed: int | None) -> None:
    """Restart the generator from `seed`; the same seed gives the same numbers.

    Parameters
    ----------
    seed : int or None
        Not negative. None takes a seed from the operating system.
    """
    set_rng(np.random.default_rng(seed))


def get_rng_state() -> dict[str, Any]:
    """Return the state of the generator, for `set_rng_state`: numbers, strings and arrays."""
    bits = get_rng().bit_generator
    state: dict[str, Any] = dict(bits.state)
    seeds = bits.seed_seq
    if isinstance(seeds, np.random.SeedSequence):  # the state of `Generator.spawn`
        state["seed_sequence"] = seeds.state
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a saved state, into a new generator.

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
            raise ValueError(f"unknown bit generator {state['bit_generator']!r}")
        make = getattr(np.random, state["bit_generator"])
        seeds = state.pop("seed_sequence", None)
        if seeds is not None and not 0 < seeds["pool_size"] <= 64:
            raise ValueError("the pool of seeds is too large")
        bits = make(0 if seeds is None else np.random.SeedSequence(**seeds))
        bits.state = state
        # NumPy does not check positions, and reads beyond its tables if they are wrong.
        back = bits.state
        position = back["state"].get("pos", 0) if make is np.random.MT19937 else 0
        if not (0 <= position <= 624 and 0 <= back.get("buffer_pos", 0) <= 4):
            raise ValueError("the position is out of range")
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"This is no state of a random generator: {error!r}") from error
    return np.random.Generator(bits)


_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


# -------------------------------------------------------------------------------------- fork

#: How often this process has forked.
_forks = 0


def _before_fork() -> None:
    global _forks
    _forks += 1


def _after_fork() -> None:
    """Replace the generators with new ones, derived from their states and the number of forks."""
    global _rng
    if _rng is not None:
        _rng = _branched(_rng)
    here = _local.get()
    if here is not None:
        _local.set(_branched(here))


def _branched(rng: np.random.Generator) -> np.random.Generator:
    bits = rng.bit_generator
    words = repr(bits.state).encode()
    entropy = [zlib.crc32(words), zlib.crc32(words[::-1]), zlib.adler32(words)]
    return np.random.Generator(type(bits)(np.random.SeedSequence(entropy, spawn_key=(_forks,))))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
