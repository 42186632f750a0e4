"""Max and mean pooling, of images and of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, check_pair
from npdl._ext import kernels
from npdl.layers._windows import SIDE_NAMES, check_sides, window_geometry
from npdl.layers.base import Layer, Shape, cached_by_shape, shape_fits

#: Largest number of pixels of an image: the kernels index them as int32.
_MOST = 2**31 - 1


class _Geometry(NamedTuple):
    """The geometry of pooling arrays of one shape."""

    out_shape: tuple[int, ...]
    images: tuple[int, int, int, int]  # the input, as the kernels see it
    pooled: tuple[int, int, int, int]  # the output
    geometry: tuple[int, ...]  # window, stride, padding above and on the left


class Pooling(Layer):
    """Base of all pooling layers: a subclass defines `_geometry`, and is one of the kinds below."""

    def _geometry(self, shape: Any) -> _Geometry:
        """How to pool arrays of this shape.

        Raises
        ------
        ValueError
            If they can't be pooled.
        """
        raise NotImplementedError

    def _check_shape(self, shape: Any, wanted: tuple[str, ...]) -> None:
        if not shape_fits(shape, wanted):
            raise self._shape_error(shape, wanted)

    def _forward(self, input: ArrayLike, train: bool, mask: ArrayLike | None = None) -> NDArray:
        """The output. With a mask, axis 1 holds steps, and only real ones count."""
        x = self._as_array(input)
        plan = self._geometry(x.shape)
        y = (
            self._buffer("y", plan.out_shape, x.dtype)
            if train
            else np.empty(plan.out_shape, x.dtype)
        )
        pooled = y.reshape(plan.pooled)
        real = share = None
        if mask is not None:
            real = self._checked_array(mask, x.shape[:2], "mask", x.dtype) != 0
            share = _real_share(real, x.dtype, plan)
            x = np.where(real[..., None], x, x.dtype.type(self._neutral))
        argmax = self._pool(x.reshape(plan.images), pooled, plan.geometry, train)
        if share is not None:
            self._leave_out(pooled, share, pooled)
        if train:
            self._cache = x.shape, plan, argmax, real, share
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input."""
        x_shape, plan, argmax, real, share = self._saved_for_backward()
        dy = self._checked_array(pre_grad, plan.out_shape, "pre_grad")
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", x_shape, dy.dtype)
        dy4 = dy.reshape(plan.pooled)
        if share is not None:
            dy4 = self._leave_out(dy4, share, np.zeros_like(dy4))
        self._pool_backward(dy4, argmax, dx.reshape(plan.images), plan.geometry)
        if real is not None:
            dx[~real] = 0
        return dx

    #: The value that masked steps are replaced with.
    _neutral = 0.0

    def _pool(self, x: NDArray, y: NDArray, geometry: Any, train: bool) -> NDArray | None:
        """Fill y, and return what `_pool_backward` needs."""
        raise NotImplementedError

    def _pool_backward(self, dy: NDArray, argmax: Any, dx: NDArray, geometry: Any) -> None:
        """Fill dx."""
        raise NotImplementedError

    def _leave_out(self, values: NDArray, share: NDArray, out: NDArray) -> NDArray:
        """Turn pooled values, or their gradient, into those of the real steps.

        `share` is the share of real steps in each window. Where it is 0, `out` is or becomes 0.
        """
        raise NotImplementedError


class _Max(Pooling):
    """The largest value of each window."""

    _neutral = -np.inf

    def _pool(self, x, y, geometry, train):
        argmax = self._buffer("argmax", y.shape, np.int32) if train else None
        kernels().maxpool_forward(x, y, argmax, *geometry)
        return argmax

    def _pool_backward(self, dy, argmax, dx, geometry):
        kernels().maxpool_backward(dy, argmax, dx)

    def _leave_out(self, values, share, out):
        out[...] = np.where(share > 0, values, values.dtype.type(0))
        return out


class _Mean(Pooling):
    """The mean of each window."""

    def _pool(self, x, y, geometry, train):
        kernels().meanpool_forward(x, y, *geometry)

    def _pool_backward(self, dy, argmax, dx, geometry):
        kernels().meanpool_backward(dy, dx, *geometry)

    def _leave_out(self, values, share, out):
        return np.divide(values, share, out=out, where=share > 0)


def _real_share(real: NDArray, dtype: Any, plan: _Geometry) -> NDArray:
    """The share of real steps in each window, shape (N, 1, T', 1)."""
    n, steps = real.shape
    share = np.empty((n, 1, plan.pooled[2], 1), dtype)
    window, _, stride, _, pad, _ = plan.geometry
    image = real.astype(dtype).reshape(n, 1, steps, 1)
    kernels().meanpool_forward(image, share, window, 1, stride, 1, pad, 0)
    return share


# ------------------------------------------------------------------------------------- windows


