"""Gradients against numeric derivatives; the public name of all this is `npdl.testing`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import graph
from npdl._checks import check_choice
from npdl.layers.base import Layer
from npdl.model import Model
from npdl.objectives import Objective
from npdl.utils.random import get_rng, use_dtype


class Problem(NamedTuple):
    """A scalar function of arrays, and the gradient that is to be checked.

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

    Checked are the gradient in the input, unless that holds integers, and in every parameter that
    is trained. The target is not changed: the check works on a copy of it in float64.

    Parameters
    ----------
    target : Layer, Model or Objective
        A layer need not be connected; a model must be compiled. What is random in it draws the
        same numbers in every evaluation. A layer of your own that keeps plain arrays must have
        been made with arrays of float64.
    input : array_like or tuple of int, optional
        A batch of samples, or its shape: normal numbers are drawn then. If not given, the shape
        comes from what the first layer tells of its input. For a loss: the outputs of a network.
    targets : array_like
        Of a model or a loss. The value of a layer is ``sum(forward(input) * R)``, R random.
    mode : {"full", "directional"}
        Every element of every gradient, or its product with two random directions: cheap.
    rtol : float
        Greatest relative error allowed.
    step : float
        Of the differences, which are of order four. Smaller steps step less often over the kink of
        a ReLU, but lose digits.
    forward_args : dict, optional
        Further arguments of the layer's `forward`, such as ``{"mask": mask}``.
    seed : int
        For the random numbers that this check draws for itself.

    Returns
    -------
    float
        The greatest relative error, ``|analytic - numeric| / max(|analytic|, |numeric|, floor)``;
        the floor is a thousandth of the greatest gradient of all.

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
    greatest = max((np.abs(numeric).max() for _, _, numeric in results), default=0.0)
    floor = max(1e-3 * greatest, 1e-5 * max(start, 1.0))
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
    """The greatest relative error; an AssertionError if it exceeds `rtol`."""
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
        return _of_model(target, input, targets, rng)
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


def _of_model(model: Model, input: Any, targets: Any, rng: Any) -> Problem:
    if targets is None:
        raise ValueError("The check of a model needs `targets`.")
    model = copy.deepcopy(model)
    x = _samples(input, model.layers[0], rng)
    if not model.built:
        model.build((None, *x.shape[1:]))
    for layer in model.layers:
        to_float64(layer)

    def gradients() -> dict[str, Any]:
        # The gradients in the parameters are those that training uses, perhaps of a fused kernel.
        outputs = model.forward(x, train=True)
        dx = model.backward(model.loss.backward(outputs, targets))
        model.loss_backward(model.loss_forward(x, targets)[2])
        return {"input": dx, **{k: g for layer in model.layers for k, g in _grads(layer).items()}}

    variables = {k: v for layer in model.layers for k, v in _trained(layer).items()}
    return Problem(
        _with_input(x, variables), lambda: float(model.loss_forward(x, targets)[0]), gradients
    )


def _of_layer(layer: Layer, input: Any, forward_args: dict, rng: Any) -> Problem:
    layer = copied(layer)
    x = _samples(input, layer, rng)
    if layer.out_shape is None:
        layer.connect_to(graph.Input((None, *x.shape[1:])))
    to_float64(layer)
    weights = rng.standard_normal(np.shape(forward(layer, x, **forward_args)))

    def gradients() -> dict[str, Any]:
        forward(layer, x, **forward_args)
        dx = layer.backward(weights.copy())
        return {"input": dx, **_grads(layer)}

    return Problem(
        _with_input(x, _trained(layer)),
        lambda: float(np.sum(forward(layer, x, **forward_args) * weights)),
        gradients,
    )


def _with_input(x: NDArray, variables: dict[str, NDArray]) -> dict[str, NDArray]:
    return variables if x.dtype.kind in "iu" else {"input": x, **variables}


def _trained(layer: Layer) -> dict[str, NDArray]:
    found = {name: array for name, array, trained in graph.arrays(layer) if trained}
    for name, array in found.items():
        if array.dtype != np.float64:
            raise ValueError(
                f"The check needs parameters of float64. Received: {name} of {array.dtype}. "
                "Call npdl.utils.set_dtype('float64') before the layer is made."
            )
    return found


def _grads(layer: Layer) -> dict[str, NDArray]:
    names, grads = _trained(layer), layer.grads
    if len(names) != len(grads):
        raise AssertionError(f"{layer.name} has {len(names)} params, but {len(grads)} grads.")
    return dict(zip(names, grads))


def _samples(input: Any, first: Layer, rng: Any) -> NDArray:
    """The batch to check with, a copy: as given, or drawn in its shape."""
    if input is None:
        if first.in_shape is None:
            raise ValueError(f"The check needs `input`, a batch or its shape {first._where}.")
        input = (3, *(4 if size is None else size for size in first.in_shape[1:]))
    return draw(input, rng)


# --------------------------------------------------------------------------------- shared tools


def draw(input: ArrayLike | tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """A batch as given, copied, floats in float64; from a shape, a batch of normal numbers."""
    if isinstance(input, tuple) and all(isinstance(n, int | np.integer) for n in input):
        return rng.standard_normal(input)
    array = np.array(input)
    return array if array.dtype.kind in "iu" else array.astype(np.float64)


def forward(layer: Layer, x: ArrayLike, train: bool = True, **kwargs: Any) -> NDArray:
    """`Layer.forward`, with `train` if the layer knows about it."""
    if graph.accepts(type(layer).forward, "train"):
        kwargs["train"] = train
    return layer.forward(x, **kwargs)


def copied(layer: Layer) -> Layer:
    """A deep copy of one layer, not of the network below it, with default switches."""
    layer = copy.deepcopy(layer, {id(layer.prev_layer): layer.prev_layer})
    layer.need_input_grad, layer.keep_buffers = True, False
    return layer


def to_float64(layer: Layer) -> None:
    """Make the parameters of a layer float64, in the layer itself."""
    for parameter in layer.parameters:
        for field in ("value", "grad"):
            old = getattr(parameter, field)
            if old is None or old.dtype == np.float64:
                continue
            new = old.astype(np.float64)
            setattr(parameter, field, new)
            # The layer may hold the same array under a name of its own.
            vars(layer).update({k: new for k, v in vars(layer).items() if v is old})


def float64() -> contextlib.AbstractContextManager[None]:
    """Let new parameters be of float64 inside a ``with`` block."""
    return use_dtype(np.float64)


@contextlib.contextmanager
def _same_randomness() -> Iterator[Callable[[], None]]:
    """Give a function that rewinds npdl's generator to where it stands now, and rewind at last."""
    bits = get_rng().bit_generator
    state = copy.deepcopy(bits.state)

    def rewind() -> None:
        bits.state = state

    try:
        yield rewind
    finally:
        rewind()
