"""Gradients against numeric derivatives; the public name of all this is `npdl.testing`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import graph
from npdl._calls import takes
from npdl._checks import check_choice
from npdl.layers.base import Layer
from npdl.layers.owning import named_arrays, relocate
from npdl.layers.tree import every_layer
from npdl.model import Model
from npdl.objectives import Objective
from npdl.utils.random import get_rng, use_dtype


class Problem(NamedTuple):
    """A scalar function of arrays, and the gradient to check.

    `value` reads the arrays of `variables`, which may be changed in place between two calls;
    `gradients` returns the analytic gradient in each of them.
    """

    variables: dict[str, NDArray]
    value: Callable[[], float]
    gradients: Callable[[], dict[str, Any]]


def check_gradients(
    target: Layer | Model | Objective,
    input: ArrayLike | None = None,
    *,
    targets: ArrayLike | None = None,
    mode: str = "full",
    rtol: float = 1e-6,
    step: float = 1e-4,
    forward_args: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> float:
    """Compare the gradients of a layer, a model or a loss with central differences in float64.

    This checks the gradient in the input (unless it holds integers) and in every trained parameter.
    The target is not changed: the check works on a copy of it in float64.

    Parameters
    ----------
    target : Layer, Model or Objective
        A layer need not be connected; a model must be compiled. Random layers draw the same numbers
        in every evaluation. A layer of your own that keeps plain arrays must have been made with
        arrays of float64.
    input : array_like or tuple of int, optional
        A batch of samples; or its shape, for normally distributed numbers. A list of them for a
        layer of several inputs; for such a model a list or a dict by input. By default it has the
        shape that the first layer declares. For a loss: the outputs of a network.
    targets : array_like
        Targets of a model or a loss. The value of a layer is ``sum(forward(input) * R)``, R random.
    mode : {"full", "directional"}
        Every element of every gradient, or its product with two random directions: cheap.
    rtol : float
        Largest relative error allowed.
    step : float
        Step of the differences, which are of order four. Smaller steps cross the kink of a ReLU
        less often, but lose digits.
    forward_args : dict, optional
        Further arguments of the layer's `forward`, such as ``{"mask": mask}``.
    seed : int
        For the random numbers that this check draws for itself.

    Returns
    -------
    float
        The largest relative error, ``|analytic - numeric| / max(|analytic|, |numeric|, floor)``;
        the floor is a thousandth of the largest gradient.

    Raises
    ------
    AssertionError
        Names the array, the index, both values and the relative error of the worst mistake.
    """
    check_choice("mode", mode, ("full", "directional"))
    rng = np.random.default_rng(seed)
    with float64(), _same_randomness() as rewind:
        problem = _problem(target, input, targets, dict(forward_args or {}), rng)

        def value() -> float:
            rewind()
            return problem.value()

        rewind()
        gradients = problem.gradients()
        start = abs(value())
        results = []
        for name, array in problem.variables.items():
            analytic = _checked_gradient(name, array, gradients.get(name))
            results.append((name, *_pairs(value, array, analytic, mode, step, rng)))
    largest = max((np.abs(numeric).max() for _, _, numeric in results), default=0.0)
    floor = max(1e-3 * largest, 1e-5 * max(start, 1.0))
    return max((_worst(*result, floor, rtol, mode) for result in results), default=0.0)


def numeric_gradient(function: Callable[[], float], array: NDArray, step: float = 1e-4) -> NDArray:
    """Return the gradient of a scalar function in an array, by central differences of order four.

    Parameters
    ----------
    function : callable
        Takes no arguments and reads `array`.
    array : ndarray of float64
        Changed in place during the call, and put back.
    step : float
    """
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        direction = np.zeros_like(array)
        direction[index] = 1
        gradient[index] = _along(function, array, direction, step)
    return gradient


def _along(function: Callable[[], float], array: NDArray, direction: NDArray, step: float) -> float:
    """The derivative along a direction: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h."""
    start = array.copy()

    def at(t: float) -> float:
        array[...] = start + t * step * direction
        return function()

    slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    array[...] = start
    return slope


def _pairs(
    value: Callable[[], float], array: NDArray, analytic: NDArray, mode: str, step: float, rng: Any
) -> tuple[NDArray, NDArray]:
    """The analytic and the numeric values to compare: element by element, or by direction."""
    if mode == "full":
        return analytic, numeric_gradient(value, array, step)
    directions = rng.uniform(-1, 1, (2, *array.shape))
    numeric = np.array([_along(value, array, d, step) for d in directions])
    return np.array([np.sum(analytic * d) for d in directions]), numeric


def _worst(
    name: str,
    analytic: NDArray,
    numeric: NDArray,
    floor: float,
    rtol: float,
    mode: str,
) -> float:
    """The largest relative error; an AssertionError if it exceeds `rtol`."""
    scale = np.maximum(np.maximum(np.abs(analytic), np.abs(numeric)), floor)
    errors = np.abs(analytic - numeric) / scale
    errors[np.isnan(errors)] = np.inf
    index = np.unravel_index(errors.argmax(), errors.shape)
    if not errors[index] <= rtol:
        place = [int(i) for i in index] if mode == "full" else f"along direction {index[0]}"
        raise AssertionError(
            f"Wrong gradient in {name} {place}: analytic {analytic[index]:.12g}, numeric "
            f"{numeric[index]:.12g}, relative error {errors[index]:.2g} > {rtol:g}."
        )
    return float(errors[index])


def _checked_gradient(name: str, array: NDArray, gradient: Any) -> NDArray:
    if gradient is None:
        raise AssertionError(f"There is no gradient in {name}.")
    gradient = np.array(gradient)
    if gradient.shape != array.shape:
        raise AssertionError(
            f"The gradient in {name} has shape {gradient.shape}, but {name} {array.shape}."
        )
    return gradient


# ------------------------------------------------------------------------------ what is checked


def _problem(target: Any, input: Any, targets: Any, forward_args: dict, rng: Any) -> Problem:
    if isinstance(target, Objective):
        return _of_objective(target, input, targets)
    if isinstance(target, Model):
        return _of_model(target, input, targets, dict(forward_args), rng)
    if isinstance(target, Layer):
        return _of_layer(target, input, forward_args, rng)
    raise TypeError(f"`target` must be a Layer, a Model or an Objective. Received: {target!r}")


def _of_objective(loss: Objective, outputs: Any, targets: Any) -> Problem:
    if outputs is None or targets is None:
        raise ValueError("The check of a loss needs `input`, the outputs, and `targets`.")
    x = np.array(outputs, np.float64)
    return Problem(
        {"outputs": x},
        lambda: float(np.sum(loss.forward(x, targets))),
        lambda: {"outputs": loss.backward(x, targets)},
    )


def _of_model(model: Model, input: Any, targets: Any, forward_args: dict, rng: Any) -> Problem:
    if targets is None:
        raise ValueError("The check of a model needs `targets`.")
    model = copy.deepcopy(model)
    if input is None and model.plan is not None:
        input = [_shape(shape) for shape in model.plan.in_shapes]
        input = input if len(input) > 1 else input[0]
    names = model.input_names
    given = model.arrays_for(input, names, "input") if len(names) > 1 else (input,)
    first = model.layers[0]
    xs = tuple(_samples(one, first, rng) for one in given)
    if not model.built:
        model.build((None, *xs[0].shape[1:]))
    for layer in every_layer(model.layers):
        to_float64(layer)
    outputs = model.output_names
    ys = model.arrays_for(targets, outputs, "targets") if len(outputs) > 1 else (targets,)
    masks = forward_args.get("mask")
    masks = tuple(masks) if isinstance(masks, tuple | list) else (masks,) * len(xs)
    keys = ["input"] if len(xs) == 1 else [f"input {name!r}" for name in names]

    def gradients() -> dict[str, Any]:
        # The gradients in the parameters are those of training, which may use a fused kernel.
        plan = model.require_plan("check_gradients")
        found, marks = plan.forward(xs, True, masks)
        heads: list[Any] = [None] * len(found)
        for head in model.heads:
            i = head.index
            heads[i] = head.backward(head.forward(found[i], ys[i], None, marks[i])[1], False)
        dx = plan.backward(heads)
        model.loss_backward(model.loss_forward(xs, ys, mask=masks)[2])
        return {**dict(zip(keys, dx)), **_grads(model.named_arrays(), model.grads)}

    return Problem(
        _with_inputs(keys, xs, _trained(model.named_arrays())),
        lambda: float(model.loss_forward(xs, ys, mask=masks)[0]),
        gradients,
    )


def _of_layer(layer: Layer, input: Any, forward_args: dict, rng: Any) -> Problem:
    layer = copied(layer)
    several = isinstance(input, list) and all(isinstance(one, tuple | np.ndarray) for one in input)
    xs = tuple(_samples(one, layer, rng) for one in (input if several else [input]))
    if layer.out_shape is None:
        layer.connect_to(*(graph.Input((None, *x.shape[1:])) for x in xs))
    for one in every_layer([layer]):
        to_float64(one)
    keys = [f"input {i}" for i in range(len(xs))] if len(xs) > 1 else ["input"]
    weights = [rng.standard_normal(y.shape) for y in _listed(forward(layer, xs, **forward_args))]
    arrays = lambda: ((f"{layer.name}/{n}", a, t) for n, a, t in named_arrays(layer))  # noqa: E731

    def gradients() -> dict[str, Any]:
        forward(layer, xs, **forward_args)
        dy = [w.copy() for w in weights]
        dx = layer.backward(dy[0] if len(dy) == 1 else tuple(dy))
        return {**dict(zip(keys, _listed(dx))), **_grads(arrays(), layer.grads)}

    def value() -> float:
        ys = _listed(forward(layer, xs, **forward_args))
        return float(sum(np.sum(y * w) for y, w in zip(ys, weights)))

    return Problem(_with_inputs(keys, xs, _trained(arrays())), value, gradients)


def _listed(arrays: Any) -> list[Any]:
    return [*arrays] if isinstance(arrays, tuple) else [arrays]


def _with_inputs(
    keys: list[str], xs: tuple[NDArray, ...], variables: dict[str, NDArray]
) -> dict[str, NDArray]:
    """The variables of a problem; an input of integers has no gradient."""
    inputs = {key: x for key, x in zip(keys, xs) if x.dtype.kind not in "iu"}
    return {**inputs, **variables}


def _trained(arrays: Iterable[tuple[str, NDArray, bool]]) -> dict[str, NDArray]:
    found = {name: array for name, array, trained in arrays if trained}
    for name, array in found.items():
        if array.dtype != np.float64:
            raise ValueError(
                f"The check needs parameters of float64. Received: {name} of {array.dtype}. "
                "Call npdl.utils.set_dtype('float64') before the layer is made."
            )
    return found


def _grads(
    arrays: Iterable[tuple[str, NDArray, bool]], grads: Sequence[NDArray]
) -> dict[str, NDArray]:
    names = [name for name, _, trained in arrays if trained]
    if len(names) != len(grads):
        raise AssertionError(f"There are {len(names)} params, but {len(grads)} grads: {names}.")
    return dict(zip(names, grads))


def _samples(input: Any, first: Layer, rng: Any) -> NDArray:
    """The batch to check with, a copy: as given, or drawn in its shape."""
    if input is None:
        if first.declared_shape is None:
            raise ValueError(f"The check needs `input`, a batch or its shape {first._where}.")
        input = _shape(first.declared_shape)
    return draw(input, rng)


def _shape(shape: Any) -> tuple[int, ...]:
    """The shape of a small batch."""
    return (3, *(4 if size is None else size for size in shape[1:]))


# --------------------------------------------------------------------------------- shared tools


def draw(input: ArrayLike | tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """A batch as given, copied, floats in float64; from a shape, a batch of normal numbers."""
    if isinstance(input, tuple) and all(isinstance(n, int | np.integer) for n in input):
        return rng.standard_normal(input)
    array = np.array(input)
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def forward(layer: Layer, inputs: tuple[Any, ...], train: bool = True, **kwargs: Any) -> Any:
    """`Layer.forward`, with `train` if the layer takes it."""
    if takes(type(layer).forward, "train"):
        kwargs["train"] = train
    return layer.forward(*inputs, **kwargs)


def copied(layer: Layer) -> Layer:
    """A deep copy of one layer, not of the network below it, with default switches."""
    layer = copy.deepcopy(layer, {id(layer.prev_layer): layer.prev_layer})
    layer.end_training()
    return layer


def to_float64(layer: Layer) -> None:
    """Make the layer's own parameters float64, in the layer itself."""
    for parameter in layer._parameters_by_name.values():
        if parameter.value.dtype != np.float64:
            grad = None if parameter.grad is None else parameter.grad.astype(np.float64)
            relocate(layer, parameter, parameter.value.astype(np.float64), grad)


def float64() -> contextlib.AbstractContextManager[None]:
    """Let new parameters be of float64 inside a ``with`` block."""
    return use_dtype(np.float64)


@contextlib.contextmanager
def _same_randomness() -> Iterator[Callable[[], None]]:
    """Yield a function that resets npdl's generator to its state at the start of the block."""
    bits = get_rng().bit_generator
    state = copy.deepcopy(bits.state)

    def rewind() -> None:
        bits.state = state

    try:
        yield rewind
    finally:
        rewind()
