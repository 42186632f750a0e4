"""Mini-batches by index: only the current batch is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int
from npdl.data._checks import as_arrays
from npdl.utils.random import get_rng

#: A function that changes a batch of samples, given a random generator.
Transform = Callable[[NDArray, np.random.Generator], NDArray]


class Reshuffled:
    """Base of iterables that are reshuffled on every pass.

    Parameters
    ----------
    seed : int, optional
        It determines all orders. Without it, each pass draws one number from
        ``npdl.utils.get_rng()`` as it begins.
    """

    def __init__(self, seed: int | None) -> None:
        self._rng = None if seed is None else np.random.default_rng(seed)

    def fresh_generator(self) -> np.random.Generator:
        """The generator for one pass."""
        return np.random.default_rng((self._rng or get_rng()).integers(2**63))

    def get_state(self) -> dict[str, Any]:
        """Return the state that determines the next order, to resume a training run."""
        return {} if self._rng is None else dict(self._rng.bit_generator.state)

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to the position of `get_state`."""
        if self._rng is not None:
            self._rng.bit_generator.state = state


class Batches(Reshuffled):
    """Arrays in mini-batches, in a new order on each pass.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
        Samples, targets, sample weights, or any others of one length. Of a memory-mapped array only
        the rows of a batch are read.
    batch_size : int
        Samples in a batch. The last batch may be smaller.
    shuffle : bool
        Whether the order is random.
    drop_last : bool
        Whether to leave out a last batch that is not full.
    seed : int, optional
        Determines all orders. Otherwise each is drawn from ``npdl.utils.get_rng()``.
    transform : callable, optional
        ``transform(x, rng)`` returns what replaces the batch `x` of the first array, such as an
        `Augment`.

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
        # Drawn now, not with the first batch, which another thread may request.
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
    """Rows of an array, copied."""
    return np.array(array[index], order="C", subok=False)
