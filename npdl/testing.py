"""Tests for layers, those of npdl and your own: are the gradients right, is the contract kept?

::

    npdl.testing.check_gradients(MyLayer(n_out=3), (4, 5))
    npdl.testing.check_layer((MyLayer, {"n_out": 3}), (4, 5))

Both raise an AssertionError that says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import graph
from npdl._ext import available_backends, use_backend
from npdl._gradients import check_gradients, copied, draw, forward, numeric_gradient
from npdl.layers.base import Layer
from npdl.utils.random import get_dtype, get_rng, use_dtype

__all__ = ["check_gradients", "check_layer", "numeric_gradient"]

#: How far two ways to one result may differ, relative to its largest value.
_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def check_layer(
    layer: Callable[[], Layer] | tuple[type[Layer], dict[str, Any]],
    input: ArrayLike | tuple[int, ...],
    *,
    input_dtype: Any = None,
    dtypes: tuple[str, ...] = ("float32", "float64"),
    forward_args: Mapping[str, Any] | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check that a layer keeps the contract of npdl's layers.

    - Its configuration goes through JSON and back to a layer of the same outputs.
    - `out_shape` is that of the outputs; float32 stays float32, and float64 float64.
    - All gradients are there and right, see `check_gradients`; a small step against them lowers
      the loss.
    - No argument is changed; read-only arrays, and those of any memory order, give the same.
    - What a call returned is not changed by a later one; with ``train=False``, `forward` writes
      nothing on the layer (a layer whose `forward` takes no `train` is let off).
    - A batch may hold one sample.
    - The backends that are available agree, and one takes over from the other between `forward`
      and `backward`.

    Parameters
    ----------
    layer : callable or tuple (class, dict)
        Returns a new layer, not connected; or the class and the arguments to make one.
    input : array_like or tuple of int
        A batch of at least two samples; or its shape, and normal numbers are drawn.
    input_dtype : dtype, optional
        For a shape: an integer dtype draws from {0, 1}.
    dtypes : tuple of str
        The dtypes that the layer can compute in.
    forward_args : dict, optional
        Further arguments of `forward`; arrays have the samples on their first axis.
    rtol : float
        Greatest relative error of the gradients.
    seed : int
        For the random numbers that this check draws.

    Raises
    ------
    AssertionError
        If a part of the contract is broken.
    """
    for dtype in dtypes:
        case = _Case(layer, input, input_dtype, dict(forward_args or {}), dtype, seed)
        state = get_rng().bit_generator.state
        try:
            with use_dtype(dtype):
                for check in _CHECKS:
                    check(case)
                if dtype == "float64":
                    check_gradients(
                        case.layer(), case.x, forward_args=case.args, rtol=rtol, seed=seed
                    )
        finally:
            get_rng().bit_generator.state = state


class _Case:
    """A layer with a batch for it."""

    def __init__(
        self, make: Any, input: Any, input_dtype: Any, args: dict, dtype: str, seed: int
    ) -> None:
        if isinstance(make, tuple):
            cls, kwargs = make
            make = lambda: cls(**kwargs)  # noqa: E731
        self.make: Callable[[], Layer] = make
        self.args = args
        self.tolerance = _TOLERANCE[dtype]
        self.rng = np.random.default_rng(seed)
        x = draw(input, self.rng)
        if input_dtype is not None:
            integers = np.issubdtype(input_dtype, np.integer)
            x = (x > 0).astype(input_dtype) if integers else x.astype(input_dtype)
        self.x = x if x.dtype.kind in "iu" else x.astype(dtype)
        self.is_float = self.x.dtype.kind == "f"
        self._layer: Layer | None = None

    def layer(self) -> Layer:
        """A connected layer, always the same; no parameter stands at a special value like 0."""
        if self._layer is None:
            self._layer = layer = self.make()
            self.connect(layer)
            for parameter in layer.params:
                parameter += 0.1 * self.rng.standard_normal(parameter.shape)
        return copied(self._layer)

    def connect(self, layer: Layer) -> None:
        layer.connect_to(graph.Input((None, *self.x.shape[1:])))

    def run(self, x: NDArray | None = None, dy: NDArray | None = None, backends=(None, None)):
        """A forward and a backward pass of a new layer: outputs and all gradients, by name."""
        layer = self.layer()
        y = _on(backends[0], lambda: forward(layer, self.x if x is None else x, **self.args))
        dy = self.like(y) if dy is None else dy
        dx = _on(backends[1], lambda: layer.backward(dy))
        return {"output": y, "input gradient": dx, **_by_name("gradient", layer.grads)}

    def like(self, y: NDArray) -> NDArray:
        """A gradient in the outputs, always the same."""
        return np.random.default_rng(7).standard_normal(y.shape).astype(y.dtype)


def _on(backend: str | None, function: Callable[[], Any]) -> Any:
    if backend is None:
        return _seeded(function)
    with use_backend(backend):
        return _seeded(function)


def _seeded(function: Callable[[], Any]) -> Any:
    """The result of `function`, for which npdl's generator stands where it stood last time."""
    bits = get_rng().bit_generator
    state = bits.state
    result = function()
    bits.state = state
    return result


def _by_name(kind: str, arrays: list[NDArray]) -> dict[str, Any]:
    return {f"{kind} {i}": array for i, array in enumerate(arrays)}


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_close(case: _Case, got: dict[str, Any], want: dict[str, Any], when: str) -> None:
    arrays = {name: array for name, array in want.items() if array is not None}
    # What is zero but for rounding, as some gradients are, is held against the other results.
    floor = 1e-2 * max(np.abs(array).max() for array in arrays.values())
    for name, expected in arrays.items():
        error = np.abs(got[name] - expected).max() / max(np.abs(expected).max(), floor, 1e-12)
        _require(error <= case.tolerance, f"{name} differs by {error:.2g} {when}.")


