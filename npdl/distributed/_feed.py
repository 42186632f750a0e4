"""The part of the data that a process trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int, error_message
from npdl.batch import is_array
from npdl.distributed._ranks import world


class Shards:
    """The batches of one process, an iterable that `Model.fit` and `evaluate` take.

    All processes hold all samples, or map the same file into memory, and draw the same order of
    them. A step takes `batch_size` samples, cut into shards of nearly equal size, the same ones
    for any number of processes; shard i belongs to process i modulo their number. Samples left
    over at the end of a pass join its last step if they are too few for all shards.

    Parameters
    ----------
    data : tuple
        ``(x, y)`` or ``(x, y, sample_weight)``; each an array, or a tuple or dict of arrays.
    batch_size, shuffle, seed, shards, comm
        See `shard`.
    """

    def __init__(
        self,
        data: tuple[Any, ...],
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        shards: int | None = None,
        comm: Any = None,
    ) -> None:
        comm = world(comm)
        self._rank, size = comm.Get_rank(), comm.Get_size()
        self.shards = size if shards is None else check_int("shards", shards)
        if self.shards % size:
            rule = f"`shards` must be a multiple of the number of processes, {size}"
            raise ValueError(error_message(rule, shards=self.shards))
        self._size = size
        self._data = tuple(map(_arrays, data))
        self._samples = _count(self._data)
        self.batch_size = check_int("batch_size", batch_size)
        if min(self.batch_size, self._samples) < self.shards:
            rule = f"A step must have a sample for each of {self.shards} shards"
            raise ValueError(error_message(rule, batch_size=batch_size, samples=self._samples))
        self.shuffle, self.seed = bool(shuffle), check_int("seed", seed, 0)
        #: How many passes have begun.
        self._passes = 0

    @property
    def steps(self) -> int:
        """Number of steps of a pass."""
        whole, rest = divmod(self._samples, self.batch_size)
        return whole + (rest >= self.shards) if whole else 1

    def __len__(self) -> int:
        """Number of batches of this process in a pass."""
        return self.steps * (self.shards // self._size)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        order = None
        if self.shuffle:
            order = np.random.default_rng([self.seed, self._passes]).permutation(self._samples)
        self._passes += 1
        return self._batches(order)

    def _batches(self, order: NDArray | None) -> Iterator[tuple[Any, ...]]:
        for step in range(self.steps):
            start, end = step * self.batch_size, (step + 1) * self.batch_size
            end = self._samples if step == self.steps - 1 else end
            for i in range(self._rank, self.shards, self._size):
                one, other = (
                    start + (end - start) * i // self.shards,
                    start + (end - start) * (i + 1) // self.shards,
                )
                index = slice(one, other) if order is None else order[one:other]
                yield tuple(_rows(part, index) for part in self._data)

    def get_state(self) -> dict[str, Any]:
        """Return how many passes have begun."""
        return {"passes": self._passes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the passes counted by `get_state`.

        Parameters
        ----------
        state : dict
        """
        self._passes = int(state["passes"])


def shard(
    X: Any,
    Y: Any,
    sample_weight: Any = None,
    *,
    batch_size: int = 64,
    shuffle: bool = True,
    seed: int = 0,
    shards: int | None = None,
    comm: Any = None,
) -> Shards:
    """Return the batches of this process: its part of each step, in an order that all share.

    Parameters
    ----------
    X, Y, sample_weight
        All samples, as `Model.fit` takes them; a memory-mapped array is read batch by batch.
    batch_size : int
        Samples in a step of all processes together, so training does not change with their number.
    shuffle : bool
        Take the samples in a new order in each pass: that of ``default_rng([seed, pass])``.
    seed : int
    shards : int, optional
        Into how many parts a step is cut: as many as there are processes, by default. With
        ``shards=n`` and an optimizer of ``gradient_accumulation_steps=n`` one process computes the
        run of n processes, with the same bits.
    comm : mpi4py.MPI.Comm, optional
        The processes; all of them by default.

    Returns
    -------
    Shards
        For `Model.fit`, its `validation_data`, and `Model.evaluate`.
    """
    data = (X, Y) if sample_weight is None else (X, Y, sample_weight)
    return Shards(data, batch_size, shuffle, seed, shards, comm)


def _arrays(part: Any) -> Any:
    """Arrays, and tuples and dicts of them; a list of arrays is a tuple."""
    if isinstance(part, Mapping):
        return {key: _arrays(value) for key, value in part.items()}
    if isinstance(part, tuple) or (isinstance(part, list) and part and all(map(is_array, part))):
        return tuple(map(_arrays, part))
    return part if isinstance(part, np.ndarray) or part is None else np.asarray(part)


def _leaves(part: Any) -> Iterator[NDArray]:
    if isinstance(part, np.ndarray):
        yield part
    elif part is not None:
        for one in part.values() if isinstance(part, Mapping) else part:
            yield from _leaves(one)


def _count(data: tuple[Any, ...]) -> int:
    lengths = [len(array) if array.ndim else 0 for array in _leaves(data)]
    if len({*lengths}) != 1 or not lengths[0]:
        rule = "X, Y and sample_weight must be arrays with the same number of samples"
        raise ValueError(error_message(rule, lengths=lengths))
    return lengths[0]


def _rows(part: Any, index: Any) -> Any:
    if isinstance(part, Mapping):
        return {key: _rows(value, index) for key, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_rows(one, index) for one in part)
    return None if part is None else part[index]
