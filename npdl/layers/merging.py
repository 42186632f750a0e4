"""Merges: layers that combine several arrays into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int
from npdl._ext import kernels
from npdl._ext.activation_np import LINEAR
from npdl.activations import KernelCode
from npdl.layers._fusing import IDENTITY, add_arrays
from npdl.layers.activation import Activation, ReLU
from npdl.layers.base import Layer, Shape, cached_by_shape
from npdl.layers.node import MERGES


class Merge(Layer):
    """Base of the merges: a subclass defines `_merged`, `_combine` and `_split`.

    `forward` takes the inputs as arguments, and `backward` returns a tuple with a gradient for
    each, or just the gradient if there is one input.
    """

    def build(self, *in_shapes: Any, **kwargs: Any) -> Shape:
        """Return the shape of the output; there are no parameters."""
        return self._merged(tuple(map(tuple, in_shapes)))

    def _merged(self, shapes: tuple[Any, ...]) -> Any:
        """The shape of the output, unknown axes None in all shapes."""
        raise NotImplementedError

    def _combine(self, xs: tuple[NDArray, ...], y: NDArray) -> None:
        """Fill y."""
        raise NotImplementedError

    def _split(self, xs: tuple[NDArray, ...], y: NDArray, dy: NDArray) -> list[NDArray]:
        """The gradient in each input; it may be dy."""
        raise NotImplementedError

    def forward(self, *inputs: ArrayLike, train: bool = True) -> NDArray:
        """Return the merged inputs.

        Parameters
        ----------
        *inputs : array_like
            With the samples on axis 0.
        train : bool
            Whether to keep what `backward` needs.
        """
        xs = tuple(self._as_array(x, what=f"input {i}") for i, x in enumerate(inputs))
        if len({x.dtype for x in xs}) > 1:
            dtype = np.result_type(*xs)
            xs = tuple(np.asarray(x, dtype) for x in xs)
        shapes = tuple(x.shape for x in xs)
        if len({shape[:1] for shape in shapes}) > 1:
            raise self._error("The inputs must have as many samples", shapes=shapes)
        shape = self._merged(shapes)
        y = self._buffer("y", shape, xs[0].dtype) if train else np.empty(shape, xs[0].dtype)
        self._fill(xs, y, train)
        if train:
            self._cache = xs, y
        return y

    def _fill(self, xs: tuple[NDArray, ...], y: NDArray, train: bool) -> None:
        """Fill y, and run the `follower` in training."""
        self._combine(xs, y)

    def backward(self, pre_grad: ArrayLike) -> Any:
        """Return the gradient in each input, a tuple; without further ones that in the input."""
        xs, y = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y.shape, "pre_grad")
        grads = self._split(xs, y, dy) if self.need_input_grad else [None] * len(xs)
        return tuple(grads) if len(xs) > 1 else grads[0]

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the union of the masks that the inputs have, as long as there are steps."""
        given = [np.asarray(mask) != 0 for mask in masks if mask is not None]
        if not given or y.ndim < 3 or any(mask.shape[1] not in (1, y.shape[1]) for mask in given):
            return None
        union = np.zeros(y.shape[:2], bool)
        for mask in given:
            union |= mask
        return union.astype(next(np.asarray(mask).dtype for mask in masks if mask is not None))


class _Elementwise(Merge):
    """Base of the merges of corresponding elements, where axes of size 1 are repeated."""

    _count: int | None = None
    _ufunc: Any

    def _merged(self, shapes):
        if self._count is not None and len(shapes) != self._count:
            rule = f"{type(self).__name__} must have {self._count} inputs"
            raise self._error(rule, shapes=shapes)
        out_shape = _broadcast(shapes)
        if out_shape is None:
            rule = "The inputs must have the same number of axes, and sizes that agree or are 1"
            raise self._error(rule, shapes=shapes)
        return out_shape

    def _combine(self, xs, y):
        if len(xs) == 1:
            y[...] = xs[0]
            return
        self._ufunc(xs[0], xs[1], out=y)
        for x in xs[2:]:
            self._ufunc(y, x, out=y)

    def _reduced(self, key: str, grad: NDArray, x: NDArray) -> NDArray:
        """A gradient in the shape of the output, as one in the shape of an input."""
        if grad.shape == x.shape:
            return grad
        axes = tuple(i for i, (a, b) in enumerate(zip(grad.shape, x.shape)) if a != b)
        out = self._buffer(key, x.shape, x.dtype)
        return grad.sum(axis=axes, dtype=np.float64, keepdims=True, out=out)


