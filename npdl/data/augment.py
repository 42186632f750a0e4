"""Images changed at random, in ways that do not change what they show.

Each of these is called with a batch of images (N, C, H, W) and a generator of random numbers, and
returns a new array of the same dtype; each image has its own luck.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_number, check_pair, complaint
from npdl.utils.random import get_rng


class _ImageTransform:
    def __call__(self, x: Any, rng: np.random.Generator | None = None) -> NDArray:
        """Return a changed copy of the images `x`, with numbers drawn from `rng`.

        Parameters
        ----------
        x : array_like, shape (N, C, H, W)
        rng : numpy.random.Generator, optional
            ``npdl.utils.get_rng()`` by default.
        """
        images = np.asarray(x)
        if images.ndim != 4:
            raise ValueError(complaint("Images must have shape (N, C, H, W)", shape=images.shape))
        return self._change(images, get_rng() if rng is None else rng)

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        raise NotImplementedError


class Augment(_ImageTransform):
    """Several changes, one after the other.

    Parameters
    ----------
    *changes : callable
        Each with the arguments ``(x, rng)``, such as `Shift`, or a function of your own.

    Examples
    --------
    >>> from npdl.data import Augment, Batches, Flip, Shift
    >>> from npdl.datasets import load_digits
    >>> (x, y), test = load_digits()
    >>> batches = Batches(x, y, transform=Augment(Shift(1), Flip()))
    """

    def __init__(self, *changes: Any) -> None:
        for change in changes:
            if not callable(change):
                raise TypeError(complaint("`changes` must be callable", change=change))
        self.changes = changes

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        for change in self.changes:
            x = change(x, rng)
        return x


class Shift(_ImageTransform):
    """Move each image by a whole number of pixels.

    Parameters
    ----------
    pixels : int or (int, int)
        How far at most, down or up and right or left.
    fill : float
        The value of the pixels that come in from outside.
    """

    def __init__(self, pixels: int | tuple[int, int], fill: float = 0.0) -> None:
        self.pixels = check_pair("pixels", pixels, low=0)
        self.fill = fill

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        return _crop(x, x.shape[2:], self.pixels, self.fill, rng)


class Crop(_ImageTransform):
    """Cut a window of fixed size out of each image, at a random place.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the window.
    padding : int or (int, int)
        Pixels to put around the image first, above and below, left and right.
    fill : float
        Their value.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        fill: float = 0.0,
    ) -> None:
        self.size = check_pair("size", size)
        self.padding = check_pair("padding", padding, low=0)
        self.fill = fill

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        room = [n + 2 * p for n, p in zip(x.shape[2:], self.padding)]
        if self.size[0] > room[0] or self.size[1] > room[1]:
            rule = f"`size` must fit into the image with its padding, {room[0]} by {room[1]}"
            raise ValueError(complaint(rule, size=self.size))
        return _crop(x, self.size, self.padding, self.fill, rng)


class Flip(_ImageTransform):
    """Mirror images, each with probability `p`.

    Parameters
    ----------
    p : float
    vertical : bool
        Turn them upside down instead of swapping left and right.
    """

    def __init__(self, p: float = 0.5, vertical: bool = False) -> None:
        self.p = check_number("p", p, "[0, 1]")
        self.vertical = vertical

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        chosen = rng.random(len(x)) < self.p
        y = x.copy()
        y[chosen] = np.flip(x[chosen], 2 if self.vertical else 3)
        return y


class Noise(_ImageTransform):
    """Add normally distributed noise.

    Parameters
    ----------
    std : float
        Its standard deviation.
    low, high : float
        The values are kept in between.
    """

    def __init__(self, std: float, low: float = -np.inf, high: float = np.inf) -> None:
        self.std = check_number("std", std, "[0, inf)")
        self.low, self.high = float(low), float(high)
        if not self.low < self.high:
            raise ValueError(complaint("`low` must be below `high`", low=low, high=high))

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(complaint("Noise needs float images", dtype=x.dtype.name))
        y = rng.standard_normal(x.shape, x.dtype)
        y *= self.std
        y += x
        return np.clip(y, self.low, self.high, out=y)


def _crop(
    x: NDArray, size: Any, padding: tuple[int, int], fill: float, rng: np.random.Generator
) -> NDArray:
    """A window of `size` out of each image, framed with `fill`, at a random place."""
    n, channels, rows, cols = x.shape
    (above, left), (height, width) = padding, size
    framed = np.full((n, channels, rows + 2 * above, cols + 2 * left), fill, x.dtype)
    framed[:, :, above : above + rows, left : left + cols] = x
    top = rng.integers(0, framed.shape[2] - height, n, endpoint=True)
    side = rng.integers(0, framed.shape[3] - width, n, endpoint=True)
    windows = np.lib.stride_tricks.sliding_window_view(framed, (height, width), (2, 3))
    return windows[np.arange(n), :, top, side]
