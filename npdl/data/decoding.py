"""Labels from the outputs of a network that is trained with `npdl.objectives.CTC`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, error_message, float_array


def ctc_decode(
    outputs: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    beam_width: int = 1,
    blank: int = -1,
    from_logits: bool = False,
) -> tuple[NDArray, NDArray]:
    """Return the most probable labels of outputs, and their log-probabilities.

    Parameters
    ----------
    outputs : array_like, shape (N, T, K)
        Probabilities of K classes at each step, or logits; see `npdl.objectives.CTC`.
    mask : array_like, shape (N, T), optional
        0 for each step that does not count.
    beam_width : int
        1 reads the most likely path (greedy). With more, the probabilities of all paths that read
        as the same labels are added, of as many label sequences as this at a time (Graves 2012,
        Hannun et al. 2014); the best one at the end is returned.
    blank : int
        The class of the blank; a negative one counts from the last class.
    from_logits : bool
        Whether the outputs are logits.

    Returns
    -------
    labels : ndarray of int64, shape (N, L)
        Filled with -1; L is the most labels that a sample has.
    log_probabilities : ndarray, shape (N,)
        Log-probability of the path or, with a beam, of the labels: the sum over the paths followed.

    Examples
    --------
    >>> import numpy as np
    >>> from npdl.data import ctc_decode
    >>> p = np.array([[[0.4, 0.6], [0.4, 0.6]]])  # class 0, and the blank
    >>> ctc_decode(p)[0].tolist()  # blank, blank: 0.36
    [[]]
    >>> labels, log_p = ctc_decode(p, beam_width=4)  # 0 and 0, 0 and blank, blank and 0
    >>> labels.tolist(), np.exp(log_p).round(2).tolist()
    ([[0]], [0.64])
    """
    x = float_array(outputs, "outputs")
    if x.ndim != 3 or not x.shape[2]:
        raise ValueError(error_message("`outputs` must have shape (N, T, K)", shape=x.shape))
    check_int("beam_width", beam_width)
    classes = x.shape[2]
    if not -classes <= check_int("blank", blank, low=-classes) < classes:
        raise ValueError(error_message(f"`blank` must be one of {classes} classes", blank=blank))
    real = np.ones(x.shape[:2], bool) if mask is None else np.asarray(mask) != 0
    if real.shape != x.shape[:2]:
        raise ValueError(error_message(f"`mask` must have shape {x.shape[:2]}", shape=real.shape))
    decode = _best_path if beam_width == 1 else _beam
    found, scores = [], np.empty(len(x), x.dtype)
    for i, (rows, steps) in enumerate(zip(x, real)):
        labels, scores[i] = decode(_log_p(rows[steps], from_logits), blank % classes, beam_width)
        found.append(labels)
    filled = np.full((len(x), max(map(len, found), default=0)), -1)
    for row, labels in zip(filled, found):
        row[: len(labels)] = labels
    return filled, scores


def _log_p(rows: NDArray, from_logits: bool) -> NDArray:
    rows = rows.astype(np.float64)
    if from_logits:
        rows = rows - rows.max(axis=1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return np.log(rows, out=np.full_like(rows, -np.inf), where=rows > 0)


def _best_path(log_p: NDArray, blank: int, _: int) -> tuple[list[int], float]:
    path = log_p.argmax(axis=1)
    new = path != np.concatenate([[-1], path[:-1]])
    return path[new & (path != blank)].tolist(), float(log_p.max(axis=1, initial=-np.inf).sum())


def _beam(log_p: NDArray, blank: int, width: int) -> tuple[list[int], float]:
    """The best of the label sequences that a beam holds.

    A sequence has a number, of which `tree` has (that without its last label, the label). Of each
    the beam holds the log-probabilities that it ended in the blank, and that it ended in its label.
    """
    tree: list[tuple[int, int]] = [(-1, -1)]
    numbers: dict[tuple[int, int], int] = {}
    beam = [0]
    ends_blank, ends_label = np.zeros(1), np.full(1, -np.inf)
    for row in log_p:
        last = np.array([tree[node][1] for node in beam])
        both = np.logaddexp(ends_blank, ends_label)
        # A blank, or a repeat of the last label, keeps a sequence as it is; other labels extend it.
        # The last label again needs a blank before it.
        stays_blank = both + row[blank]
        stays_label = np.where(last >= 0, ends_label + row[last], -np.inf)
        grows = both[:, None] + row
        again = np.flatnonzero(last >= 0)
        grows[again, last[again]] = ends_blank[again] + row[last[again]]
        grows[:, blank] = -np.inf
        place = {node: i for i, node in enumerate(beam)}
        for i, node in enumerate(beam):  # one that grows may become another of the beam
            parent, label = tree[node]
            if parent in place:
                stays_label[i] = np.logaddexp(stays_label[i], grows[place[parent], label])
                grows[place[parent], label] = -np.inf
        scores = np.concatenate([np.logaddexp(stays_blank, stays_label), grows.reshape(-1)])
        best = np.argsort(-scores, kind="stable")[:width]
        best = best[scores[best] > -np.inf]
        if not best.size:  # a step without any possible class
            return [], -np.inf
        stay, grow = best[best < len(beam)], best[best >= len(beam)] - len(beam)
        parents, labels = np.divmod(grow, len(row))
        new = []
        for key in zip((beam[i] for i in parents), labels.tolist()):
            if key not in numbers:
                numbers[key] = len(tree)
                tree.append(key)
            new.append(numbers[key])
        ends_blank = np.concatenate([stays_blank[stay], np.full(len(new), -np.inf)])
        ends_label = np.concatenate([stays_label[stay], grows[parents, labels]])
        beam = [*(beam[i] for i in stay), *new]
    both = np.logaddexp(ends_blank, ends_label)
    top = int(both.argmax())
    found, node = [], beam[top]
    while node:
        node, label = tree[node]
        found.append(label)
    return found[::-1], float(both[top])


def edit_distance(found: ArrayLike, wanted: ArrayLike) -> NDArray:
    """Return how many labels must be changed, put in or left out (Levenshtein 1966).

    Over the number of wanted labels it is the error rate of labels.

    Parameters
    ----------
    found, wanted : array_like of int, shape (N, L) and (N, M)
        Labels of N samples; negative ones are none.

    Returns
    -------
    ndarray of int64, shape (N,)

    Examples
    --------
    >>> from npdl.data import edit_distance
    >>> edit_distance([[1, 2, 3, -1]], [[1, 3, 3, 4]]).tolist()
    [2]
    """
    one, other = np.asarray(found), np.asarray(wanted)
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other):
        rule = "`found` and `wanted` must have shapes (N, L) and (N, M)"
        raise ValueError(error_message(rule, found=one.shape, wanted=other.shape))
    pairs: Any = zip(one, other)
    return np.array([_distance(a[a >= 0], b[b >= 0]) for a, b in pairs], np.int64)


def _distance(a: NDArray, b: NDArray) -> int:
    places = np.arange(len(b) + 1)
    row = places
    for i, label in enumerate(a, 1):
        # Replace or delete; then insert, which costs 1 for each place to the right.
        low = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != label))])
        row = np.minimum.accumulate(low - places) + places
    return int(row[-1])
