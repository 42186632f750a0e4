"""Tests for layers, those of npdl and your own: gradients, and the rest of the contract.

::

    npdl.testing.check_gradients(MyLayer(n_out=3), (4, 5))
    npdl.testing.check_layer((MyLayer, {"n_out": 3}), (4, 5))

Both raise an AssertionError that says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import graph
from npdl._calls import takes
from npdl._ext import available_backends, use_backend
from npdl._gradcheck import check_gradients, copied, draw, forward, numeric_gradient
from npdl.layers._padding import without_padding
from npdl.layers.base import Layer
from npdl.layers.node import Node, Value
from npdl.layers.owning import named_arrays
from npdl.layers.plan import Plan
from npdl.layers.tree import every_layer
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

    - A layer made again from its configuration (by JSON) has the same outputs.
    - `out_shape` is that of the outputs; float32 stays float32, and float64 float64.
    - All gradients are there and right, see `check_gradients`; a small step against them lowers
      the loss.
    - No argument is changed; read-only arrays, and those of any memory order, give the same.
    - What a call returned is not changed by a later one; with ``train=False``, `forward` writes
      nothing on the layer (skipped for layers whose `forward` has no `train` argument).
    - A batch may hold one sample.
    - Called twice in a network, it shares its weights and adds up their gradients.
    - The backends that are available agree, and one takes over from the other between `forward`
      and `backward`.

    Parameters
    ----------
    layer : callable or tuple (class, dict)
        Returns a new layer, not connected; or the class and the arguments to make one.
    input : array_like or tuple of int
        A batch of at least two samples; or its shape, and normal numbers are drawn. A list of them
        for a layer of several inputs.
    input_dtype : dtype, optional
        For a shape: an integer dtype draws from {0, 1}.
    dtypes : tuple of str
        The dtypes that the layer can compute in.
    forward_args : dict, optional
        Further arguments of `forward`; arrays have the samples on their first axis.
    rtol : float
        Largest relative error of the gradients.
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
        several = isinstance(input, list) and all(isinstance(i, tuple | np.ndarray) for i in input)
        self.xs = tuple(
            self._sample(one, input_dtype, dtype) for one in (input if several else [input])
        )
        self.is_float = all(x.dtype.kind == "f" for x in self.xs)
        self._layer: Layer | None = None

    def _sample(self, input: Any, input_dtype: Any, dtype: str) -> NDArray:
        x = draw(input, self.rng)
        if input_dtype is not None:
            integers = np.issubdtype(input_dtype, np.integer)
            x = (x > 0).astype(input_dtype) if integers else x.astype(input_dtype)
        return x if x.dtype.kind in "iu" else x.astype(dtype)

    @property
    def x(self) -> Any:
        """The argument `input` of `check_gradients`."""
        return self.xs[0] if len(self.xs) == 1 else [*self.xs]

    def layer(self) -> Layer:
        """A connected layer, always the same; no parameter has a special value like 0."""
        if self._layer is None:
            self._layer = layer = self.make()
            self.connect(layer)
            for parameter in layer.params:
                parameter += 0.1 * self.rng.standard_normal(parameter.shape)
        return copied(self._layer)

    def connect(self, layer: Layer) -> None:
        layer.connect_to(*(graph.Input((None, *x.shape[1:])) for x in self.xs))

    def forward(self, layer: Layer, xs: Any = None, train: bool = True) -> tuple[NDArray, ...]:
        """The outputs of a layer."""
        return _listed(forward(layer, self.xs if xs is None else xs, train, **self.args))

    def backward(self, layer: Layer, dys: tuple[NDArray, ...]) -> tuple[Any, ...]:
        """The gradients in the inputs."""
        return _listed(layer.backward(dys[0] if len(dys) == 1 else dys))

    def run(self, xs: Any = None, dys: Any = None, backends=(None, None)) -> dict[str, Any]:
        """A forward and a backward pass of a new layer: outputs and all gradients, by name."""
        layer = self.layer()
        ys = _on(backends[0], lambda: self.forward(layer, xs))
        dys = self.like(ys) if dys is None else dys
        dxs = _on(backends[1], lambda: self.backward(layer, dys))
        found = {**_by_name("output", ys), **_by_name("input gradient", dxs)}
        return {**found, **_by_name("gradient", layer.grads)}

    def like(self, ys: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        """Gradients in the outputs, always the same."""
        rng = np.random.default_rng(7)
        return tuple(rng.standard_normal(y.shape).astype(y.dtype) for y in ys)


def _listed(arrays: Any) -> tuple[Any, ...]:
    return arrays if isinstance(arrays, tuple) else (arrays,)


def _on(backend: str | None, function: Callable[[], Any]) -> Any:
    if backend is None:
        return _seeded(function)
    with use_backend(backend):
        return _seeded(function)


def _seeded(function: Callable[[], Any]) -> Any:
    """The result of `function`, with npdl's generator in the same state every time."""
    bits = get_rng().bit_generator
    state = bits.state
    result = function()
    bits.state = state
    return result


