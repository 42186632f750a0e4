"""Recurrent nodes of other programs, and the nodes that exporters put around them.

PyTorch's exporter writes Transpose, LSTM, Squeeze, Transpose where `batch_first` is set; for both
directions Transpose and Reshape behind the node; for the state of the last step a Gather.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers as L
from npdl.layers.node import Value
from npdl.onnx._reader import DIRECTION, Filled, Laid, Lengths, Reader, laid, settled
from npdl.onnx._recurrent import joined

#: Of each op: the layer, its gates, its states, its activations.
_KINDS: dict[str, tuple[type, int, int, list[str]]] = {
    "RNN": (L.SimpleRNN, 1, 1, ["Tanh"]),
    "GRU": (L.GRU, 3, 1, ["Sigmoid", "Tanh"]),
    "LSTM": (L.LSTM, 4, 2, ["Sigmoid", "Tanh", "Tanh"]),
}

#: Activations in recurrent nodes, with the defaults of alpha and beta.
_ACTIVATIONS: dict[str, tuple[str, float | None, float | None]] = {
    "Relu": ("relu", None, None),
    "Tanh": ("tanh", None, None),
    "Sigmoid": ("sigmoid", None, None),
    "Softsign": ("soft_sign", None, None),
    "Softplus": ("soft_plus", None, None),
    "Affine": ("linear", 1.0, 0.0),
    "LeakyRelu": ("leaky_relu", 0.01, None),
    "Elu": ("elu", 1.0, None),
    "HardSigmoid": ("hard_sigmoid", 0.2, 0.5),
}


def read_recurrent(
    r: Reader,
    x: Any,
    w: Any,
    u: Any,
    b: Any = None,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    peepholes: Any = None,
) -> Any:
    """The outputs of an RNN, GRU or LSTM node."""
    kind, gates, n_states, usual = _KINDS[r.node.op_type]
    batch_first = bool(r.take("layout", 0))
    value = _sequence(r, x, batch_first)
    r.attributes.pop("clip", None) if r.take("clip", 0.0) == 0 else r.want(clip=0.0)
    r.want(input_forget=0)
    if peepholes is not None and r.array(peepholes).any():
        raise r.refusal("Peepholes are not supported")
    w, u = r.array(w, 3), r.array(u, 3)
    directions, units = len(w), u.shape[2]
    way = r.take("direction", b"forward").decode()
    if directions != 1 + (way == "bidirectional") or units != r.take("hidden_size", units):
        raise r.refusal("The shapes of the weights do not fit", W=w.shape, R=u.shape)
    b = np.zeros((directions, 2 * gates * units), w.dtype) if b is None else r.array(b, 2)
    if w.shape[1] != gates * units or u.shape != (directions, gates * units, units):
        raise r.refusal("The shapes of the weights do not fit", W=w.shape, R=u.shape)
    if b.shape != (directions, 2 * gates * units):
        raise r.refusal("The shape of the bias does not fit", B=b.shape)
    _check_lengths(r, lengths, value)
    first = _first_states(r, [h, c][:n_states], directions, batch_first)
    names = [*r.node.output, "", "", ""][: 1 + n_states]
    steps, *ends = (bool(name and r.uses[name]) for name in names)
    steps = steps or not any(ends)
    if steps and way == "reverse":
        rule = "npdl hands on the steps of a reverse layer in the order of processing"
        raise r.refusal(rule, direction=way)
    options = _options(r, kind, usual, directions)
    options |= {"return_sequence": steps, "return_state": True}
    options["go_backwards"] = way == "reverse"
    made: list[Any] = [kind(n_out=units, **part, **options) for part in options.pop("directions")]
    layer = made[0]
    if directions == 2:
        layer = L.Bidirectional(made[0], None, backward_layer=made[1])
        made = [layer.forward_layer, layer.backward_layer]
    outputs = layer(value, initial_state=tuple(first)) if first else layer(value)
    for i, one in enumerate(made):
        _fill(r, one, w[i : i + 1], u[i : i + 1], b[i : i + 1])
        one.was_trained = True
    ys, states = outputs[:directions], outputs[directions:]
    if steps and directions == 1:
        r.ends[id(ys[0])] = states[0]
    order, behind = ((1, DIRECTION, 0, 2), (DIRECTION, 0, 1))
    if batch_first:
        order, behind = (0, 1, DIRECTION, 2), (0, DIRECTION, 1)
    return [
        Laid(tuple(ys), order),
        *(Laid(tuple(states[i::n_states]), behind) for i in range(n_states)),
    ]


def _sequence(r: Reader, x: Any, batch_first: bool) -> Value:
    """The input of a recurrent node, samples first."""
    r_order = (0, 1, 2) if batch_first else (1, 0, 2)
    if not isinstance(x, Value | Laid):
        raise r.refusal("The input must not be constant")
    found = laid(x)
    if found.order != r_order:
        raise r.refusal("The samples must be on the axis where the node has them")
    return found.values[0]


def _check_lengths(r: Reader, lengths: Any, x: Value) -> None:
    """Lengths that are an input are a mask; constant ones must leave nothing out."""
    if lengths is None or isinstance(lengths, Lengths):
        return
    if isinstance(lengths, Filled):
        lengths = np.array([lengths.number])
    if not isinstance(lengths, np.ndarray) or x.shape[1] is None or (lengths != x.shape[1]).any():
        raise r.refusal("`sequence_lens` must be an input of the graph, or all steps")


def _first_states(r: Reader, states: list[Any], directions: int, batch_first: bool) -> list[Value]:
    """The first states for each direction, in npdl's order; none where they are zeros."""
    found: list[Laid] = []
    for state in states:
        number = state.number if isinstance(state, Filled) else 0.0
        if isinstance(state, np.ndarray):
            number = float(np.abs(state).max(initial=0))
        if number != 0:
            raise r.refusal("A constant first state must be 0")
        if isinstance(state, Value | Laid):
            found.append(laid(state))
    if not found:
        return []
    order = (0, DIRECTION, 1) if batch_first else (DIRECTION, 0, 1)
    fits = all(one.order == order and len(one.values) == directions for one in found)
    if len(found) != len(states) or not fits:
        raise r.refusal("The first states must be those of a recurrent node, or zeros")
    return [one.values[i] for i in range(directions) for one in found]


