"""Activations as nodes, and as the names that recurrent nodes give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdl import activations as acts
from npdl.activations import Activation
from npdl.layers.base import Layer
from npdl.onnx._graph import Graph, refuse


def _elliot(g: Graph, x: str, act: Any) -> str:
    half = g.constant(0.5)
    return g.op("Add", g.op("Mul", _symmetric_elliot(g, x, act), half), half)


def _symmetric_elliot(g: Graph, x: str, act: Any) -> str:
    return g.op("Softsign", g.op("Mul", x, g.constant(act.steepness)))


def _gelu(g: Graph, x: str, act: Any) -> str:
    erf = g.op("Erf", g.op("Mul", x, g.constant(0.5**0.5)))
    half = g.op("Mul", x, g.constant(0.5))
    return g.op("Mul", half, g.op("Add", erf, g.constant(1)))


def _silu(g: Graph, x: str, act: Any) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def _mish(g: Graph, x: str, act: Any) -> str:
    return g.op("Mul", x, g.op("Tanh", g.op("Softplus", x)))


def _hard_tanh(g: Graph, x: str, act: Any) -> str:
    return g.op("Clip", x, g.constant(-1), g.constant(1))


#: Class of the activation: op, and its attributes.
_OPS: dict[type[Activation], tuple[str, Callable[[Any], dict[str, float]]]] = {
    acts.Sigmoid: ("Sigmoid", lambda a: {}),
    acts.Tanh: ("Tanh", lambda a: {}),
    acts.ReLU: ("Relu", lambda a: {}),
    acts.SoftPlus: ("Softplus", lambda a: {}),
    acts.SoftSign: ("Softsign", lambda a: {}),
    acts.Exponential: ("Exp", lambda a: {}),
    acts.SELU: ("Selu", lambda a: {}),
    acts.LeakyReLU: ("LeakyRelu", lambda a: {"alpha": a.slope}),
    acts.ELU: ("Elu", lambda a: {"alpha": a.alpha}),
    acts.HardSigmoid: ("HardSigmoid", lambda a: {"alpha": 1 / 6, "beta": 0.5}),
}

#: Those that take several nodes.
_FORMULAS: dict[type[Activation], Callable[[Graph, str, Any], str]] = {
    acts.Linear: lambda g, x, act: x,
    acts.Elliot: _elliot,
    acts.SymmetricElliot: _symmetric_elliot,
    acts.GELU: _gelu,
    acts.SiLU: _silu,
    acts.Mish: _mish,
    acts.HardTanh: _hard_tanh,
}

_ALONG = {acts.Softmax: "Softmax", acts.LogSoftmax: "LogSoftmax"}

#: What a recurrent node knows, beside the identity.
_INSIDE = (acts.Sigmoid, acts.Tanh, acts.ReLU, acts.SoftPlus, acts.SoftSign, acts.LeakyReLU)
_INSIDE += (acts.ELU, acts.HardSigmoid)  # type: ignore[assignment]


def activation(g: Graph, layer: Layer, act: Activation, x: str, axis: int = -1) -> str:
    """The name of ``act(x)``; `axis` is what softmax runs along if it was given no other."""
    kind = type(act)
    if kind in _OPS:
        op, attributes = _OPS[kind]
        return g.op(op, x, **attributes(act))
    if kind in _FORMULAS:
        return _FORMULAS[kind](g, x, act)
    if kind in _ALONG:
        own: int = act.axis  # type: ignore[attr-defined]
        return g.op(_ALONG[kind], x, axis=axis if own == -1 else own)
    raise refuse(layer, "The activation has no form in ONNX", activation=kind.__name__)


def inside(layer: Layer, acts_: list[Activation]) -> dict[str, list[Any]]:
    """The attributes of a recurrent node that say what its activations are."""
    names: list[str] = []
    numbers: dict[str, list[float]] = {"alpha": [], "beta": []}
    for act in acts_:
        if type(act) is acts.Linear:
            names.append("Affine")
            found = {"alpha": 1.0, "beta": 0.0}
        elif type(act) in _INSIDE:
            op, attributes = _OPS[type(act)]
            names.append(op)
            found = attributes(act)
        else:
            why = "No recurrent node has this activation"
            raise refuse(layer, why, activation=type(act).__name__)
        for key, value in found.items():
            numbers[key].append(value)
    given = {f"activation_{key}": values for key, values in numbers.items() if values}
    return {"activations": names, **given}