class _Windows(Pooling):
    """Base of the layers that slide a window."""

    _n_axes = 2

    def _set_padding(self, padding: Any, window: tuple[int, ...]) -> None:
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                rule = "`padding` must be 'valid', 'same', or numbers of pixels"
                raise self._error(rule, padding=padding)
            self.padding: Any = padding
            return
        self.padding = check_sides("padding", padding, self._n_axes, layer=self.name)
        if any(pad >= size for pads, size in zip(self.padding, window) for pad in pads):
            rule = f"`padding` must be smaller than the window, {window}, on each side"
            raise self._error(rule, padding=padding)

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        raise NotImplementedError

    def _no_window(self, counts: Any, size: Any, window: Any) -> None:
        """Raise an error if not even one window fits."""
        if 0 in counts:
            axis = counts.index(0)
            side = f"pixels {SIDE_NAMES[axis]}" if len(counts) == 2 else "steps long"
            place = "image" if len(counts) == 2 else "sequence"
            rule = f"The window must fit into the {place}, {size[axis]} {side}"
            raise self._error(rule, pool_size=window)


class _Pooling2D(_Windows):
    def __init__(
        self,
        pool_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
        padding: Any = "valid",
    ) -> None:
        self.pool_size = check_pair("pool_size", pool_size, layer=self.name)
        self.stride = (
            self.pool_size if stride is None else check_pair("stride", stride, layer=self.name)
        )
        self._set_padding(padding, self.pool_size)

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, 3, 4)
        counts, _ = window_geometry(in_shape[-2:], self.pool_size, self.stride, self.padding)
        self._no_window(counts, in_shape[-2:], self.pool_size)
        return (*in_shape[:-2], *counts)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the pooled images.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W) or (N, H, W)
        train : bool
            Whether to keep what `backward` needs.
        """
        return self._forward(input, train)

    def _geometry(self, shape: Any) -> _Geometry:
        plan = _image_geometry(shape, self.pool_size, self.stride, self.padding)
        if plan is None:  # one of these raises the error
            self._check_shape(shape, ("N", "H", "W") if len(shape) == 3 else ("N", "C", "H", "W"))
            self.build(shape)
            raise self._error(f"An image must have at most {_MOST} pixels", shape=shape)
        return plan


class _Pooling1D(_Windows):
    _n_axes = 1

    def __init__(
        self, pool_size: int, *, stride: int | None = None, padding: Any = "valid"
    ) -> None:
        self.pool_size = _one("pool_size", pool_size, self.name)
        self.stride = self.pool_size if stride is None else _one("stride", stride, self.name)
        self._set_padding(padding, (self.pool_size,))

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, 3)
        count = self._count(in_shape[1])
        return in_shape[0], count, in_shape[2]

    def _count(self, steps: int | None) -> int | None:
        counts, _ = _step_windows(steps, self.pool_size, self.stride, self.padding)
        self._no_window(counts, (steps,), self.pool_size)
        return counts[0]

    def forward(
        self, input: ArrayLike, train: bool = True, mask: ArrayLike | None = None
    ) -> NDArray:
        """Return the pooled steps.

        Parameters
        ----------
        input : array_like, shape (N, T, D)
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, shape (N, T), optional
            Steps with 0 are left out. A window without any other step gives 0.
        """
        return self._forward(input, train, mask)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the mask of the output: 1 for windows that hold a real step."""
        mask = masks[0]
        if mask is None:
            return None
        real = np.asarray(mask) != 0
        share = _real_share(real, np.float32, self._geometry((*real.shape, 1)))
        return (share[:, 0, :, 0] > 0).astype(np.asarray(mask).dtype)

    def _geometry(self, shape: Any) -> _Geometry:
        plan = _step_geometry(shape, self.pool_size, self.stride, self.padding)
        if plan is None:  # one of these raises the error
            self._check_shape(shape, ("N", "T", "D"))
            self._count(shape[1])
            raise self._error(f"A sample must have at most {_MOST} numbers", shape=shape)
        return plan


def _one(name: str, value: Any, layer: str) -> int:
    """An integer, or as in Keras a tuple of one integer."""
    if isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    return check_int(name, value, layer=layer)


def _step_windows(steps: Any, window: int, stride: int, padding: Any) -> Any:
    """Numbers of windows and of steps before the first one, each in a tuple."""
    sides = padding if isinstance(padding, str) else (*padding, (0, 0))
    counts, before = window_geometry((steps, 1), (window, 1), (stride, 1), sides)
    return counts[:1], before[:1]


@cached_by_shape
def _image_geometry(shape: Any, window: Any, stride: Any, padding: Any) -> _Geometry | None:
    if 0 in shape or len(shape) not in (3, 4) or shape[-1] * shape[-2] > _MOST:
        return None
    counts, before = window_geometry(shape[-2:], window, stride, padding)
    if 0 in counts:
        return None
    images = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    geometry = (*window, *stride, *before)
    return _Geometry((*shape[:-2], *counts), images, (*images[:2], *counts), geometry)  # type: ignore[arg-type]