def _options(r: Reader, kind: type, usual: list[str], directions: int) -> dict[str, Any]:
    """The activations of each direction, and the options that all share."""
    names = [name.decode() for name in r.take("activations", [])] or usual * directions
    if len(names) != len(usual) * directions:
        raise r.refusal("Each direction must have its activations", activations=names)
    alphas, betas = (list(r.take(f"activation_{key}", [])) for key in ("alpha", "beta"))
    known = {name.lower(): name for name in _ACTIVATIONS}
    found = []
    for name in names:
        if name.lower() not in known:
            raise r.refusal("npdl has no such activation", activation=name)
        own, alpha, beta = _ACTIVATIONS[known[name.lower()]]
        alpha = alphas.pop(0) if alpha is not None and alphas else alpha
        beta = betas.pop(0) if beta is not None and betas else beta
        if own == "linear" and (alpha, beta) != (1.0, 0.0):
            raise r.refusal("Not supported", activation=name, alpha=alpha, beta=beta)
        if own == "hard_sigmoid" and (abs(float(alpha or 0) - 1 / 6) > 1e-6 or beta != 0.5):
            raise r.refusal("Not supported", activation=name, alpha=alpha, beta=beta)
        extra = {"leaky_relu": "slope", "elu": "alpha"}
        found.append({"name": own, extra[own]: alpha} if own in extra else own)
    parts = [found[i : i + len(usual)] for i in range(0, len(found), len(usual))]
    if any(part[-1] != part[-2] for part in parts if len(usual) == 3):
        raise r.refusal("Cell and output must have the same activation", activations=names)
    options: dict[str, Any] = {
        "directions": [
            {"activation": part[-1], **({"gate_activation": part[0]} if len(usual) > 1 else {})}
            for part in parts
        ]
    }
    if kind is L.GRU:
        options["reset_after"] = bool(r.take("linear_before_reset", 0))
    return options


