"""Write results of Keras and PyTorch for losses, schedules and optimizers: ``training_*.json``.

    python tests/golden/make_training.py keras
    python tests/golden/make_training.py torch

Each needs its library, at the version that the file names. The suite only reads the files.
Every case holds how npdl spells it, so that `tests/test_golden_training.py` is one loop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

STEPS = 8


def numbers(*shape, low=-2.0, high=2.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).round(3)


def rows(*shape, seed=0):
    p = numbers(*shape, low=0.05, high=1.0, seed=seed)
    return p / p.sum(axis=-1, keepdims=True)


GRADS = [numbers(2, 3, seed=s).tolist() for s in range(10, 10 + STEPS)]
START = numbers(2, 3, seed=9).tolist()


def case(name, kwargs, **rest):
    return {"name": name, "kwargs": kwargs, **rest}


# ------------------------------------------------------------------------------------------ Keras


def keras_losses():
    import keras

    a, b = numbers(4, 3, seed=1), numbers(4, 3, seed=2)
    p, q, one_hot = rows(4, 3, seed=3), rows(4, 3, seed=4), np.eye(3)[[2, 0, 1, 0]]
    labels, some = np.array([2, 0, -1, 1]), np.array([0.5, 2.0, 0.0, 1.0])
    counts, rate = np.arange(12.0).reshape(4, 3) % 4, numbers(4, 3, low=0.1, seed=5)
    binary, sign = (b > 0) * 1.0, np.sign(b)
    L = keras.losses
    for name, theirs, kwargs, y, t in [
        ("MeanAbsoluteError", L.MeanAbsoluteError, {}, a, b),
        ("Huber", L.Huber, {}, a, b),
        ("Huber", L.Huber, {"delta": 0.5}, a, b),
        ("Hinge", L.Hinge, {}, a, sign),
        ("Hinge", L.Hinge, {}, a, binary),
        ("SquaredHinge", L.SquaredHinge, {}, a, binary),
        ("CategoricalHinge", L.CategoricalHinge, {}, a, one_hot),
        ("KLDivergence", L.KLDivergence, {}, p, q),
        ("Poisson", L.Poisson, {}, rate, counts),
        ("CosineSimilarity", L.CosineSimilarity, {}, a, b),
        ("BinaryCrossEntropy", L.BinaryCrossentropy, {"from_logits": True}, 5 * a, binary),
        ("BinaryCrossEntropy", L.BinaryCrossentropy, {"label_smoothing": 0.2}, p, binary),
        ("CategoricalCrossEntropy", L.CategoricalCrossentropy, {"from_logits": True}, 5 * a, q),
        (
            "CategoricalCrossEntropy",
            L.CategoricalCrossentropy,
            {"label_smoothing": 0.2},
            p,
            one_hot,
        ),
        (
            "SparseCategoricalCrossEntropy",
            L.SparseCategoricalCrossentropy,
            {"from_logits": True, "ignore_class": -1},
            a,
            labels,
        ),
    ]:
        for weights in (None, some):
            for reduction in ("mean", "sum"):
                loss = theirs(reduction=reduction, dtype="float64", **kwargs)
                # Keras takes the mean over the last axis of elements before it adds up.
                value = float(loss(t, y, sample_weight=weights))
                yield case(
                    name,
                    {**kwargs, "reduction": reduction},
                    outputs=y.tolist(),
                    targets=t.tolist(),
                    sample_weight=None if weights is None else weights.tolist(),
                    value=value,
                )


def keras_schedules():
    from keras.optimizers import schedules

    for name, kwargs in [
        ("ExponentialDecay", dict(initial_learning_rate=0.1, decay_steps=4, decay_rate=0.5)),
        (
            "ExponentialDecay",
            dict(initial_learning_rate=0.1, decay_steps=4, decay_rate=0.5, staircase=True),
        ),
        ("InverseTimeDecay", dict(initial_learning_rate=0.1, decay_steps=4, decay_rate=0.5)),
        ("PiecewiseConstantDecay", dict(boundaries=[3, 9], values=[0.3, 0.2, 0.1])),
        ("PolynomialDecay", dict(initial_learning_rate=0.1, decay_steps=6, power=2.0)),
        (
            "PolynomialDecay",
            dict(initial_learning_rate=0.1, decay_steps=5, end_learning_rate=0.01, cycle=True),
        ),
        ("CosineDecay", dict(initial_learning_rate=0.1, decay_steps=10, alpha=0.1)),
        (
            "CosineDecay",
            dict(
                initial_learning_rate=0.01,
                decay_steps=10,
                alpha=0.1,
                warmup_target=0.2,
                warmup_steps=5,
            ),
        ),
        ("CosineDecayRestarts", dict(initial_learning_rate=0.1, first_decay_steps=5)),
        (
            "CosineDecayRestarts",
            dict(initial_learning_rate=0.1, first_decay_steps=5, t_mul=1.0, m_mul=0.8, alpha=0.1),
        ),
        (
            "CosineDecayRestarts",
            dict(initial_learning_rate=0.1, first_decay_steps=4, t_mul=1.5, m_mul=0.5),
        ),
    ]:
        schedule = getattr(schedules, name)(**kwargs)
        yield case(name, kwargs, values=[float(schedule(step)) for step in range(30)])


def keras_optimizers():
    import keras

    for name, kwargs in [
        ("Lion", {}),
        ("AdamW", {}),
        ("AdamW", {"weight_decay": 0.1}),
        ("Adam", {"clipnorm": 0.5}),
        ("Adam", {"global_clipnorm": 0.5}),
        ("Adam", {"clipvalue": 0.5}),
        ("SGD", {"weight_decay": 0.1}),
        ("SGD", {"gradient_accumulation_steps": 3}),
        ("Adam", {"use_ema": True, "ema_momentum": 0.8}),
        ("Adam", {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}),
    ]:
        theirs = {"epsilon": 1e-8} if name.startswith("Adam") else {}
        optimizer = getattr(keras.optimizers, name)(learning_rate=0.05, **theirs, **kwargs)
        keras.backend.set_floatx("float64")
        p = keras.Variable(np.array(START), dtype="float64")
        path = []
        for g in GRADS:
            optimizer.apply([keras.ops.convert_to_tensor(g, "float64")], [p])
            path.append(np.asarray(p).tolist())
        extra = {}
        if kwargs.get("use_ema"):
            extra["average"] = np.asarray(optimizer._model_variables_moving_average[0]).tolist()
        yield case(name, {"lr": 0.05, **kwargs}, path=path, **extra)


# ---------------------------------------------------------------------------------------- PyTorch


def torch_losses():
    import torch
    import torch.nn as nn

    a, b = numbers(4, 3, seed=1), numbers(4, 3, seed=2)
    labels = np.array([2, 0, -1, 1])
    for name, theirs, kwargs, y, t in [
        ("MeanAbsoluteError", nn.L1Loss(), {}, a, b),
        ("Huber", nn.HuberLoss(delta=0.5), {"delta": 0.5}, a, b),
        ("BinaryCrossEntropy", nn.BCEWithLogitsLoss(), {"from_logits": True}, a, (b > 0) * 1.0),
        (
            "SparseCategoricalCrossEntropy",
            nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1),
            {"from_logits": True, "ignore_class": -1, "label_smoothing": 0.1},
            a,
            labels,
        ),
    ]:
        x = torch.tensor(y, requires_grad=True)
        value = theirs(x, torch.tensor(t))
        value.backward()
        yield case(
            name,
            kwargs,
            outputs=y.tolist(),
            targets=t.tolist(),
            sample_weight=None,
            value=value.item(),
            gradient=x.grad.tolist(),
        )


def torch_schedules():
    import torch
    from torch.optim import lr_scheduler

    for name, kwargs, make in [
        (
            "OneCycle",
            dict(max_learning_rate=0.1, total_steps=20),
            lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
        ),
        (
            "OneCycle",
            dict(max_learning_rate=0.1, total_steps=20, anneal_strategy="linear", pct_start=0.4),
            lambda o: lr_scheduler.OneCycleLR(
                o, 0.1, total_steps=20, anneal_strategy="linear", pct_start=0.4
            ),
        ),
        (
            "StepDecay",
            dict(initial_learning_rate=0.1, decay_steps=6),
            lambda o: lr_scheduler.StepLR(o, 6),
        ),
        (
            "WarmUp",
            dict(schedule=0.1, warmup_steps=5, start_factor=0.25),
            lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=5),
        ),
    ]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = make(optimizer)
        values = []
        for _ in range(20):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(values) < 20:
                schedule.step()
        yield case(name, kwargs, values=values)


def torch_optimizers():
    import torch

    betas = {"beta1": 0.8, "beta2": 0.9}
    for name, kwargs, make in [
        ("Nadam", {}, lambda p: torch.optim.NAdam(p, lr=0.05)),
        ("Nadam", betas, lambda p: torch.optim.NAdam(p, lr=0.05, betas=(0.8, 0.9))),
        ("RAdam", {}, lambda p: torch.optim.RAdam(p, lr=0.05)),
        ("RAdam", betas, lambda p: torch.optim.RAdam(p, lr=0.05, betas=(0.8, 0.9))),
        ("AdamW", {"weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1)),
        ("Adamax", {}, lambda p: torch.optim.Adamax(p, lr=0.05)),
    ]:
        p = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
        optimizer = make([p])
        path = []
        for g in GRADS:
            p.grad = torch.tensor(g, dtype=torch.float64)
            optimizer.step()
            path.append(p.tolist())
        yield case(name, {"lr": 0.05, **kwargs}, path=path)


def main(library):
    version = __import__(library).__version__
    made = {
        "made_by": f"{library} {version}",
        "start": START,
        "grads": GRADS,
        **{
            kind: list(globals()[f"{library}_{kind}"]())
            for kind in ("losses", "schedules", "optimizers")
        },
    }
    path = Path(__file__).with_name(f"training_{library}.json")
    path.write_text(json.dumps(made, indent=None, separators=(",", ":")).replace("},{", "},\n{"))
    print(f"{path}: {path.stat().st_size} bytes, {version}")


if __name__ == "__main__":
    main(sys.argv[1])
