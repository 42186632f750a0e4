"""Losses, schedules and optimizers against Keras and PyTorch: ``golden/make_training.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npdl import objectives, optimizers, schedules

FILES = [
    json.loads((Path(__file__).parent / "golden" / f"training_{name}.json").read_text())
    for name in ("keras", "torch")
]


def cases(kind):
    for file in FILES:
        for i, case in enumerate(file[kind]):
            library = file["made_by"].split()[0]
            yield pytest.param(case, file, id=f"{library}-{i}-{case['name']}")


@pytest.mark.parametrize(("case", "file"), [*cases("losses")])
def test_losses(case, file):
    loss = getattr(objectives, case["name"])(**case["kwargs"])
    y, t, weights = np.array(case["outputs"]), np.array(case["targets"]), case["sample_weight"]
    # Keras takes the mean over the last axis of elements before it adds up.
    value = loss.forward(y, t, weights)
    if loss.reduction == "sum" and isinstance(loss, objectives.Elementwise):
        value /= y.shape[-1]
    assert value == pytest.approx(case["value"], rel=2e-6, abs=1e-7)
    if "gradient" in case:
        np.testing.assert_allclose(loss.backward(y, t), case["gradient"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("case", "file"), [*cases("schedules")])
def test_schedules(case, file):
    schedule = getattr(schedules, case["name"])(**case["kwargs"])
    values = [schedule(step) for step in range(len(case["values"]))]
    np.testing.assert_allclose(values, case["values"], rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize(("case", "file"), [*cases("optimizers")])
def test_optimizers(case, file):
    optimizer = getattr(optimizers, case["name"])(**case["kwargs"])
    p = np.array(file["start"])
    # Keras keeps rates and powers of beta in float32; PyTorch adds epsilon = 1e-8 elsewhere.
    rtol = 1e-5 if file["made_by"].startswith("keras") else 1e-8
    for g, want in zip(file["grads"], case["path"]):
        optimizer.update([p], [np.array(g)], ["w"])
        np.testing.assert_allclose(p, want, rtol=rtol)
    if "average" in case:
        optimizer.swap_averages([p], ["w"])
        np.testing.assert_allclose(p, case["average"], rtol=rtol)
