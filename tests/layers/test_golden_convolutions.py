"""Convolutions against PyTorch: ``tests/golden/make_convolutions.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npdl import layers
from npdl.utils.random import use_dtype

FILE = Path(__file__).parents[1] / "golden" / "convolutions_torch.json"
CASES = json.loads(FILE.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['layer']}-{case['options']}")
def test_values_and_gradients(case):
    one = case["layer"].endswith("1D")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in case["options"].items()}
    options |= {"filter_size": 3 if one else (2, 3), "activation": "linear"}
    if not case["layer"].startswith("Depthwise"):
        options["nb_filter"] = 6 if case["layer"].startswith("Separable") else 4
    with use_dtype("float64"):
        layer = getattr(layers, case["layer"])(**options)
        x = np.array(case["x"])
        layer.connect_to(type("Source", (), {"out_shape": (None, *x.shape[1:])}))
        for parameter, value in zip(layer.parameters, case["weights"], strict=True):
            parameter.value[...] = value
        y = layer.forward(x)
        dx = layer.backward(np.array(case["dy"]))
    np.testing.assert_allclose(y, case["y"], atol=2e-6)
    np.testing.assert_allclose(dx, case["dx"], atol=2e-6)
    for parameter, grad in zip(layer.parameters, case["grads"], strict=True):
        np.testing.assert_allclose(parameter.grad, grad, atol=2e-6)
