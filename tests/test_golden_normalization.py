"""Activations and normalizations against Keras and PyTorch: ``golden/make_normalization.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npdl import layers
from npdl.layers import Activation
from npdl.utils import random

FILES = [
    json.loads((Path(__file__).parent / "golden" / f"normalization_{name}.json").read_text())
    for name in ("keras", "torch")
]


@pytest.fixture(autouse=True)
def in_float64():
    before = random.get_dtype()
    random.set_dtype("float64")
    yield
    random.set_dtype(before)


def cases(kind):
    for file in FILES:
        for i, case in enumerate(file[kind]):
            name = case[kind.removesuffix("s")]
            name = name if isinstance(name, str) else name["name"]
            library = file["made_by"].split()[0]
            yield pytest.param(case, library, id=f"{library}-{i}-{name}")


def gradient(y):
    return np.cos(np.arange(y.size, dtype=float)).reshape(y.shape)


@pytest.mark.parametrize(("case", "library"), [*cases("activations")])
def test_activations(case, library):
    layer = Activation(case["activation"])
    y = layer.forward(np.array(case["x"]))
    # PyTorch's GELU is x (1 + erf(x/√2)) / 2, which loses the last places where x < 0.
    np.testing.assert_allclose(y, case["y"], rtol=1e-13, atol=1e-14)
    # PyTorch's slope of hard_sigmoid, which Keras runs here too, is 1/6 as a float32.
    rtol = 1e-7 if case["activation"] == "hard_sigmoid" else 1e-13
    np.testing.assert_allclose(layer.backward(gradient(y)), case["dx"], rtol=rtol, atol=1e-14)


class Data:
    def __init__(self, shape):
        self.out_shape = (None, *shape[1:])


@pytest.mark.parametrize(("case", "library"), [*cases("layers")])
def test_layers(case, library):
    layer, x = getattr(layers, case["layer"])(**case["kwargs"]), np.array(case["x"])
    layer.connect_to(Data(x.shape))
    for name, value in case["weights"].items():
        setattr(layer, name, np.reshape(value, getattr(layer, name).shape))
    mask = {"mask": np.array(case["mask"])} if "mask" in case else {}
    for _ in range(case.get("steps", 1)):
        y = layer.forward(x, **mask)
    # Keras's normalizations compute in float32, whatever the policy.
    close = {"rtol": 1e-11, "atol": 1e-11} if library == "torch" else {"rtol": 2e-6, "atol": 5e-6}
    np.testing.assert_allclose(y, case["y"], **close)
    np.testing.assert_allclose(layer.backward(gradient(y)), case["dx"], **close)
    for name, value in case["grads"].items():
        found = getattr(layer, f"d{name}")
        np.testing.assert_allclose(found, np.reshape(value, found.shape), **close)
    for name, value in case.get("after", {}).items():
        np.testing.assert_allclose(getattr(layer, name), value, **close)