# ----------------------------------------------------------------------------------- the checks


def _check_config(case: _Case) -> None:
    layer = case.layer()
    config = json.loads(json.dumps(layer.to_json()))
    revived = type(layer).from_json(config)
    again = json.loads(json.dumps(revived.to_json()))
    _require(again == config, f"The configuration changes on its way: {config} -> {again}.")
    case.connect(revived)
    mine, theirs = list(graph.arrays(layer)), list(graph.arrays(revived))
    _require(
        [a.shape for _, a, _ in mine] == [a.shape for _, a, _ in theirs],
        "The layer from to_json() has other parameters.",
    )
    for (_, source, _), (_, target, _) in zip(mine, theirs):
        target[...] = source
    first, second = (forward(one, case.x, train=False, **case.args) for one in (layer, revived))
    same = np.array_equal(first, second) or not graph.accepts(type(layer).forward, "train")
    _require(same, "The layer from to_json() has other outputs.")


def _check_shapes_and_dtypes(case: _Case) -> None:
    layer = case.layer()
    y = forward(layer, case.x, **case.args)
    declared = layer.out_shape
    fits = declared is not None and len(declared) == y.ndim
    fits = fits and all(want in (None, size) for want, size in zip(declared or (), y.shape))
    _require(fits, f"out_shape is {declared}, but the outputs have shape {y.shape}.")
    dx = layer.backward(case.like(y))
    wanted = get_dtype()
    arrays = {"The output": y, **_by_name("parameter", layer.params)}
    arrays |= _by_name("gradient", layer.grads)
    if case.is_float:
        _require(dx is not None, "backward returned no gradient in the input.")
        arrays["The input gradient"] = dx
    for name, array in arrays.items():
        _require(array.dtype == wanted, f"{name} is {array.dtype}, not {wanted}.")
    shapes = [p.shape for p in layer.params], [g.shape for g in layer.grads]
    _require(shapes[0] == shapes[1], f"params and grads differ in their shapes: {shapes}.")


def _check_arguments(case: _Case) -> None:
    x = case.x.copy()
    expected = case.run(x)
    _require(np.array_equal(x, case.x), "The layer changes its input.")
    dy = case.like(expected["output"])
    for array in (x, dy):
        array.flags.writeable = False  # a write raises an error
    _require_close(case, case.run(x, dy), expected, "where the arguments are read-only")
    gaps = np.repeat(x, 2, axis=-1)[..., ::2]
    for layout, array in ("Fortran-ordered", np.asfortranarray(x)), ("not contiguous", gaps):
        _require_close(case, case.run(array, dy), expected, f"where the input is {layout}")


def _check_results_last(case: _Case) -> None:
    layer = case.layer()
    other = case.x[::-1].copy()
    kept = [forward(layer, case.x, train=False, **case.args), forward(layer, case.x, **case.args)]
    dx = layer.backward(case.like(kept[0]))
    kept += [] if dx is None else [dx]
    copies = [np.array(array) for array in kept]
    for train in (True, False):
        forward(layer, other, train=train, **case.args)
    layer.backward(2 * case.like(kept[0]))
    same = all(np.array_equal(a, b) for a, b in zip(kept, copies))
    _require(same, "What a call returned is changed by a later one.")


def _check_inference(case: _Case) -> None:
    layer = case.layer()
    if not graph.accepts(type(layer).forward, "train"):
        return
    before = dict(vars(layer))
    own = [v for v in before.values() if isinstance(v, np.ndarray)]
    arrays = own + [array for _, array, _ in graph.arrays(layer)]
    copies = [array.copy() for array in arrays]
    forward(layer, case.x, train=False, **case.args)
    after = vars(layer)
    written = [k for k in before.keys() | after.keys() if before.get(k) is not after.get(k)]
    _require(not written, f"forward(train=False) writes on the layer: {written}.")
    same = all(np.array_equal(a, b) for a, b in zip(arrays, copies))
    _require(same, "forward(train=False) changes an array of the layer.")


def _check_step(case: _Case) -> None:
    layer = case.layer()
    target = case.rng.standard_normal(forward(layer, case.x, **case.args).shape)

    def loss() -> tuple[float, NDArray]:
        error = _seeded(lambda: forward(layer, case.x, **case.args)) - target
        return 0.5 * float(np.square(error).sum()), error.astype(get_dtype())

    first, error = loss()
    layer.backward(error)
    norm = sum(float(np.square(g, dtype=np.float64).sum()) for g in layer.grads)
    if norm == 0:
        return
    for parameter, gradient in layer.param_grads:
        parameter -= (1e-3 * first / norm) * gradient
    second, _ = loss()
    _require(second < first, f"A step against the gradient takes the loss up: {first} -> {second}.")


def _check_one_sample(case: _Case) -> None:
    layer = case.layer()
    n = len(case.x)
    args = {k: v[:1] if np.ndim(v) and len(v) == n else v for k, v in case.args.items()}
    y = forward(layer, case.x[:1], **args)
    dx = layer.backward(case.like(y))
    ok = dx is None or dx.shape == (1, *case.x.shape[1:])
    _require(ok, "The gradient in a batch of one sample has another shape.")


def _check_backends(case: _Case) -> None:
    expected = case.run(backends=("numpy", "numpy"))
    for first in available_backends():
        for second in available_backends():
            got = case.run(backends=(first, second))
            _require_close(case, got, expected, f"with {first} forward and {second} backward")


_CHECKS = (
    _check_arguments,
    _check_config,
    _check_shapes_and_dtypes,
    _check_results_last,
    _check_inference,
    _check_step,
    _check_one_sample,
    _check_backends,
)
