"""Labels, as class numbers and as one-hot rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_int, error_message, label_array
from npdl.utils.random import get_dtype

#: Below this many columns, or 100 per label, a large label is not taken for a mistake.
_MANY = 1_000_000


def one_hot(labels: ArrayLike, nb_classes: int | None = None) -> np.ndarray:
    """Return the one-hot rows of class numbers: a 1 in the column of the label.

    Parameters
    ----------
    labels : array_like of int, any shape
    nb_classes : int, optional
        Number of columns K; the largest label plus one if not given.

    Returns
    -------
    ndarray of `get_dtype()`, shape ``(*labels.shape, K)``

    Raises
    ------
    ValueError
        If a label is negative, not whole, or not below `nb_classes`; or so large that without
        `nb_classes` it must be a mistake.
    """
    if nb_classes is not None:
        nb_classes = check_int("nb_classes", nb_classes)
    numbers = label_array(labels, nb_classes)
    if nb_classes is None:
        if not numbers.size:
            raise ValueError("`nb_classes` must be given where there are no labels.")
        nb_classes = int(numbers.max()) + 1
        if nb_classes > max(_MANY, 100 * numbers.size):
            rule = f"`nb_classes` must be given where a label is {_MANY} or more"
            raise ValueError(error_message(rule, label=nb_classes - 1))
    rows = np.zeros((*numbers.shape, nb_classes), get_dtype())
    np.put_along_axis(rows, numbers[..., None], 1, -1)
    return rows


def unhot(one_hot_labels: ArrayLike) -> np.ndarray:
    """Return the class number of each row: the column of its largest value.

    Parameters
    ----------
    one_hot_labels : array_like, shape (..., K)
        One-hot rows, or probabilities.

    Returns
    -------
    ndarray of int64, shape (...)
    """
    rows = np.asarray(one_hot_labels)
    if rows.ndim < 2 or not rows.shape[-1]:
        raise ValueError(
            error_message("`one_hot_labels` must have shape (N, K), K >= 1", shape=rows.shape)
        )
    return rows.argmax(axis=-1)