def _fill(r: Reader, layer: Any, w: NDArray, u: NDArray, b: NDArray) -> None:
    """Give a layer the weights of one direction."""
    if layer._n_biases == 1:  # one is enough: the two are added up
        both = b.reshape(2, -1).sum(axis=0)
        b = np.concatenate([both, np.zeros_like(both)])
    own = layer._parameters_by_name["AllW"].value
    new = joined(layer, w, u, b)
    if new.shape != own.shape:
        raise r.refusal("The shapes of the weights do not fit", W=w.shape, R=u.shape)
    own[...] = new


# ------------------------------------------------------------------- nodes around them


def transposed(x: Any, perm: list[int]) -> Any:
    """A value with its axes in another order."""
    found = laid(x)
    return settled(Laid(found.values, tuple(found.order[i] for i in perm)))


def squeezed(r: Reader, x: Laid, axes: list[int]) -> Any:
    """A value without the axis of directions, which has size 1."""
    places = [axis % len(x.order) for axis in axes]
    if any(x.order[i] != DIRECTION for i in places) or len(x.values) > 1:
        raise r.refusal("The axis must be that of one direction", axes=axes)
    return settled(Laid(x.values, tuple(a for i, a in enumerate(x.order) if i not in places)))


def picked(r: Reader, x: Any, index: int) -> Any:
    """One direction, or one step."""
    found = laid(x)
    place = r.take("axis", 0) % len(found.order)
    axis = found.order[place]
    rest = tuple(a for i, a in enumerate(found.order) if i != place)
    if axis == DIRECTION:
        if not -len(found.values) <= index < len(found.values):
            raise r.refusal("The index is out of range", index=index)
        return settled(Laid((found.values[index],), rest))
    if axis == 0:
        raise r.refusal("The samples must stay on an axis", axis=place)
    values = tuple(_part(r, value, axis, index) for value in found.values)
    return settled(Laid(values, tuple(a - (a > axis) for a in rest)))


def _part(r: Reader, x: Value, axis: int, index: int) -> Value:
    """The entry of an axis."""
    size = x.shape[axis]
    if index == -1 and axis == 1 and id(x) in r.ends:
        return r.ends[id(x)]
    if size is None or axis != 1 or x.ndim != 3:
        rule = (
            "Only the last step of one direction, or a step of sequences of known length, is known"
        )
        raise r.refusal(rule, index=index)
    if not -size <= index < size:
        raise r.refusal("The index is out of range", index=index)
    before = index % size
    cut = x if size == 1 else L.Cropping1D((before, size - 1 - before))(x)
    return L.Reshape((x.shape[2] or -1,))(cut)


def reshaped(r: Reader, x: Laid, sizes: list[int]) -> Any:
    """A value whose directions become one with the last axis."""
    units = x.values[0].shape[-1] or 0
    both = len(x.values) * units
    if x.order[-2:] != (DIRECTION, x.values[0].ndim - 1) or len(sizes) != len(x.order) - 1:
        raise r.refusal("Only the directions and the last axis can become one", shape=sizes)
    known = [x.values[0].shape[axis] for axis in x.order[:-2]]
    if sizes[-1] not in (-1, both) or any(
        n > 0 and size not in (None, n) for n, size in zip(sizes, known)
    ):
        raise r.refusal("Only the directions and the last axis can become one", shape=sizes)
    value = x.values[0] if len(x.values) == 1 else L.Concatenate(-1)(list(x.values))
    return settled(Laid((value,), (*x.order[:-2], x.order[-1])))


def concatenated(r: Reader, xs: list[Laid]) -> Any:
    """Values that follow each other along an axis: their features, or their directions."""
    place = r.take("axis", 0) % len(xs[0].order)
    if len({x.order for x in xs}) > 1:
        raise r.refusal("The samples must be on the same axis of all inputs")
    order = xs[0].order
    if order[place] == DIRECTION:
        return Laid(tuple(value for x in xs for value in x.values), order)
    if order[place] == 0 or DIRECTION in order:
        raise r.refusal("The samples must stay on an axis", axis=place)
    return Laid((L.Concatenate(order[place])([x.values[0] for x in xs]),), order)
