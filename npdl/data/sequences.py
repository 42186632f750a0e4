"""Sequences of different lengths, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npdl._checks import check_choice, check_int, error_message
from npdl.data.batches import Reshuffled
from npdl.utils.random import get_dtype


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: DTypeLike | None = None,
    padding: str = "pre",
    truncating: str = "pre",
    value: float = 0.0,
    *,
    return_mask: bool = False,
) -> Any:
    """Return sequences of different lengths as one array.

    Parameters
    ----------
    sequences : sequence of array_like, each of shape (T_i, ...)
        Such as lists of word numbers, or arrays of T_i feature vectors.
    maxlen : int, optional
        Length T of all of them; that of the longest if not given.
    dtype : dtype, optional
        By default the one that can hold all of the sequences.
    padding : {"pre", "post"}
        Where to pad shorter sequences: in front, so that each sequence ends at the last step, or
        behind.
    truncating : {"pre", "post"}
        Where to cut longer sequences: at the beginning, or at the end.
    value : float
        The padding value.
    return_mask : bool
        Whether to also return which steps are real.

    Returns
    -------
    padded : ndarray, shape (N, T, ...)
    mask : ndarray of uint8, shape (N, T), if `return_mask`
        1 for a step of the sequence, 0 for padding: the `mask` of recurrent layers.

    Examples
    --------
    >>> from npdl.data import pad_sequences
    >>> pad_sequences([[1, 2, 3], [4]]).tolist()
    [[1, 2, 3], [0, 0, 4]]
    """
    check_choice("padding", padding, ("pre", "post"))
    check_choice("truncating", truncating, ("pre", "post"))
    rows = as_sequences(sequences)
    if maxlen is not None:
        check_int("maxlen", maxlen)
    length = max(map(len, rows)) if maxlen is None else maxlen
    if dtype is None:
        dtype = np.result_type(*{row.dtype for row in rows if len(row)})
    padded, mask = _padded(rows, length, _item_shape(rows), dtype, padding, truncating, value)
    return (padded, mask) if return_mask else padded


def _padded(
    rows: Sequence[NDArray],
    length: int,
    item: tuple[int, ...],
    dtype: DTypeLike,
    padding: str,
    truncating: str = "pre",
    value: float = 0.0,
) -> tuple[NDArray, NDArray]:
    padded = np.full((len(rows), length, *item), value, dtype)
    mask = np.zeros((len(rows), length), np.uint8)
    for row, out, real in zip(rows, padded, mask):
        kept = row[max(0, len(row) - length) :] if truncating == "pre" else row[:length]
        part = slice(length - len(kept), None) if padding == "pre" else slice(len(kept))
        if len(kept):  # an empty one need not have the shape of the others' items
            out[part], real[part] = kept, 1
    return padded, mask


class Buckets(Reshuffled):
    """Batches of sequences that are of about the same length, so that little padding is needed.

    Parameters
    ----------
    sequences : sequence of array_like, each of shape (T_i, ...)
    targets : array_like of length N, or sequence of N sequences, optional
        One target for each sequence; or one for each step, as long as the sequences are.
    batch_size : int
    boundaries : list of int, optional
        Largest length of each bucket; longer sequences go into one more. By default at most ten
        buckets, with about the same number of sequences each.
    shuffle : bool
        Whether the sequences within a bucket, and then the batches, are put in a random order.
    padding : {"pre", "post"}
    value : float
        As in `pad_sequences`. A batch is as long as its longest sequence, and has one step where
        all of its sequences are empty.
    masks : bool
        Whether to yield ``(x, mask)`` in place of `x`, for recurrent layers.
    drop_last : bool
        Whether to leave out batches that are not full.
    seed : int, optional
        As in `Batches`.

    Yields
    ------
    x : ndarray, shape (N, T, ...)
        Without a tuple if there are no `targets`; with `masks` then ``((x, mask),)``.
    y : ndarray
        Targets; padded with 0 if there is one for each step.
    weight : ndarray of `get_dtype()`, shape (N, T)
        Only where there is a target for each step: 0 for those of the padding, which add nothing to
        the loss, and 1 for all others. With `masks` the mean of the loss is over these only.
    """

    def __init__(
        self,
        sequences: Sequence[Any],
        targets: Any = None,
        batch_size: int = 64,
        *,
        boundaries: Sequence[int] | None = None,
        shuffle: bool = True,
        padding: str = "pre",
        value: float = 0.0,
        masks: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        self.sequences = as_sequences(sequences)
        self.batch_size = check_int("batch_size", batch_size)
        self.shuffle, self.masks, self.drop_last = shuffle, masks, drop_last
        self.padding, self.value = check_choice("padding", padding, ("pre", "post")), value
        super().__init__(seed)
        lengths = np.array([len(s) for s in self.sequences])
        self.stepwise, self.targets = _as_targets(targets, lengths)
        if boundaries is None:
            tenths = np.quantile(lengths[lengths > 0], np.arange(0.1, 1, 0.1), method="higher")
            boundaries = np.unique(tenths).tolist()
        # The bucket of a length is the first whose boundary it does not exceed.
        number = np.searchsorted(np.sort(np.asarray(boundaries)), lengths)
        self.buckets = [np.flatnonzero(number == k) for k in np.unique(number)]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches(self.buckets))

    def __iter__(self) -> Iterator[Any]:
        rng = self.fresh_generator() if self.shuffle else None
        if rng is None:
            return map(self._batch, self._batches(self.buckets))
        batches = self._batches([rng.permutation(bucket) for bucket in self.buckets])
        return (self._batch(batches[i]) for i in rng.permutation(len(batches)))

    def _batches(self, buckets: Sequence[NDArray]) -> list[NDArray]:
        """The indices of the sequences of each batch."""
        size = self.batch_size
        parts = [b[i : i + size] for b in buckets for i in range(0, len(b), size)]
        return [part for part in parts if len(part) == size or not self.drop_last]

    def _batch(self, index: NDArray) -> Any:
        x, mask = self._pad(self.sequences, index, self.value)
        inputs = (x, mask) if self.masks else x
        if self.targets is None:  # a pair of arrays would be taken for samples and targets
            return (inputs,) if self.masks else inputs
        if not self.stepwise:
            return inputs, np.asarray(self.targets)[index]
        y, _ = self._pad(self.targets, index)
        return inputs, y, mask.astype(get_dtype())

    def _pad(
        self, sequences: list[NDArray], index: NDArray, value: float = 0.0
    ) -> tuple[NDArray, NDArray]:
        rows = [sequences[i] for i in index]
        length = max(1, *map(len, rows))
        full = [row for row in rows if len(row)] or [row for row in sequences if len(row)]
        dtype = np.result_type(*{row.dtype for row in full})
        return _padded(rows, length, full[0].shape[1:], dtype, self.padding, value=value)


def as_sequences(sequences: Any, name: str = "sequences") -> list[NDArray]:
    """Return sequences as arrays whose items are of one shape."""
    rows = [np.asarray(row) for row in sequences]
    if not rows:
        raise ValueError(f"`{name}` must hold at least one sequence. Received: none")
    for row in rows:
        if row.ndim == 0 or row.dtype.kind not in "fiub":
            rule = f"`{name}` must be sequences of numbers"
            raise TypeError(error_message(rule, dtype=row.dtype.name, shape=row.shape))
    if not any(map(len, rows)):
        raise ValueError(f"`{name}` must hold at least one item. Received: empty sequences only")
    shape = _item_shape(rows)
    for row in rows:
        if len(row) and row.shape[1:] != shape:
            rule = f"The items of `{name}` must have one shape, {shape}"
            raise ValueError(error_message(rule, shape=row.shape[1:]))
    return rows


def _item_shape(rows: Sequence[NDArray]) -> tuple[int, ...]:
    return next(row.shape[1:] for row in rows if len(row))


def _as_targets(targets: Any, lengths: NDArray) -> tuple[bool, Any]:
    """Whether there is a target for each step, and the targets as an array or a list of arrays."""
    if targets is None:
        return False, None
    if len(targets) != len(lengths):
        rule = f"`targets` must be as many as the sequences, {len(lengths)}"
        raise ValueError(error_message(rule, targets=len(targets)))
    rows = [np.asarray(row) for row in targets]
    if all(row.ndim and len(row) == n for row, n in zip(rows, lengths)):
        return True, as_sequences(rows, "targets")
    if len({row.shape for row in rows}) > 1:
        rule = "`targets` must be of one shape, or as long as their sequences"
        wrong = next(i for i, n in enumerate(lengths) if not rows[i].ndim or len(rows[i]) != n)
        raise ValueError(error_message(rule, index=wrong, shape=rows[wrong].shape))
    return False, np.stack(rows)