@cached_by_shape
def _broadcast(shapes: Any) -> Any:
    """The shape of an elementwise result; None if the shapes do not fit."""
    if not shapes or not shapes[0] or len({len(shape) for shape in shapes}) > 1:
        return None
    out_shape = [shapes[0][0]]
    for sizes in list(zip(*shapes))[1:]:
        large = {size for size in sizes if size not in (1, None)}
        if len(large) > 1:
            return None
        # An axis that is open beside one of size 1 stays open.
        out_shape.append(large.pop() if large else None if None in sizes else 1)
    return tuple(out_shape)


class Add(_Elementwise):
    """Sum of the inputs. Axes of size 1 are repeated."""

    _ufunc = np.add
    #: What the last training pass ran behind the sum; None if that was the `follower` itself.
    _act: KernelCode | None = IDENTITY

    def takes_over(self, layer):
        """Whether the `layer` behind is an activation that `add_forward` knows."""
        return type(layer) in (Activation, ReLU) and layer.activation.kernel_code is not None

    def _fill(self, xs, y, train):
        act, follower = IDENTITY, self.follower if train else None
        if len(xs) == 1:
            y[...] = xs[0]
        if train:
            code = None if follower is None or len(xs) == 1 else follower.activation.kernel_code
            self._act = IDENTITY if follower is None else code
            act = self._act or IDENTITY
        for i, x in enumerate(xs[1:], 2):
            add_arrays(xs[0] if i == 2 else y, x, y, act if i == len(xs) else IDENTITY)
        if follower is not None and self._act is None:
            y[...] = follower.forward(y.copy())

    def _split(self, xs, y, dy):
        if self._act is None:
            dy = self.follower.backward(dy)
        elif self._act[0] != LINEAR:
            dz = self._buffer("dz", y.shape, y.dtype)
            kernels().activation_backward(*(a.reshape(-1) for a in (y, dy, dz)), self._act)
            dy = dz
        return [self._reduced(f"dx{i}", dy, x) for i, x in enumerate(xs)]


class Subtract(_Elementwise):
    """The first input minus the second. Axes of size 1 are repeated."""

    _count = 2
    _ufunc = np.subtract

    def _split(self, xs, y, dy):
        negative = np.negative(dy, out=self._buffer("negative", dy.shape, dy.dtype))
        return [self._reduced("dx0", dy, xs[0]), self._reduced("dx1", negative, xs[1])]


class Multiply(_Elementwise):
    """Product of the inputs. Axes of size 1 are repeated."""

    _ufunc = np.multiply

    def _split(self, xs, y, dy):
        grads = []
        for i, x in enumerate(xs):
            grad = self._buffer(f"full{i}", dy.shape, dy.dtype)
            grad[...] = dy
            for other in xs[:i] + xs[i + 1 :]:
                grad *= other
            grads.append(self._reduced(f"dx{i}", grad, x))
        return grads


class Average(_Elementwise):
    """Mean of the inputs. Axes of size 1 are repeated."""

    _ufunc = np.add

    def _combine(self, xs, y):
        super()._combine(xs, y)
        y /= len(xs)

    def _split(self, xs, y, dy):
        share = np.divide(dy, len(xs), out=self._buffer("share", dy.shape, dy.dtype))
        return [self._reduced(f"dx{i}", share, x) for i, x in enumerate(xs)]