@cached_by_shape
def _step_geometry(shape: Any, window: Any, stride: Any, padding: Any) -> _Geometry | None:
    if 0 in shape or len(shape) != 3 or shape[1] * shape[2] > _MOST:
        return None
    n, steps, width = shape
    (count,), (before,) = _step_windows(steps, window, stride, padding)
    if count == 0:
        return None
    geometry = (window, 1, stride, 1, before, 0)
    return _Geometry((n, count, width), (n, 1, steps, width), (n, 1, count, width), geometry)


class MaxPooling(_Pooling2D, _Max):
    """Largest value of each window of an image; of equal ones the first takes the gradient.

    Input of shape (N, C, H, W) gives output of shape (N, C, OH, OW); (N, H, W) gives (N, OH, OW).
    Without padding ``OH = (H - KH) // SH + 1``, and pixels at the lower and right edge that no
    whole window reaches are left out.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), keyword-only
        Step from window to window; the window's size if not given.
    padding : {"valid", "same"}, int, (int, int) or ((int, int), (int, int)), keyword-only
        How far windows reach beyond the image. "same": so that there are ``ceil(H / SH)`` rows of
        windows, one pixel further below and on the right where the number is odd. Numbers: above
        and below, left and right, ``((top, bottom), (left, right))``; each smaller than the window.
        Pixels outside the image are never the largest.
    """


class MeanPooling(_Pooling2D, _Mean):
    """Mean of each window of an image. Pixels outside the image do not count.

    See `MaxPooling` for the shapes. A mean is exact to rounding however many pixels a window has.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), keyword-only
        Step from window to window; the window's size if not given.
    padding : {"valid", "same"}, int, (int, int) or ((int, int), (int, int)), keyword-only
        As in `MaxPooling`.
    """


class MaxPooling1D(_Pooling1D, _Max):
    """Largest value of each window of steps, for each feature.

    Input of shape (N, T, D) gives output of shape (N, T', D). Masked steps are left out; the new
    mask is 1 for windows with a real step, and the output of the others is 0.

    Parameters
    ----------
    pool_size : int
        Steps of a window.
    stride : int, keyword-only
        Step from window to window; the window's size if not given.
    padding : {"valid", "same"}, int or (int, int), keyword-only
        How far windows reach beyond the sequence: as `MaxPooling` has it, or numbers of steps
        before and after.
    """


class MeanPooling1D(_Pooling1D, _Mean):
    """Mean of each window of steps, for each feature: of the real steps within the sequence.

    See `MaxPooling1D` for shapes and masks.

    Parameters
    ----------
    pool_size : int
        Steps of a window.
    stride : int, keyword-only
        Step from window to window; the window's size if not given.
    padding : {"valid", "same"}, int or (int, int), keyword-only
        As in `MaxPooling1D`.
    """


# -------------------------------------------------------------------------------------- global


class _Global(Pooling):
    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, 3, 4)
        return in_shape[0], in_shape[1 if len(in_shape) == 4 else 2]

    def forward(
        self, input: ArrayLike, train: bool = True, mask: ArrayLike | None = None
    ) -> NDArray:
        """Return one value for each channel or feature.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W) or (N, T, D)
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, shape (N, T), optional
            Steps with 0 are left out. Not for images.
        """
        return self._forward(input, train, mask if np.ndim(input) == 3 else None)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> None:
        """Return None: there are no steps any more."""

    def _geometry(self, shape: Any) -> _Geometry:
        plan = _global_geometry(shape)
        if plan is None:
            self._check_shape(shape, ("N", "T", "D") if len(shape) == 3 else ("N", "C", "H", "W"))
            raise self._error(f"A sample must have at most {_MOST} numbers", shape=shape)
        return plan


@cached_by_shape
def _global_geometry(shape: Any) -> _Geometry | None:
    if 0 in shape or len(shape) not in (3, 4) or shape[-1] * shape[-2] > _MOST:
        return None
    if len(shape) == 4:
        n, channels, *window = shape
        return _Geometry((n, channels), shape, (n, channels, 1, 1), (*window, 1, 1, 0, 0))
    n, steps, width = shape
    return _Geometry((n, width), (n, 1, steps, width), (n, 1, 1, width), (steps, 1, 1, 1, 0, 0))


class GlobalMaxPooling(_Global, _Max):
    """Largest value of each channel of an image, or of each feature of a sequence.

    (N, C, H, W) gives (N, C), and (N, T, D) gives (N, D). Masked steps of a sequence are left out;
    a sample without a real step gives 0.
    """


class GlobalMeanPooling(_Global, _Mean):
    """Mean of each channel of an image, or of each feature of a sequence.

    (N, C, H, W) gives (N, C), and (N, T, D) gives (N, D). Masked steps of a sequence are left out;
    a sample without a real step gives 0.
    """