def _by_name(kind: str, arrays: Sequence[NDArray | None]) -> dict[str, Any]:
    if kind != "gradient" and len(arrays) == 1:
        return {kind: arrays[0]}
    return {f"{kind} {i}": array for i, array in enumerate(arrays)}


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_close(case: _Case, got: dict[str, Any], want: dict[str, Any], when: str) -> None:
    arrays = {name: array for name, array in want.items() if array is not None}
    # Values that are zero up to rounding, as some gradients are, are compared at the scale of the
    # others.
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
    mine, theirs = list(named_arrays(layer)), list(named_arrays(revived))
    _require(
        [a.shape for _, a, _ in mine] == [a.shape for _, a, _ in theirs],
        "The layer from to_json() has other parameters.",
    )
    for (_, source, _), (_, target, _) in zip(mine, theirs):
        target[...] = source
    first, second = (case.forward(one, train=False) for one in (layer, revived))
    same = all(map(np.array_equal, first, second)) or not takes(type(layer).forward, "train")
    _require(same, "The layer from to_json() has other outputs.")


def _check_shapes_and_dtypes(case: _Case) -> None:
    layer = case.layer()
    ys = case.forward(layer)
    declared: Any = layer.out_shape if layer.n_outputs > 1 else (layer.out_shape,)
    for shape, y in zip(declared or (), ys, strict=True):
        fits = shape is not None and len(shape) == y.ndim
        fits = fits and all(want in (None, size) for want, size in zip(shape or (), y.shape))
        _require(fits, f"out_shape is {shape}, but the outputs have shape {y.shape}.")
    dxs = case.backward(layer, case.like(ys))
    wanted = get_dtype()
    arrays = {**_by_name("output", ys), **_by_name("parameter", layer.params)}
    arrays |= _by_name("gradient", layer.grads)
    for i, (x, dx) in enumerate(zip(case.xs, dxs)):
        if x.dtype.kind == "f":
            _require(dx is not None, "backward returned no gradient in the input.")
            arrays[f"input gradient {i}"] = dx
    for name, array in arrays.items():
        _require(array.dtype == wanted, f"The {name} is {array.dtype}, not {wanted}.")
    shapes = [p.shape for p in layer.params], [g.shape for g in layer.grads]
    _require(shapes[0] == shapes[1], f"params and grads differ in their shapes: {shapes}.")


def _check_arguments(case: _Case) -> None:
    xs = tuple(x.copy() for x in case.xs)
    expected = case.run(xs)
    _require(all(map(np.array_equal, xs, case.xs)), "The layer changes its input.")
    dys = case.like(tuple(v for k, v in expected.items() if k.startswith("output")))
    for array in (*xs, *dys):
        array.flags.writeable = False  # a write raises an error
    _require_close(case, case.run(xs, dys), expected, "where the arguments are read-only")
    gaps = tuple(np.repeat(x, 2, axis=-1)[..., ::2] for x in xs)
    orders = tuple(map(np.asfortranarray, xs))
    for layout, arrays in ("Fortran-ordered", orders), ("not contiguous", gaps):
        _require_close(case, case.run(arrays, dys), expected, f"where the input is {layout}")


def _check_results_last(case: _Case) -> None:
    layer = case.layer()
    others = tuple(x[::-1].copy() for x in case.xs)
    first, second = case.forward(layer, train=False), case.forward(layer)
    dys = case.like(first)
    kept = [a for a in (*first, *second, *case.backward(layer, dys)) if a is not None]
    copies = [np.array(array) for array in kept]
    for train in (True, False):
        case.forward(layer, others, train)
    case.backward(layer, tuple(2 * dy for dy in dys))
    same = all(np.array_equal(a, b) for a, b in zip(kept, copies))
    _require(same, "What a call returned is changed by a later one.")


