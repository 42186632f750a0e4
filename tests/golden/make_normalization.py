"""Write results of Keras and PyTorch for activations and normalizations: ``normalization_*.json``.

    KERAS_BACKEND=torch python tests/golden/make_normalization.py keras
    python tests/golden/make_normalization.py torch

Each needs its library, at the version that the file names. The suite only reads the files: each
case holds how npdl spells it, so that `tests/test_golden_normalization.py` is one loop.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

POINTS = [*np.linspace(-8, 8, 33), -37.5, -20.25, 20.25, 37.5, -0.003, 0.003]
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 1]])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 1.5, shape).round(3)


def differentiated(function, *arrays):
    """The value of a function of tensors, and its gradients for dy = cos(0), cos(1), ..."""
    import torch

    tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    y = function(*tensors)
    dy = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
    y.backward(dy)
    return y.detach().tolist(), [None if t.grad is None else t.grad.tolist() for t in tensors]


def activation(name, function, x=None):
    x = np.array(POINTS) if x is None else x
    y, (dx,) = differentiated(function, x)
    return {"activation": name, "x": x.tolist(), "y": y, "dx": dx}


# ---------------------------------------------------------------------------------------- PyTorch


def torch_activations():
    import torch
    import torch.nn.functional as F

    yield activation("gelu", F.gelu)
    yield activation("silu", F.silu)
    yield activation("mish", F.mish)
    yield activation("elu", F.elu)
    yield activation({"name": "elu", "alpha": 0.5}, lambda x: F.elu(x, 0.5))
    yield activation("selu", F.selu)
    yield activation({"name": "leaky_relu", "slope": 0.01}, F.leaky_relu)
    yield activation("hard_sigmoid", F.hardsigmoid)
    yield activation("hard_tanh", F.hardtanh)
    yield activation("exponential", torch.exp)
    x = numbers(3, 4, 2, seed=3)
    for axis in (1, -1):
        for name, theirs in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
            yield activation({"name": name, "axis": axis}, partial(theirs, dim=axis), x)


def torch_layers():
    import torch
    import torch.nn.functional as F

    def layer(name, kwargs, function, x, *weights):
        names = ("gamma", "beta")[: len(weights)] if name != "PReLU" else ("alpha",)
        y, (dx, *grads) = differentiated(function, x, *weights)
        return {
            "layer": name,
            "kwargs": kwargs,
            "weights": {n: w.tolist() for n, w in zip(names, weights)},
            "x": x.tolist(),
            "y": y,
            "dx": dx,
            "grads": dict(zip(names, grads)),
        }

    def pair(*shape):
        return numbers(*shape, seed=1), numbers(*shape, seed=2)

    yield layer(
        "LayerNormalization",
        {},
        lambda x, g, b: F.layer_norm(x, (5,), g, b),
        numbers(3, 4, 5),
        *pair(5),
    )
    yield layer(
        "LayerNormalization",
        {"axis": [1, 2], "epsilon": 1e-3},
        lambda x, g, b: F.layer_norm(x, (4, 5), g, b, 1e-3),
        numbers(3, 4, 5),
        *pair(4, 5),
    )
    for groups in (1, 2, 6):
        yield layer(
            "GroupNormalization",
            {"groups": groups, "epsilon": 1e-5},
            lambda x, g, b, groups=groups: F.group_norm(x, groups, g, b),
            numbers(2, 6, 3, 4),
            *pair(6),
        )
    yield layer(
        "GroupNormalization",
        {"groups": 3, "epsilon": 1e-5},
        lambda x, g, b: F.group_norm(x, 3, g, b),
        numbers(4, 6),
        *pair(6),
    )
    yield layer(
        "RMSNormalization",
        {"epsilon": 1e-5},
        lambda x, g: F.rms_norm(x, (5,), g, 1e-5),
        numbers(3, 4, 5),
        pair(5)[0],
    )
    yield layer(
        "BatchNormal",
        {"axis": 1, "epsilon": 1e-5},
        lambda x, g, b: F.batch_norm(x, None, None, g, b, True),
        numbers(3, 4, 5, 2),
        *pair(4),
    )
    mean, var = torch.tensor(numbers(4, seed=5)), torch.tensor(numbers(4, seed=6) ** 2)
    case = layer(
        "BatchNormal",
        {"axis": 1, "epsilon": 1e-5, "trainable": False},
        lambda x, g, b: F.batch_norm(x, mean, var, g, b, False),
        numbers(3, 4, 5, 2),
        *pair(4),
    )
    case["weights"] |= {"running_mean": mean.tolist(), "running_var": var.tolist()}
    case["grads"] = {}
    yield case
    yield layer(
        "PReLU",
        {"shared_axes": [2, 3]},
        lambda x, a: F.prelu(x, a.reshape(-1)),
        numbers(2, 3, 4, 2),
        numbers(3, 1, 1, seed=4),
    )


# ------------------------------------------------------------------------------------------ Keras


def keras_activations():
    import keras

    A = keras.activations
    for ours, theirs in [
        ("gelu", lambda x: A.gelu(x, approximate=False)),
        ("silu", A.silu),
        ("swish", A.get("swish")),
        ("mish", A.mish),
        ("elu", A.elu),
        ("selu", A.selu),
        ("leaky_relu", A.leaky_relu),
        ("hard_sigmoid", A.hard_sigmoid),
        ("hard_tanh", A.hard_tanh),
        ("exponential", A.exponential),
    ]:
        yield activation(ours, theirs)
    yield activation("log_softmax", A.log_softmax, numbers(3, 4, seed=3))


def keras_layers():
    import keras
    import torch

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    L = keras.layers

    def layer(name, kwargs, theirs, x, mask=None, steps=1):
        tensor = torch.tensor(x, requires_grad=True)
        theirs.build(x.shape)
        for i, variable in enumerate(theirs.trainable_variables):
            variable.assign(numbers(*variable.shape, seed=1 + i))
        names = [v.name for v in theirs.trainable_variables]
        names = ["gamma" if n == "scale" else n for n in names]
        given = {n: np.asarray(v.value.detach()) for n, v in zip(names, theirs.trainable_variables)}
        options = {} if mask is None else {"mask": torch.tensor(mask)}
        if isinstance(theirs, L.BatchNormalization):
            options["training"] = True
        for _ in range(steps):
            y = theirs(tensor, **options)
        real = torch.ones(y.shape) if mask is None else torch.tensor(mask)[..., None]
        dy = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape) * real
        y.backward(dy)
        case = {
            "layer": name,
            "kwargs": kwargs,
            "weights": {n: w.tolist() for n, w in given.items()},
            "x": x.tolist(),
            "steps": steps,
            "y": (y * real).detach().tolist(),
            "dx": tensor.grad.tolist(),
            "grads": {n: v.value.grad.tolist() for n, v in zip(names, theirs.trainable_variables)},
        }
        if mask is not None:
            case |= {"mask": mask.tolist()}
        if isinstance(theirs, L.BatchNormalization):
            case["after"] = {
                "running_mean": np.asarray(theirs.moving_mean.value.detach()).tolist(),
                "running_var": np.asarray(theirs.moving_variance.value.detach()).tolist(),
            }
        return case

    yield layer(
        "BatchNormalization", {}, L.BatchNormalization(axis=1), numbers(3, 4, 5, 2), steps=3
    )
    yield layer(
        "BatchNormalization",
        {"axis": -1, "momentum": 0.8, "epsilon": 1e-4},
        L.BatchNormalization(momentum=0.8, epsilon=1e-4),
        numbers(3, 4, 5),
        MASK,
        steps=2,
    )
    yield layer(
        "LayerNormalization",
        {"axis": [1, 2], "epsilon": 1e-3},
        L.LayerNormalization(axis=[1, 2]),
        numbers(3, 4, 5),
    )
    yield layer(
        "GroupNormalization",
        {"groups": 2},
        L.GroupNormalization(2, axis=1),
        numbers(2, 6, 3, 4),
    )
    yield layer(
        "GroupNormalization",
        {"groups": 2, "axis": -1},
        L.GroupNormalization(2, axis=-1),
        numbers(2, 3, 6),
    )
    yield layer("RMSNormalization", {}, L.RMSNormalization(), numbers(3, 4, 5))
    yield layer("PReLU", {"shared_axes": [1]}, L.PReLU(shared_axes=[1]), numbers(3, 4, 5))
    yield layer("PReLU", {}, L.PReLU(), numbers(3, 5))


def main(library: str) -> None:
    module = __import__(library)
    makers = {
        "torch": (torch_activations, torch_layers),
        "keras": (keras_activations, keras_layers),
    }[library]
    found = {
        "made_by": f"{library} {module.__version__}",
        "activations": [*makers[0]()],
        "layers": [*makers[1]()],
    }
    path = Path(__file__).with_name(f"normalization_{library}.json")
    path.write_text(json.dumps(found, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
