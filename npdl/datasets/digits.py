"""The handwritten digits of the UCI Machine Learning Repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


def load_digits() -> tuple[Arrays, Arrays]:
    """Load 1,797 real handwritten digits, split into a training and a test part.

    Every fifth image (index 4, 9, 14, ...) is held out for testing, so the split is always the
    same.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of ndarray
        Images, float32 of shape (1438, 1, 8, 8) and (359, 1, 8, 8), from 0 (paper) to 1 (ink), and
        labels, int64 of shape (1438,) and (359,), from 0 to 9.

    Notes
    -----
    The data are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and
    C. Kaynak, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, under
    CC BY 4.0; see LICENSE-digits.txt beside this file.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as data:
        images, labels = data["images"], data["labels"].astype(np.int64)
    x = (images[:, None] / 16).astype(np.float32)
    held_out = np.arange(len(x)) % 5 == 4
    return (x[~held_out], labels[~held_out]), (x[held_out], labels[held_out])