class _Extreme(_Elementwise):
    """Base of `Maximum` and `Minimum`: the first input that has the result gets the gradient."""

    def _split(self, xs, y, dy):
        free = np.ones(y.shape, bool)
        grads = []
        for i, x in enumerate(xs):
            wins = free & ((x == y) | (np.isnan(x) & np.isnan(y)))
            free &= ~wins
            grad = self._buffer(f"full{i}", dy.shape, dy.dtype)
            np.copyto(grad, 0)
            np.copyto(grad, dy, where=wins)
            grads.append(self._reduced(f"dx{i}", grad, x))
        return grads


class Maximum(_Extreme):
    """Largest value of the inputs, element by element. Axes of size 1 are repeated.

    Of equal values the first takes the gradient; NaN is the result where an input has it.
    """

    _ufunc = np.maximum


class Minimum(_Extreme):
    """Smallest value of the inputs, element by element. Axes of size 1 are repeated.

    Of equal values the first takes the gradient; NaN is the result where an input has it.
    """

    _ufunc = np.minimum


class Concatenate(Merge):
    """Concatenate the inputs along an axis.

    Along the axis of steps, axis 1 of (N, T, D), masks are concatenated too: an input without one
    counts as all real steps.

    Parameters
    ----------
    axis : int
        Counts the axis of samples as 0, as NumPy does; negative from the end. Not 0.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = check_int("axis", axis, low=-64, layer=self.name)
        if self.axis == 0:
            raise self._error("`axis` must not be that of the samples", axis=axis)

    def _merged(self, shapes):
        out_shape = _concatenated(shapes, self.axis)
        if out_shape is None:
            rule = f"The inputs must have the same shape but on `axis` {self.axis}, not the first"
            raise self._error(rule, shapes=shapes)
        return out_shape

    def _combine(self, xs, y):
        start, before = 0, (slice(None),) * (self.axis % y.ndim)
        for x in xs:
            end = start + x.shape[len(before)]
            kernels().copy_array(x, y[(*before, slice(start, end))])
            start = end

    def _split(self, xs, y, dy):
        grads, start, axis = [], 0, self.axis % dy.ndim
        before = (slice(None),) * axis
        for i, x in enumerate(xs):
            end = start + x.shape[axis]
            grad = self._buffer(f"dx{i}", x.shape, dy.dtype)
            grad[...] = dy[(*before, slice(start, end))]
            grads.append(grad)
            start = end
        return grads

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the mask of the output; see the class for the axis of steps."""
        if self.axis % y.ndim != 1:
            return super().next_mask(masks, y)
        if y.ndim < 3:
            return None
        lengths = self._lengths(masks, y.shape[1])
        parts = [
            np.ones((len(y), length), bool) if mask is None else np.asarray(mask) != 0
            for mask, length in zip(masks, lengths)
        ]
        dtype = next(np.asarray(mask).dtype for mask in masks if mask is not None)
        return np.concatenate(parts, axis=1).astype(dtype)

    def _lengths(self, masks: Sequence[NDArray | None], total: int) -> list[int]:
        """The number of steps of each input: from its mask, its declared shape, or what is left."""
        declared = self._in_shapes or [(None, None)] * len(masks)
        lengths = [
            shape[1] if mask is None else np.shape(mask)[1] for mask, shape in zip(masks, declared)
        ]
        if lengths.count(None) > 1:
            rule = "Without masks, all inputs but one must have a known number of steps"
            raise self._error(rule, shapes=declared)
        rest = total - sum(length for length in lengths if length is not None)
        return [rest if length is None else length for length in lengths]


@cached_by_shape
def _concatenated(shapes: Any, axis: int) -> Any:
    """The shape of the inputs in a row; None if they do not fit."""
    n_axes = len(shapes[0]) if shapes else 0
    if not -n_axes < axis < n_axes or any(len(shape) != n_axes for shape in shapes):
        return None
    out_shape: list[Any] = []
    for i, sizes in enumerate(zip(*shapes)):
        known = {size for size in sizes if size is not None}
        if i == axis % n_axes:
            out_shape.append(None if None in sizes else sum(sizes))
        elif len(known) > 1:
            return None
        else:
            out_shape.append(known.pop() if known else None)
    return tuple(out_shape)


