"""Recurrent layers: weights in the order of ONNX, and masks of any form.

ONNX knows only how long each sequence is. With a mask the real steps are therefore moved to the
front, the node gets their number as `sequence_lens`, and the output of each step is looked up: the
state after as many real steps as there are up to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl.layers.recurrent import GRU, LSTM, BatchLSTM, Recurrent, SimpleRNN
from npdl.onnx._activations import inside
from npdl.onnx._graph import Graph, Tensor, read_mask, refuse

#: Class of a layer: op, and the place of each gate of ONNX in npdl's columns.
OPS: dict[type[Recurrent], tuple[str, tuple[int, ...]]] = {
    SimpleRNN: ("RNN", (0,)),
    GRU: ("GRU", (0, 1, 2)),  # z r h
    LSTM: ("LSTM", (0, 2, 1, 3)),  # i o f c; npdl's are i f o g
    BatchLSTM: ("LSTM", (0, 2, 1, 3)),
}

#: Suffixes, after the name of `AllW`, of the parts that an ONNX node takes.
PARTS = (".W", ".R", ".B")


def parts_of(layer: Recurrent) -> tuple[NDArray, NDArray, NDArray]:
    """`AllW` as ONNX has it: W (1, G U, D), R (1, G U, U), B (1, 2 G U)."""
    gates = OPS[type(layer)][1]
    n, units, w = layer._n_biases, layer.n_out, layer._weights()
    blocks = [w[:, gate * units : (gate + 1) * units] for gate in gates]
    inner = np.concatenate([block[n:] for block in blocks], axis=1).T
    bias = np.concatenate([block[:n] for block in blocks], axis=1)
    if n == 1:
        bias = np.concatenate([bias, np.zeros_like(bias)])
    d = len(w) - n - units
    return inner[None, :, :d], inner[None, :, d:], bias.reshape(1, -1)


def joined(layer: Recurrent, w: NDArray, r: NDArray, b: NDArray) -> NDArray:
    """The inverse of `parts_of`."""
    gates = OPS[type(layer)][1]
    rows = np.concatenate([b.reshape(2, -1)[: layer._n_biases], w[0].T, r[0].T])
    blocks = np.split(rows, len(gates), axis=1)
    return np.concatenate([blocks[gates.index(k)] for k in range(len(gates))], axis=1)


class Run:
    """One walk over a sequence.

    Attributes
    ----------
    steps : str
        The output of every step, (N, T, U), in the order of the input.
    states : list of str
        The last states, each (N, U).
    """

    steps: str
    states: list[str]


def walk(
    g: Graph, layer: Recurrent, path: str, x: Tensor, first: list[Tensor], reverse: bool
) -> Run:
    """Add the node of a recurrent layer, and the nodes around it."""
    if type(layer) not in OPS:
        raise refuse(layer, "The layer has no form in ONNX")
    if layer.stateful:
        raise refuse(layer, "A stateful layer keeps its state from batch to batch", stateful=True)
    kind, _ = OPS[type(layer)]
    act, gate = layer.activation, getattr(layer, "gate_activation", None)
    used: list[Any] = [act] if gate is None else [gate, act]
    used += [act] * (kind == "LSTM")
    options: dict[str, Any] = {"hidden_size": layer.n_out, **inside(layer, used)}
    options["direction"] = "reverse" if reverse else "forward"
    if isinstance(layer, GRU):
        options["linear_before_reset"] = int(layer.reset_after)
    weights = [
        g.weight(path + end, part)
        for end, part in zip((f"AllW{p}" for p in PARTS), parts_of(layer))
    ]
    mask, sequence, lengths = read_mask(x, layer), x.name, ""
    if mask is not None:
        sequence, lengths = _compact(g, mask, sequence)
    starts = [g.unsqueeze(state.name, 0) for state in first]
    n_states = layer._n_states
    inputs = [g.turned(sequence, 1, 0, 2), *weights, lengths, *starts]
    while not inputs[-1]:
        inputs.pop()
    y, *ends = g.op(kind, *inputs, outputs=1 + n_states, **options)
    run = Run()
    run.states = [g.squeeze(end, 0) for end in ends]
    run.steps = g.turned(g.squeeze(y, 1), 1, 0, 2)
    if mask is not None:
        _spread(g, run, mask, [state.name for state in first], reverse)
    return run


def _compact(g: Graph, mask: str, x: str) -> tuple[str, str]:
    """The sequences with the real steps in front, and how many these are, at least 1."""
    steps = g.op("Shape", mask, start=1, end=2)
    count = g.op("CumSum", g.op("Expand", g.constant(1), steps), g.constant(0, np.int64))
    length = g.cast(steps, "FLOAT")
    # Sorted downwards: a real step counts for more than all masked ones, an early one for more.
    rank = g.op("Sub", g.op("Mul", mask, g.op("Mul", length, g.constant(2))), count)
    _, order = g.op("TopK", rank, steps, outputs=2, axis=1, largest=1, sorted=1)
    moved = g.op("GatherND", x, g.unsqueeze(order, 2), batch_dims=1)
    lengths = g.op("Max", g.sum(mask, 1, keepdims=False), g.constant(1))
    return moved, g.cast(lengths, "INT32")


def _spread(g: Graph, run: Run, mask: str, first: list[str], reverse: bool) -> None:
    """Give each step the state after the real steps up to it, and samples without any the first."""
    zero = g.constant(0)
    real = g.cast(g.sum(mask, 1), "BOOL")
    before = [*first, *[zero] * len(run.states)][: len(run.states)]
    counts = g.op("CumSum", mask, g.constant(1, np.int64))
    if reverse:
        place = g.op("Sub", counts, mask)  # real steps before this one
        known = g.op("Less", place, g.op("Max", g.sum(mask, 1), zero))
    else:
        place = g.op("Sub", counts, g.constant(1))
        known = g.op("GreaterOrEqual", place, zero)
        place = g.op("Max", place, zero)
    places = g.unsqueeze(g.cast(place, "INT64"), 2)
    found = g.op("GatherND", run.steps, places, batch_dims=1)
    start = g.unsqueeze(before[0], 1) if first else zero
    run.steps = g.op("Where", g.unsqueeze(known, 2), found, start)
    run.states = [g.op("Where", real, end, start) for end, start in zip(run.states, before)]


def recurrent(g: Graph, layer: Recurrent, path: str, xs: list[Tensor]) -> tuple[list[str], Any]:
    """The outputs of a recurrent layer, and the mask of the first."""
    x = xs[0]
    run = walk(g, layer, path, x, xs[1:], layer.go_backwards)
    y, mask = run.states[0], None
    if layer.return_sequence:
        y, mask = run.steps, x.mask
        if layer.go_backwards:
            y = _backwards(g, y)
            mask = None if mask is None else _backwards(g, str(mask))
    return [y, *(run.states if layer.return_state else ())], mask


def _backwards(g: Graph, x: str) -> str:
    """`x` with its steps from the last to the first."""
    end = np.iinfo(np.int64).min
    return g.op("Slice", x, g.ints(-1), g.ints(end), g.ints(1), g.ints(-1))


def bidirectional(g: Graph, layer: Any, path: str, xs: list[Tensor]) -> tuple[list[str], Any]:
    """The outputs of a `Bidirectional`, and the mask of the first."""
    names = {id(one): name for name, one in layer.named_sublayers()}
    runs = [
        walk(g, one, f"{path}{names[id(one)]}/", xs[0], list(half), reverse)
        for one, half, reverse in zip(layer._both, layer._halves(xs[1:]), (False, True))
    ]
    sequence = layer.forward_layer.return_sequence
    ys = [run.steps if sequence else run.states[0] for run in runs]
    if layer.merge_mode == "concat":
        ys = [g.op("Concat", *ys, axis=-1)]
    elif layer.merge_mode is not None:
        y = g.op("Mul" if layer.merge_mode == "mul" else "Add", *ys)
        ys = [g.op("Mul", y, g.constant(0.5)) if layer.merge_mode == "ave" else y]
    if layer.forward_layer.return_state:
        ys += [state for run in runs for state in run.states]
    return ys, xs[0].mask if sequence else None
