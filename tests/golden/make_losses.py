"""Write results of Keras and PyTorch for the further losses: ``losses_*.json``.

    python tests/golden/make_losses.py keras
    python tests/golden/make_losses.py torch

Each needs its library, at the version that the file names; Keras runs on PyTorch. The suite only
reads the files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np


def numbers(*shape, low=-2.0, high=2.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).round(3)


def rows(*shape, seed=0):
    p = numbers(*shape, low=0.05, high=1.0, seed=seed)
    return p / p.sum(axis=-1, keepdims=True)


def keras_losses():
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import torch

    keras.config.set_floatx("float64")
    a, b, p = numbers(4, 3, seed=1), numbers(4, 3, seed=2), rows(4, 3)
    high, one_hot = numbers(4, 3, low=0.0, high=9.0, seed=3), np.eye(3)[[2, 0, 1, 0]]
    L, alpha = keras.losses, [0.25, 0.5, 1.0]
    for name, theirs, kwargs, more, y, t in [
        ("LogCosh", L.LogCosh, {}, {}, 9 * a, b),
        ("MAPE", L.MeanAbsolutePercentageError, {}, {}, a, b),
        ("MSLE", L.MeanSquaredLogarithmicError, {}, {}, a, high),
        (
            "FocalCrossEntropy",
            L.CategoricalFocalCrossentropy,
            {},
            {"alpha": 1.0},
            rows(4, 3),
            one_hot,
        ),
        (
            "FocalCrossEntropy",
            L.CategoricalFocalCrossentropy,
            {"gamma": 1.5, "alpha": alpha, "from_logits": True},
            {},
            3 * a,
            rows(4, 3, seed=5),
        ),
        ("BinaryFocalCrossEntropy", L.BinaryFocalCrossentropy, {}, {}, p, one_hot),
        (
            "BinaryFocalCrossEntropy",
            L.BinaryFocalCrossentropy,
            {"gamma": 0.7, "alpha": 0.3, "from_logits": True},
            {"apply_class_balancing": True},
            3 * a,
            one_hot,
        ),
    ]:
        outputs = torch.tensor(y, requires_grad=True)
        value = theirs(**{**kwargs, **more})(torch.tensor(t), outputs)
        value.backward()
        made = {
            **{"name": name, "kwargs": kwargs, "outputs": y.tolist(), "targets": t.tolist()},
            **{"value": value.item(), "gradient": outputs.grad.tolist()},
        }
        if more == {"alpha": 1.0}:  # Keras divides rows by their sums first, which has a slope
            del made["gradient"]
        yield made


def torch_losses():
    import torch

    labels = np.array([[1, 2, 2, -1, -1], [3, 1, 3, 2, 0], [-1] * 5, [0, 0, 0, -1, -1]])
    steps = np.array([9, 12, 7, 5])
    mask = np.arange(12) < steps[:, None]
    z = numbers(4, 12, 5, low=-3, high=3, seed=6)
    for blank in (4, 0):
        t = np.where((labels >= 0) & (blank == 0), labels + 1, labels)
        logits = torch.tensor(z, requires_grad=True)
        values = torch.nn.functional.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            torch.tensor(np.maximum(t, 0)),
            torch.tensor(steps),
            torch.tensor((t >= 0).sum(axis=1)),
            blank=blank,
            reduction="none",
        )
        values.sum().backward()
        yield {
            **{"name": "CTC", "kwargs": {"blank": blank, "from_logits": True}},
            **{"outputs": z.tolist(), "targets": t.tolist(), "mask": mask.astype(int).tolist()},
            **{"value": values.tolist(), "gradient": logits.grad.tolist()},
        }
    images, classes = (
        numbers(2, 3, 2, 4, seed=7),
        np.random.default_rng(8).integers(0, 3, (2, 2, 4)),
    )
    classes[0, 0, 0] = -100
    logits = torch.tensor(images, requires_grad=True)
    value = torch.nn.functional.cross_entropy(logits, torch.tensor(classes), label_smoothing=0.1)
    value.backward()
    yield {
        **{"name": "SCCE", "outputs": images.tolist(), "targets": classes.tolist()},
        "kwargs": {"axis": 1, "from_logits": True, "label_smoothing": 0.1, "ignore_class": -100},
        **{"value": value.item(), "gradient": logits.grad.tolist()},
    }


def write(library, made_by, cases):
    path = Path(__file__).with_name(f"losses_{library}.json")
    path.write_text(json.dumps({"made_by": made_by, "losses": [*cases]}) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "keras":
        made = [*keras_losses()]
        import keras

        write("keras", f"keras {keras.__version__}", made)
    else:
        import torch

        write("torch", f"torch {torch.__version__}", torch_losses())