class Dot(Merge):
    """Scalar products of two inputs along one axis of each, sample by sample.

    (N, A, K) and (N, B, K) with ``axes=2`` give (N, A, B): the other axes of the first input, then
    those of the second. Two inputs (N, K) give (N, 1).

    Parameters
    ----------
    axes : int or (int, int)
        The axis of each input, counting that of the samples as 0; negative from the end.
    normalize : bool
        Whether to divide both by their length along that axis: the result is their cosine.
    """

    #: The smallest square of a length that is divided by, as in Keras.
    _smallest = 1e-12

    def __init__(self, axes: int | tuple[int, int], normalize: bool = False) -> None:
        pair = axes if isinstance(axes, tuple | list) else (axes, axes)
        if len(pair) != 2:
            raise self._error("`axes` must be an integer or a pair of integers", axes=axes)
        self.axes = tuple(check_int("axes", axis, low=-64, layer=self.name) for axis in pair)
        if 0 in self.axes:
            raise self._error("`axes` must not be those of the samples", axes=axes)
        self.normalize = bool(normalize)

    def _merged(self, shapes):
        out_shape = _dotted(shapes, self.axes)
        if out_shape is None:
            rule = f"Dot must have two inputs of equal size on `axes` {self.axes}"
            raise self._error(rule, shapes=shapes)
        return out_shape

    def _combine(self, xs, y):
        (a, b), _ = self._factors(xs)
        np.matmul(a, b.swapaxes(1, 2), out=y.reshape(len(y), a.shape[1], b.shape[1]))

    def _factors(self, xs: Any) -> tuple[list[NDArray], list[NDArray | None]]:
        """The inputs as (N, rows, K), divided by their lengths, and these (N, rows, 1)."""
        factors, lengths = [], []
        for x, axis in zip(xs, self.axes):
            x = np.moveaxis(x, axis, -1)
            x = x.reshape(len(x), -1, x.shape[-1])
            length = None
            if self.normalize:
                square = np.square(x).sum(axis=-1, keepdims=True)
                length = np.sqrt(np.maximum(square, x.dtype.type(self._smallest)))
                x = x / length
            factors.append(x)
            lengths.append(length)
        return factors, lengths

    def _split(self, xs, y, dy):
        (a, b), lengths = self._factors(xs)
        dy = dy.reshape(len(dy), a.shape[1], b.shape[1])
        grads = []
        slopes = np.matmul(dy, b), np.matmul(dy.swapaxes(1, 2), a)
        for i, (x, axis, unit, length, slope) in enumerate(
            zip(xs, self.axes, (a, b), lengths, slopes)
        ):
            if length is not None:
                along = (slope * unit).sum(axis=-1, keepdims=True)
                # A length that was clipped does not depend on the input.
                along[np.square(length) <= self._smallest] = 0
                slope = (slope - unit * along) / length
            grad = self._buffer(f"dx{i}", x.shape, dy.dtype)
            moved = np.moveaxis(grad, axis, -1)
            moved[...] = slope.reshape(moved.shape)
            grads.append(grad)
        return grads

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> None:
        """Return None: the output has other axes."""


@cached_by_shape
def _dotted(shapes: Any, axes: Any) -> Any:
    """The shape of the products; None if the inputs do not fit."""
    if len(shapes) != 2:
        return None
    rest: list[list[Any]] = []
    sizes = []
    for shape, axis in zip(shapes, axes):
        if not -len(shape) < axis < len(shape) or axis % len(shape) == 0:
            return None
        at = axis % len(shape)
        sizes.append(shape[at])
        rest.append([*shape[1:at], *shape[at + 1 :]])
    if None not in sizes and sizes[0] != sizes[1]:
        return None
    return shapes[0][0], *([*rest[0], *rest[1]] or [1])


MERGES.update(add=Add, subtract=Subtract, multiply=Multiply)
