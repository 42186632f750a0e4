"""Messages between the processes of a training run.

Every sum is one in the order of the ranks, so that it does not depend on how many messages an MPI
makes of it, and all processes get the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message

#: The subject of a message. All processes must be at the same point of the program.
STEP, REST, STATE, COUNTED, BEGIN = range(1, 6)
_NAMES = {
    STEP: "adds up gradients",
    REST: "is between two steps",
    STATE: "saves its state",
    COUNTED: "adds up its metrics",
    BEGIN: "begins training",
}


def world(comm: Any) -> Any:
    """The communicator: all processes, unless the user names another one."""
    if comm is None:
        from mpi4py import MPI  # starts MPI

        return MPI.COMM_WORLD
    for name in ("Get_rank", "Allgather", "Alltoallv"):
        if not hasattr(comm, name):
            rule = "`comm` must be a communicator of mpi4py, such as MPI.COMM_WORLD"
            raise TypeError(error_message(rule, comm=type(comm).__name__))
    return comm


class Ranks:
    """The processes of a training run.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        Number of processes.
    """

    def __init__(self, comm: Any = None) -> None:
        self.comm = world(comm)
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        #: Arrays for messages, by their use, dtype and size; they are kept.
        self._buffers: dict[Any, NDArray] = {}

    def meet(self, kind: int, *numbers: float) -> NDArray:
        """Return the numbers of all processes, a row for each.

        Raises
        ------
        RuntimeError
            On all of them, if they are not at the same point of the program.
        """
        own = np.array([kind, *numbers, *[0.0] * (3 - len(numbers))])
        rows = np.empty((self.size, own.size))
        self.comm.Allgather(own, rows)
        kinds = rows[:, 0].astype(int).tolist()
        if len({*kinds}) > 1:
            at = "; ".join(f"process {i} {_NAMES[kind]}" for i, kind in enumerate(kinds))
            raise RuntimeError(
                "All processes must do the same number of steps and run the same callbacks; "
                f"npdl.distributed.shard makes equal shares of the data. Received: {at}"
            )
        return rows[:, 1 : 1 + len(numbers)]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process."""
        return self.comm.allgather(value)

    def add(self, flat: NDArray) -> None:
        """Add up an array with one axis over all processes, in place, in the order of the ranks.

        Each process adds up a part of it: the parts of all others come, and the sum goes to all.
        What is sent is as much as in a ring, 2 (n - 1) / n of the array.
        """
        if self.size == 1 or not flat.size:
            return
        sizes = [flat.size // self.size + (i < flat.size % self.size) for i in range(self.size)]
        starts = [sum(sizes[:i]) for i in range(self.size)]
        own = sizes[self.rank]
        parts = self._buffer("parts", (self.size, own), flat.dtype)
        back = [own] * self.size, [own * i for i in range(self.size)]
        self.comm.Alltoallv([flat, (sizes, starts)], [parts, back])
        total = parts[0]
        for part in parts[1:]:
            total += part
        self.comm.Allgatherv(total, [flat, (sizes, starts)])

    def add_all(self, arrays: list[NDArray]) -> None:
        """`add` for several arrays, in one piece of memory or not: one message for each dtype."""
        for dtype in {array.dtype: None for array in arrays}:
            alike = [array for array in arrays if array.dtype == dtype]
            if len(alike) == 1 and alike[0].flags.c_contiguous:
                self.add(alike[0].reshape(-1))
                continue
            flat = self._buffer("flat", (sum(array.size for array in alike),), dtype)
            end = 0
            places = []
            for array in alike:
                start, end = end, end + array.size
                places.append((array, flat[start:end].reshape(array.shape)))
            for array, place in places:
                place[...] = array
            self.add(flat)
            for array, place in places:
                array[...] = place

    def average(self, arrays: list[NDArray]) -> None:
        """Replace arrays with their means over all processes; equal values stay the same."""
        if self.size == 1:
            return
        first = self.comm.bcast(arrays, root=0)
        gaps = [array - base for array, base in zip(arrays, first)]
        self.add_all(gaps)
        for array, base, gap in zip(arrays, first, gaps):
            array[...] = base + gap / self.size

    def _buffer(self, use: str, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        key = use, shape, dtype
        if key not in self._buffers:
            self._buffers[key] = np.empty(shape, dtype)
        return self._buffers[key]
