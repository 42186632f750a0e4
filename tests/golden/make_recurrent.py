"""Write results of Keras and PyTorch for recurrent layers: ``recurrent_*.json``.

    KERAS_BACKEND=torch python tests/golden/make_recurrent.py keras
    python tests/golden/make_recurrent.py torch

Each needs its library, at the version that the file names. The suite only reads the files. All
numbers are float64, the weights in npdl's layout; `tests/test_golden_recurrent.py` is one loop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

N, T, D, U = 3, 4, 2, 2
LENGTHS = [4, 2, 3]
RIGHT = (np.arange(T) < np.array(LENGTHS)[:, None]).astype(int)
LEFT = RIGHT[:, ::-1]
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
#: Where the library has the gates of npdl's columns: z, r, h and i, f, o, g.
ORDER = {
    "keras": {"SimpleRNN": [0], "GRU": [0, 1, 2], "LSTM": [0, 1, 3, 2]},
    "torch": {"SimpleRNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 1, 3, 2]},
}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).round(3)


def biases(cell, kwargs):
    """Rows of biases: two where the reset gate acts after the product."""
    return 1 + (cell == "GRU" and kwargs.get("reset_after", False))


def reordered(matrix, order):
    """The gates, which are blocks of columns, in another order."""
    return np.hstack([np.split(matrix, len(order), axis=1)[k] for k in order])


def weights_of(cell, kwargs, seed):
    rows = biases(cell, kwargs)
    w = numbers(rows + D + U, GATES[cell] * U, seed=seed)
    if not kwargs.get("use_bias", True):
        w[:rows] = 0
    return w


def case(cell, kwargs, merge="none", mask=None):
    """A case without its results; `merge` "none" is one direction."""
    n = 1 if merge == "none" else 2
    return {
        "cell": cell,
        "kwargs": kwargs,
        "merge": merge,
        "mask": None if mask is None else mask.tolist(),
        "weights": [weights_of(cell, kwargs, seed).tolist() for seed in range(5, 5 + n)],
        "x": numbers(N, T, D, seed=3).tolist(),
    }


def gradients(outputs, one):
    """Zero the masked steps, whose values differ between libraries."""
    grads = [numbers(*y.shape, seed=20 + i) for i, y in enumerate(outputs)]
    for grad in grads:
        if grad.ndim == 3 and one["mask"] is not None:
            grad *= np.array(one["mask"])[..., None]
    return grads


def results(outputs, grads, x, dws):
    """The result of a library, to 10 places."""
    found = {"outputs": [y.detach().numpy() for y in outputs], "grads": grads, "dws": dws}
    found = {k: [np.round(a, 10).tolist() for a in arrays] for k, arrays in found.items()}
    return {**found, "dx": np.round(x.grad.numpy(), 10).tolist()}


# ------------------------------------------------------------------------------------------ Keras


def keras_cases():
    rest, state, back = ({k: True} for k in ("return_sequence", "return_state", "go_backwards"))
    for cell in GATES:
        after = {"reset_after": True} if cell == "GRU" else {}
        for options, mask in [
            (rest, None),
            (rest, RIGHT),
            (state, LEFT),
            ({**rest, **back}, None),
            ({**back, **state}, RIGHT),
            ({"use_bias": False}, LEFT),
        ]:
            yield case(cell, {**options, **after}, mask=mask)
        for merge, options, mask in [
            ("concat", rest, RIGHT),
            ("concat", {**rest, **state}, LEFT),
            ("sum", {}, RIGHT),
            ("mul", rest, LEFT),
            ("ave", state, RIGHT),
            (None, rest, RIGHT),
        ]:
            yield case(cell, options, merge, mask)


def keras_result(one):
    import keras
    import torch

    cell, kwargs, order = one["cell"], dict(one["kwargs"]), ORDER["keras"][one["cell"]]
    if "return_sequence" in kwargs:
        kwargs["return_sequences"] = kwargs.pop("return_sequence")
    if cell == "GRU":
        kwargs.setdefault("reset_after", False)
    layer = getattr(keras.layers, cell)(U, dtype="float64", **kwargs)
    parts = [layer]
    if one["merge"] != "none":
        layer = keras.layers.Bidirectional(layer, merge_mode=one["merge"], dtype="float64")
        parts = [layer.forward_layer, layer.backward_layer]
    layer.build((N, T, D))
    rows = biases(cell, kwargs)
    for part, w in zip(parts, one["weights"]):
        w = reordered(np.array(w), order)
        bias = w[0] if rows == 1 else w[:2]
        part.set_weights([w[rows : rows + D], w[rows + D :], bias][: len(part.weights)])
    x = torch.tensor(one["x"], dtype=torch.float64, requires_grad=True)
    mask = None if one["mask"] is None else torch.tensor(one["mask"], dtype=torch.bool)
    outputs = layer(x, mask=mask)
    outputs = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    grads = gradients(outputs, one)
    sum((y * torch.tensor(g)).sum() for y, g in zip(outputs, grads)).backward()
    back = np.argsort(order)
    dws = []
    for part in parts:
        kernel, inner, *bias = [v.value.grad.numpy() for v in part.weights]
        bias = bias[0].reshape(rows, -1) if bias else np.zeros((rows, kernel.shape[1]))
        dws.append(reordered(np.vstack([bias, kernel, inner]), back))
    return results(outputs, grads, x, dws)


# ---------------------------------------------------------------------------------------- PyTorch


def torch_cases():
    """Packed sequences; the output is that of every step, then the last states."""
    for cell in GATES:
        kwargs = {"return_sequence": True, "return_state": True}
        if cell == "GRU":
            kwargs["reset_after"] = True
        for merge in ("none", "concat"):
            for mask in (None, RIGHT):
                yield case(cell, kwargs, merge, mask)


def torch_result(one):
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    cell, order = one["cell"], ORDER["torch"][one["cell"]]
    cls = torch.nn.RNN if cell == "SimpleRNN" else getattr(torch.nn, cell)
    layer = cls(D, U, batch_first=True, bidirectional=one["merge"] != "none", dtype=torch.float64)
    rows = biases(cell, one["kwargs"])
    ends = ["", "_reverse"]
    for end, w in zip(ends, one["weights"]):
        w = reordered(np.array(w), order)
        second = w[1] if rows == 2 else np.zeros_like(w[0])
        named = {"weight_ih": w[rows : rows + D].T, "weight_hh": w[rows + D :].T}
        for name, value in {**named, "bias_ih": w[0], "bias_hh": second}.items():
            getattr(layer, f"{name}_l0{end}").data = torch.tensor(value.copy())
    x = torch.tensor(one["x"], dtype=torch.float64, requires_grad=True)
    given = x
    if one["mask"] is not None:
        lengths = torch.tensor(np.sum(one["mask"], axis=1))
        given = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, state = layer(given)
    if one["mask"] is not None:
        y, _ = pad_packed_sequence(y, batch_first=True)
    states = list(state) if cell == "LSTM" else [state]
    outputs = [y] + [part[k] for k in range(len(states[0])) for part in states]
    grads = gradients(outputs, one)
    sum((y * torch.tensor(g)).sum() for y, g in zip(outputs, grads)).backward()
    back, dws = np.argsort(order), []
    for end, _ in zip(ends, one["weights"]):
        names = ["bias_ih", "bias_hh"][:rows]
        found = [getattr(layer, f"{name}_l0{end}").grad.numpy()[None] for name in names]
        found += [
            getattr(layer, f"{name}_l0{end}").grad.numpy().T for name in ("weight_ih", "weight_hh")
        ]
        dws.append(reordered(np.vstack(found), back))
    return results(outputs, grads, x, dws)


def main(library):
    if library == "keras":
        import keras

        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        version, cases, result = keras.__version__, keras_cases, keras_result
    else:
        import torch

        version, cases, result = torch.__version__, torch_cases, torch_result
    done = [{**one, **result(one)} for one in cases()]
    file = {"made_by": f"{library} {version}", "cases": done}
    path = Path(__file__).with_name(f"recurrent_{library}.json")
    path.write_text(json.dumps(file) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
