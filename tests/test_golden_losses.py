"""Further losses against Keras and PyTorch: ``golden/make_losses.py``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from npdl import objectives

CASES = [
    pytest.param(case, id=f"{library}-{i}-{case['name']}")
    for library in ("keras", "torch")
    for i, case in enumerate(
        json.loads((Path(__file__).parent / "golden" / f"losses_{library}.json").read_text())[
            "losses"
        ]
    )
]


@pytest.mark.parametrize("case", CASES)
def test_losses(case):
    loss = getattr(objectives, case["name"])(**case["kwargs"])
    loss.reduction = "mean" if np.ndim(case["value"]) == 0 else "none"
    arguments = np.array(case["outputs"]), np.array(case["targets"])
    mask = np.array(case["mask"]) if "mask" in case else None
    np.testing.assert_allclose(loss.forward(*arguments, mask=mask), case["value"], rtol=3e-7)
    if "gradient" not in case:
        return
    wanted = np.array(case["gradient"])
    rtol = 1e-9 if loss.from_logits else 2e-6  # Keras clips at 1e-7, and floors logarithms there
    np.testing.assert_allclose(
        loss.backward(*arguments, mask=mask), wanted, rtol=rtol, atol=1e-7 * np.abs(wanted).max()
    )