def _check_inference(case: _Case) -> None:
    layer = case.layer()
    if not takes(type(layer).forward, "train"):
        return
    layers = [*every_layer([layer])]
    before = [dict(vars(one)) for one in layers]
    own = [v for state in before for v in state.values() if isinstance(v, np.ndarray)]
    arrays = own + [array for _, array, _ in named_arrays(layer)]
    copies = [array.copy() for array in arrays]
    case.forward(layer, train=False)
    for one, state in zip(layers, before):
        after = vars(one)
        written = [k for k in state.keys() | after.keys() if state.get(k) is not after.get(k)]
        _require(not written, f"forward(train=False) writes on the layer: {written}.")
    same = all(np.array_equal(a, b) for a, b in zip(arrays, copies))
    _require(same, "forward(train=False) changes an array of the layer.")


def _check_step(case: _Case) -> None:
    layer = case.layer()
    targets = [case.rng.standard_normal(y.shape) for y in case.forward(layer)]

    def loss() -> tuple[float, tuple[NDArray, ...]]:
        ys = _seeded(lambda: case.forward(layer))
        errors = tuple(y - target for y, target in zip(ys, targets))
        value = 0.5 * sum(float(np.square(error).sum()) for error in errors)
        return value, tuple(error.astype(get_dtype()) for error in errors)

    first, errors = loss()
    case.backward(layer, errors)
    norm = sum(float(np.square(g, dtype=np.float64).sum()) for g in layer.grads)
    if norm == 0:
        return
    for parameter, gradient in layer.param_grads:
        parameter -= (1e-3 * first / norm) * gradient
    second, _ = loss()
    _require(second < first, f"A step against the gradient takes the loss up: {first} -> {second}.")


def _check_one_sample(case: _Case) -> None:
    layer = case.layer()
    n = len(case.xs[0])
    args = {k: _first(v, n) for k, v in case.args.items()}
    ys = _listed(forward(layer, tuple(x[:1] for x in case.xs), **args))
    for x, dx in zip(case.xs, case.backward(layer, case.like(ys))):
        ok = dx is None or dx.shape == (1, *x.shape[1:])
        _require(ok, "The gradient in a batch of one sample has another shape.")


def _first(value: Any, n: int) -> Any:
    """The part of an argument that belongs to the first sample."""
    if isinstance(value, tuple):
        return tuple(_first(one, n) for one in value)
    return value[:1] if np.ndim(value) and len(value) == n else value


def _check_two_calls(case: _Case) -> None:
    mask = case.args.get("mask")
    masks = mask if isinstance(mask, tuple) else (mask,) * len(case.xs)
    # As a network does, with zeros in masked steps.
    xs = tuple(without_padding(x, m) for x, m in zip(case.xs, masks))
    others = tuple(without_padding(x[::-1].copy(), m) for x, m in zip(case.xs, masks))
    layer = case.layer()
    inputs = [[Value((None, *x.shape[1:])) for x in case.xs] for _ in range(2)]
    calls = [Node(layer, values).outputs for values in inputs]
    plan = Plan([*inputs[0], *inputs[1]], [*calls[0], *calls[1]])
    if case.args.keys() - {"mask"} or not takes(type(layer).forward, "train"):
        return  # a network passes on nothing else

    def together() -> dict[str, Any]:
        ys = plan.forward([*xs, *others], True, [*masks, *masks])[0]
        half = len(ys) // 2
        dys = [*case.like(tuple(ys[:half])), *case.like(tuple(ys[half:]))]
        dxs = plan.backward(dys)
        found = {**_by_name("output", ys), **_by_name("input gradient", dxs)}
        return {**found, **_by_name("gradient", layer.grads)}

    def apart() -> dict[str, Any]:
        one, two = case.layer(), case.layer()
        ys = case.forward(one, xs), case.forward(two, others)
        dxs = [*case.backward(one, case.like(ys[0])), *case.backward(two, case.like(ys[1]))]
        found = {**_by_name("output", [*ys[0], *ys[1]]), **_by_name("input gradient", dxs)}
        return {**found, **_by_name("gradient", [a + b for a, b in zip(one.grads, two.grads)])}

    _require_close(case, _seeded(together), _seeded(apart), "where the layer is called twice")


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
    _check_two_calls,
    _check_backends,
)
