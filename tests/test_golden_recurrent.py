"""Recurrent layers against Keras and PyTorch: ``golden/make_recurrent.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npdl import layers
from npdl._ext import available_backends, use_backend

FILES = [
    json.loads((Path(__file__).parent / "golden" / f"recurrent_{name}.json").read_text())
    for name in ("keras", "torch")
]


def cases():
    for file in FILES:
        for i, case in enumerate(file["cases"]):
            # Keras computes in float32 now and then, whatever the dtype of the layer is.
            tolerance = 1e-6 if file["made_by"].startswith("keras") else 1e-9
            yield pytest.param(case, tolerance, id=f"{file['made_by']}-{i}-{case['cell']}")


def listed(outputs):
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize("case, tolerance", [*cases()])
@pytest.mark.parametrize("backend", available_backends())
def test_values_and_gradients(case, tolerance, backend, float64):
    with use_backend(backend):
        check(case, tolerance)


def check(case, tolerance):
    cls = getattr(layers, case["cell"])
    layer = cls(len(case["weights"][0][0]) // cls._n_gates, **case["kwargs"])
    parts = [layer]
    if case["merge"] != "none":
        layer = layers.Bidirectional(layer, case["merge"])
        parts = [layer.forward_layer, layer.backward_layer]
    x = np.array(case["x"])
    layer.connect_to(layers.Input(x.shape[1:]))
    for part, weights in zip(parts, case["weights"]):
        part.AllW = weights
    real = None if case["mask"] is None else np.array(case["mask"])
    outputs = listed(layer.forward(x, mask=real))
    for y, want in zip(outputs, case["outputs"], strict=True):
        want = np.array(want)
        if real is not None and y.ndim == 3:  # npdl keeps the state in other steps
            y, want = y * real[..., None], want * real[..., None]
        np.testing.assert_allclose(y, want, atol=tolerance)
    grads = tuple(map(np.array, case["grads"]))
    dx = layer.backward(grads if len(grads) > 1 else grads[0])
    np.testing.assert_allclose(dx, case["dx"], atol=tolerance)
    for part, want in zip(parts, case["dws"]):
        np.testing.assert_allclose(part.dAllW, want, atol=tolerance)
