"""Mini-batches by index: nothing but the batch at hand is ever copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int
from npdl.data._checks import as_arrays
from npdl.utils.random import get_rng

#: What changes a batch of samples, given a generator of random numbers.
Transform = Callable[[NDArray, np.random.Generator], NDArray]


class Reshuffled:
    """Something that is gone through in a new order each time.

    Parameters
    ----------
    seed : int, optional
        The orders follow from it and from nothing else. Without it each follows from one number of
        ``npdl.utils.get_rng()``, drawn as it begins.
    """

    def __init__(self, seed: int | None) -> None:
        self._rng = None if seed is None else np.random.default_rng(seed)

    def fresh_generator(self) -> np.random.Generator:
        """The generator for one time."""
        return np.random.default_rng((self._rng or get_rng()).integers(2**63))

    def get_state(self) -> dict[str, Any]:
        """Return what the next order follows from, for a training that is to be resumed."""
        return {} if self._rng is None else dict(self._rng.bit_generator.state)

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to where `get_state` was called."""
        if self._rng is not None:
            self._rng.bit_generator.state = state


class Batches(Reshuffled):
    """Arrays in mini-batches, in a new order each time that they are gone through.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
        Samples, targets, sample weights, or any others of one length. A memory-mapped array stays
        on the disk but for the rows of a batch.
    batch_size : int
        Samples in a batch. The last one holds what is left.
    shuffle : bool
        Whether the order is random.
    drop_last : bool
        Whether to leave out a last batch that is not full.
    seed : int, optional
        The orders then follow from it and from nothing else. Otherwise each is drawn from
        ``npdl.utils.get_rng()``.
    transform : callable, optional
        ``transform(x, rng)`` returns what stands in for the batch `x` of the first array, such as
        an `Augment`.

    Yields
    ------
    tuple of ndarray, or ndarray
        A batch of each array; without a tuple if there is only one array.

    Examples
    --------
    >>> import numpy as np
    >>> from npdl.data import Batches
    >>> batches = Batches(np.arange(5), np.arange(5) ** 2, batch_size=2, shuffle=False)
    >>> len(batches)
    3
    >>> [x.tolist() for x, y in batches]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *arrays: Any,
        batch_size: int = 64,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.arrays = as_arrays(arrays)
        self.batch_size = check_int("batch_size", batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        super().__init__(seed)

    def __len__(self) -> int:
        """Number of batches."""
        whole, rest = divmod(len(self.arrays[0]), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        # Drawn now and not when the first batch is: another thread may be the one that asks for it.
        return self._run(self.fresh_generator())

    def _run(self, rng: np.random.Generator) -> Iterator[Any]:
        n = len(self.arrays[0])
        order = rng.permutation(n) if self.shuffle else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            part = slice(start, min(start + self.batch_size, n))
            batch = [take(a, part if order is None else order[part]) for a in self.arrays]
            if self.transform is not None:
                batch[0] = self.transform(batch[0], rng)
            yield batch[0] if len(batch) == 1 else tuple(batch)


def take(array: NDArray, index: slice | NDArray | Sequence[int]) -> NDArray:
    """Rows of an array, as an array of their own in memory."""
    return np.array(array[index], order="C", subok=False)
