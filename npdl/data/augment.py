"""Images changed at random, in ways that do not change what they show.

Each of these is called with a batch of images (N, C, H, W) and a generator of random numbers, and
returns a new array of the same dtype; each image is changed independently of the others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_number, check_pair, error_message
from npdl._elementary import exp
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
            raise ValueError(
                error_message("Images must have shape (N, C, H, W)", shape=images.shape)
            )
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
                raise TypeError(error_message("`changes` must be callable", change=change))
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
        padded = [n + 2 * p for n, p in zip(x.shape[2:], self.padding)]
        if self.size[0] > padded[0] or self.size[1] > padded[1]:
            rule = f"`size` must fit into the image with its padding, {padded[0]} by {padded[1]}"
            raise ValueError(error_message(rule, size=self.size))
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
            raise ValueError(error_message("`low` must be below `high`", low=low, high=high))

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        if x.dtype not in (np.float32, np.float64):
            raise TypeError(error_message("Noise needs float images", dtype=x.dtype.name))
        y = rng.standard_normal(x.shape, x.dtype)
        y *= self.std
        y += x
        return np.clip(y, self.low, self.high, out=y)


class _Warp(_ImageTransform):
    """Takes each pixel from another position of the image, by bilinear interpolation.

    Parameters
    ----------
    fill : float or "edge"
        The value around the image, or "edge" for that of the nearest pixel.
    """

    def __init__(self, fill: float | str) -> None:
        if isinstance(fill, str) and fill != "edge":
            raise ValueError(error_message("`fill` must be a number or 'edge'", fill=fill))
        self.fill = fill

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        matrices = self._matrices(len(x), rng)
        y = np.empty_like(x, order="C")
        some = max(1, _PIXELS // max(x[0].size if len(x) else 1, 1))
        for i in range(0, len(x), some):
            y[i : i + some] = _warped(x[i : i + some], matrices[i : i + some], self.fill)
        return y

    def _matrices(self, n: int, rng: np.random.Generator) -> NDArray:
        """The matrix from a pixel's position, relative to the centre, to that of its source."""
        raise NotImplementedError


class Rotation(_Warp):
    """Turn each image about its centre.

    Parameters
    ----------
    degrees : float
        How far at most, to either side.
    fill : float or "edge"
        The value of pixels from outside the image, or "edge" for that of the nearest pixel.
    """

    def __init__(self, degrees: float, fill: float | str = 0.0) -> None:
        super().__init__(fill)
        self.degrees = check_number("degrees", degrees, "[0, inf)")

    def _matrices(self, n: int, rng: np.random.Generator) -> NDArray:
        angle = np.deg2rad(rng.uniform(-self.degrees, self.degrees, n))
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, sin], [-sin, cos]]).transpose(2, 0, 1)


class Zoom(_Warp):
    """Make each image larger or smaller about its centre.

    Parameters
    ----------
    factor : float or (float, float)
        The smallest and the largest factor of sizes; a single number z means 1/z to z,
        or z to 1/z. Each factor is as likely as its reciprocal.
    fill : float or "edge"
        As in `Rotation`.
    """

    def __init__(self, factor: float | tuple[float, float], fill: float | str = 0.0) -> None:
        super().__init__(fill)
        pair = (factor, 1 / factor) if isinstance(factor, int | float) and factor else factor
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(error_message("`factor` must be a number or two", factor=factor))
        low, high = sorted(check_number("factor", z, "(0, inf)") for z in pair)
        self.low, self.high = low, high

    def _matrices(self, n: int, rng: np.random.Generator) -> NDArray:
        factors = exp(rng.uniform(math.log(self.low), math.log(self.high), n))
        return np.eye(2) / factors[:, None, None]


class Brightness(_ImageTransform):
    """Make each image brighter or darker, all of its pixels by one number.

    Parameters
    ----------
    amount : float
        What is added at most, and taken away at most.
    low, high : float
        The values are kept in between; those of integers within the limits of their dtype too.
    """

    def __init__(self, amount: float, low: float = -np.inf, high: float = np.inf) -> None:
        self.amount = check_number("amount", amount, "[0, inf)")
        self.low, self.high = float(low), float(high)
        if not self.low < self.high:
            raise ValueError(error_message("`low` must be below `high`", low=low, high=high))

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        floats = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
        added = rng.uniform(-self.amount, self.amount, (len(x), 1, 1, 1)).astype(floats)
        return _as_dtype(np.clip(x + added, self.low, self.high), x.dtype)


class Cutout(_ImageTransform):
    """Cover a rectangle of each image, at a random place (DeVries and Taylor 2017).

    Its centre may be any pixel, so that a part of it may lie outside of the image.

    Parameters
    ----------
    size : int or (int, int)
        Height and width.
    fill : float
        The value of the covered pixels.
    """

    def __init__(self, size: int | tuple[int, int], fill: float = 0.0) -> None:
        self.size = check_pair("size", size)
        self.fill = fill

    def _change(self, x: NDArray, rng: np.random.Generator) -> NDArray:
        inside = []
        for pixels, side in zip(x.shape[2:], self.size):
            first = rng.integers(pixels, size=(len(x), 1)) - side // 2
            place = np.arange(pixels)
            inside.append((place >= first) & (place < first + side))
        covered = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return np.where(covered, np.asarray(self.fill, x.dtype), x)


#: Elements warped at once, to keep temporary arrays small.
_PIXELS = 1 << 18


def _warped(x: NDArray, matrices: NDArray, fill: float | str) -> NDArray:
    """Images whose pixel at c + v is that of x at c + M v, where c is the centre."""
    n, channels, rows, cols = x.shape
    centre = np.array([(rows - 1) / 2, (cols - 1) / 2])
    places = np.indices((rows, cols)).reshape(2, -1) - centre[:, None]
    where = matrices @ places + centre[:, None]
    low = np.floor(where).astype(np.intp)
    part = where - low
    around = 0 if fill == "edge" else 1  # width of the frame; everything beyond it has its value
    floats = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    framed = np.full((n, channels, rows + 2 * around, cols + 2 * around), 0, floats)
    if around:
        framed[...] = fill
    framed[:, :, around : around + rows, around : around + cols] = x
    flat = framed.reshape(n, channels, -1)
    y = np.zeros((n, channels, rows * cols), floats)
    for down in (0, 1):
        for right in (0, 1):
            row = np.clip(low[:, 0] + down, -around, rows - 1 + around) + around
            col = np.clip(low[:, 1] + right, -around, cols - 1 + around) + around
            weight = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
            index = (row * framed.shape[3] + col)[:, None, :]
            y += weight[:, None, :].astype(floats) * np.take_along_axis(flat, index, 2)
    return _as_dtype(y.reshape(x.shape), x.dtype)


def _as_dtype(y: NDArray, dtype: np.dtype) -> NDArray:
    """Values in a dtype; integers are rounded and kept within their limits."""
    if dtype.kind not in "iu":
        return y.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(y), limits.min, limits.max).astype(dtype)


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
