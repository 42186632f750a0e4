"""Level 2: where batches come from: arrays, or an iterable of batches.

A feed is iterated over once for each epoch. Between two batches, `get_state` returns its position,
so that a training run can be resumed.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message
from npdl._ext import kernels
from npdl.batch import ONE, Batch, Names, item_batch
from npdl.utils.random import get_rng, get_rng_state, set_rng_state

_END = object()


class Feed:
    """Batches of one epoch after the other.

    Attributes
    ----------
    samples : int or None
        How many there are in an epoch, if known.
    steps : int or None
        How many batches.
    exhausted : bool
        Whether the data ended early.
    """

    samples: int | None = None
    steps: int | None = None
    exhausted = False

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, skipping the first `done`."""
        raise NotImplementedError

    def first(self) -> Batch:
        """The first sample, to build the model; it is yielded again in the epoch."""
        raise NotImplementedError

    def get_state(self) -> dict[str, Any]:
        """Return the position of the feed, between two batches."""
        raise NotImplementedError

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to the position of `get_state`. May leave npdl's generator in any state."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what the feed holds, and return to its beginning if possible."""


class ArrayFeed(Feed):
    """Batches of arrays, which are never copied as a whole.

    Parameters
    ----------
    data : Batch
        All samples.
    batch_size : int
        The last batch of a pass may be smaller.
    shuffle : bool
        Whether each pass has a new order. Its batches are gathered into buffers, which are reused;
        otherwise they are slices.
    steps : int, optional
        Batches in an epoch; by default those of one pass. Otherwise an epoch continues where the
        last one ended.
    """

    def __init__(
        self, data: Batch, batch_size: int, shuffle: bool = False, steps: int | None = None
    ) -> None:
        self.data = data
        self._n = data.samples
        self._batch_size = batch_size
        self._shuffle = shuffle
        passes = math.ceil(self._n / batch_size)
        self.steps: int = passes if steps is None else steps
        self.samples = self._n if self.steps == passes else None
        #: Where the next batch starts; 0 begins a new pass.
        self._start = 0
        self._order: NDArray | None = None
        self._before: Mapping[str, Any] | None = None
        self._size = min(batch_size, self._n)
        #: The arrays of all samples with those that batches are gathered into, by id.
        self._buffers: dict[int, tuple[NDArray, NDArray]] = {
            id(array): (array, np.empty((self._size, *array.shape[1:]), array.dtype))
            for part in data
            for array in part
            if array is not None and shuffle and array.flags.c_contiguous
        }
        #: The batch of these arrays, if it is all of them.
        self._whole: Batch | None = None
        if all(a is None or id(a) in self._buffers for part in data for a in part):
            self._whole = data.map(lambda array: self._buffers[id(array)][1])
        #: Gathers it by compiled code, if there is some.
        self._tape: Any = None
        plain = all(a.dtype.kind in "fiub" and a.dtype.isnative for a, _ in self._buffers.values())
        if self._whole is not None and plain and self._size and kernels().recorded:
            self._tape = self._taking()

    def _taking(self) -> Any:
        """A tape that takes the rows of a batch."""
        steps, tape = (importlib.import_module(f"npdl._ext.{name}") for name in ("steps", "tape"))
        index = np.zeros(self._size, np.int64)
        calls = [
            (steps.take_step(self._size, buffer.nbytes // self._size), [array, index, buffer])
            for array, buffer in self._buffers.values()
        ]
        return tape.Tape(calls, [index])

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `Feed.epoch`."""
        for _ in range(done, self.steps):
            start, stop = self._start, self._start + self._batch_size
            if start == 0:
                self._begin()
            self._start = stop if stop < self._n else 0
            if self._order is None:
                yield self.data.rows(slice(start, stop))
            else:
                yield self._gather(self._order[start:stop])

    def _begin(self) -> None:
        if self._shuffle:
            self._before = get_rng_state()
            order = get_rng().permutation(self._n)
            self._order = order.astype(np.int64, copy=False)  # int32 on 32-bit machines

    def _gather(self, index: NDArray) -> Batch:
        if self._whole is not None and len(index) == self._size:
            if self._tape is not None and self._tape.play([index]) > 0:
                return self._whole
            for array, buffer in self._buffers.values():
                array.take(index, 0, buffer, "clip")
            return self._whole

        def taken(array: NDArray) -> NDArray:
            if id(array) not in self._buffers:  # `take` would copy all of it
                return array[index]
            return array.take(index, 0, self._buffers[id(array)][1][: len(index)], "clip")

        return self.data.map(taken)

    def first(self) -> Batch:
        """The first sample."""
        return self.data.rows(slice(1))

    def get_state(self) -> dict[str, Any]:
        """Return the place in this pass, and the generator's state before its order was drawn."""
        return {"start": self._start, "before": self._before if self._start else None}

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to the position of `get_state`."""
        start = int(state["start"])
        if not 0 <= start < self._n:
            rule = f"The state to resume from must be one of {self._n} samples"
            raise ValueError(error_message(rule, start=start))
        if start and self._shuffle:
            set_rng_state(state["before"])
            self._begin()
        self._start = start

    def close(self) -> None:
        """Return to the beginning of a pass."""
        self._start = 0


class StreamFeed(Feed):
    """Batches of an iterable.

    Parameters
    ----------
    source : iterable
        It yields ``(x, y)`` or ``(x, y, sample_weight)``. A generator is iterated once, over all
        epochs; anything else restarts when it ends. To resume a run, it needs `get_state` and
        `set_state` if the order of its batches depends on more than npdl's generator.
    steps : int, optional
        Batches in an epoch; by default an epoch ends where the iterable does.
    weigh : callable, optional
        Turns a batch into one with other weights.
    names : Names
        Names of the inputs and outputs of the model.
    """

    def __init__(
        self,
        source: Any,
        steps: int | None = None,
        weigh: Callable[[Batch], Batch] = lambda batch: batch,
        names: Names = ONE,
    ) -> None:
        self._source = source
        self._weigh = weigh
        self._names = names
        self._wanted = steps
        self.steps = steps
        self._length = len(source) if hasattr(source, "__len__") else None
        if steps is None:
            self.steps = self._length
        self._items: Iterator[Any] | None = None
        self._own: Any = None  # the same, without the items put back
        self._once = hasattr(source, "__next__")
        self._taken = 0
        self._before: dict[str, Any] = {}

    def epoch(self, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; see `Feed.epoch`."""
        count = done
        while count != self._wanted:
            if self._items is None:
                self._begin()
            item = next(self._items, _END)  # type: ignore[arg-type]
            if item is _END:
                self._end_pass()
                if self._once or self._wanted is None or self._taken == 0:
                    break
                continue
            self._taken += 1
            if _is_empty(item):
                continue
            count += 1
            yield self._weigh(item_batch(item, self._names))
        if self._length is not None and self._taken == self._length:
            self._end_pass()
        self.exhausted = count == 0 or (self._wanted is not None and count < self._wanted)

    def _end_pass(self) -> None:
        """Tell a sequence such as Keras's PyDataset that all its batches were taken."""
        if self._once or self._items is None:
            return
        self._items = self._own = None
        if hasattr(self._source, "on_epoch_end"):
            self._source.on_epoch_end()

    def _begin(self) -> None:
        self._before = {"rng": get_rng_state(), "source": self._source_state()}
        self._taken = 0
        self._items = self._own = _iterate(self._source)

    def _source_state(self) -> Any:
        return self._source.get_state() if hasattr(self._source, "get_state") else None

    def first(self) -> Batch:
        """The first sample, to build the model; it is yielded again in the epoch."""
        if self._items is None:
            self._begin()
        item = next(self._items, _END)  # type: ignore[arg-type]
        while _is_empty(item):
            self._taken += 1
            item = next(self._items, _END)  # type: ignore[arg-type]
        if item is _END:
            raise ValueError("`X` must yield at least one batch. Received: none")
        self._items = itertools.chain([item], self._items)  # type: ignore[arg-type]
        return item_batch(item, self._names).rows(slice(1))

    def get_state(self) -> dict[str, Any]:
        """Return the number of batches taken, and the states before the first one."""
        if self._items is None:
            return {"taken": 0, "source": self._source_state()}
        return {"taken": self._taken, **self._before}

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to the position of `get_state`, by taking as many batches again."""
        self.close()
        if state["source"] is not None:
            self._source.set_state(state["source"])
        if not state["taken"]:
            return
        set_rng_state(state["rng"])
        if self._items is None:
            self._begin()
        for _ in range(state["taken"]):
            next(self._items, None)  # type: ignore[arg-type]
        self._taken = state["taken"]

    def close(self) -> None:
        """Close an iterator that was made here, and its thread if it has one."""
        if self._once:
            return
        if hasattr(self._own, "close"):
            self._own.close()
        self._items = self._own = None


def _is_empty(item: Any) -> bool:
    """Whether a batch holds no samples: it is skipped, and is not a step."""
    x = item[0] if isinstance(item, tuple | list) and item else item
    x = x[0] if isinstance(x, tuple) and x else x
    return isinstance(x, np.ndarray | list) and len(x) == 0


def _iterate(source: Any) -> Iterator[Any]:
    """Iterate over an iterable, or a sequence such as Keras's PyDataset."""
    if hasattr(source, "__iter__"):
        return iter(source)
    return (source[i] for i in range(len(source)))
