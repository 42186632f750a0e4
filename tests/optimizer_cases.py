"""Every optimizer with its formula, and gradients for a few steps.

`each_case` and `each_class` run a test for each case of `CASES` and for each class of optimizers.
"""

from __future__ import annotations

import numpy as np
import pytest

from npdl.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    Momentum,
    Nadam,
    NesterovMomentum,
    RAdam,
    RMSprop,
)

STEPS = 6


# The formulas again: each takes the gradients g_1, g_2, ... of one parameter with their rates, and
# yields what to add to it.


def sgd(steps):
    for g, lr in steps:
        yield -lr * g


def momentum(steps, m=0.9):
    v = 0
    for g, lr in steps:
        v = m * v - lr * g
        yield v


def nesterov(steps, m=0.9):
    v = 0
    for g, lr in steps:
        v = m * v - lr * g
        yield m * v - lr * g


def adagrad(steps, eps=1e-6):
    r = 0
    for g, lr in steps:
        r = r + g**2
        yield -lr * g / (r + eps) ** 0.5


def rmsprop(steps, rho=0.9, eps=1e-6):
    r = 0
    for g, lr in steps:
        r = rho * r + (1 - rho) * g**2
        yield -lr * g / (r + eps) ** 0.5


def adadelta(steps, rho=0.9, eps=1e-6):
    r = s = 0
    for g, lr in steps:
        r = rho * r + (1 - rho) * g**2
        u = g * (s + eps) ** 0.5 / (r + eps) ** 0.5
        yield -lr * u
        s = rho * s + (1 - rho) * u**2


def adam(steps, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0
    for t, (g, lr) in enumerate(steps, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        yield -lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps)


def adamax(steps, b1=0.9, b2=0.999, eps=1e-8):
    m = u = 0
    for t, (g, lr) in enumerate(steps, 1):
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, abs(g))
        yield -lr / (1 - b1**t) * m / (u + eps)


def adamw(steps, decay=0.004, **constants):
    """Decay apart: p = 1 at the start, see `test_formula`."""
    p = 1
    for (_, lr), change in zip(steps, adam(steps, **constants)):
        change = change - lr * decay * p
        p = p + change
        yield change


def nadam(steps, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0
    product = 1
    for t, (g, lr) in enumerate(steps, 1):
        mu, mu1 = (b1 * (1 - 0.5 * 0.96 ** (k / 250)) for k in (t, t + 1))
        product *= mu
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = mu1 * m / (1 - product * mu1) + (1 - mu) * g / (1 - product)
        yield -lr * ahead / ((v / (1 - b2**t)) ** 0.5 + eps)


def radam(steps, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0
    top = 2 / (1 - b2) - 1
    for t, (g, lr) in enumerate(steps, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        rho = top - 2 * t * b2**t / (1 - b2**t)
        step = -lr * m / (1 - b1**t)
        if rho > 5:
            r = ((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho)) ** 0.5
            step = step * r / ((v / (1 - b2**t)) ** 0.5 + eps)
        yield step


def lion(steps, b1=0.9, b2=0.99):
    m = 0
    for g, lr in steps:
        yield -lr * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g


CASES = [
    (SGD, {}, sgd, {}),
    (Momentum, {}, momentum, {}),
    (Momentum, {"momentum": 0.5}, momentum, {"m": 0.5}),
    (NesterovMomentum, {}, nesterov, {}),
    (NesterovMomentum, {"momentum": 0.5}, nesterov, {"m": 0.5}),
    (Adagrad, {}, adagrad, {}),
    (Adagrad, {"epsilon": 0.1}, adagrad, {"eps": 0.1}),
    (RMSprop, {}, rmsprop, {}),
    (RMSprop, {"rho": 0.6, "epsilon": 0.1}, rmsprop, {"rho": 0.6, "eps": 0.1}),
    (Adadelta, {}, adadelta, {}),
    (Adadelta, {"rho": 0.6, "epsilon": 0.1}, adadelta, {"rho": 0.6, "eps": 0.1}),
    (Adam, {}, adam, {}),
    (
        Adam,
        {"beta1": 0.6, "beta2": 0.7, "epsilon": 0.1},
        adam,
        {"b1": 0.6, "b2": 0.7, "eps": 0.1},
    ),
    (Adamax, {}, adamax, {}),
    (
        Adamax,
        {"beta1": 0.6, "beta2": 0.7, "epsilon": 0.1},
        adamax,
        {"b1": 0.6, "b2": 0.7, "eps": 0.1},
    ),
    (AdamW, {}, adamw, {}),
    (AdamW, {"weight_decay": 0.5, "beta1": 0.6}, adamw, {"decay": 0.5, "b1": 0.6}),
    (Nadam, {}, nadam, {}),
    (Nadam, {"beta1": 0.6, "beta2": 0.7}, nadam, {"b1": 0.6, "b2": 0.7}),
    (RAdam, {}, radam, {}),
    (RAdam, {"beta1": 0.6, "beta2": 0.8}, radam, {"b1": 0.6, "b2": 0.8}),
    (Lion, {}, lion, {}),
    (Lion, {"beta1": 0.5, "beta2": 0.6}, lion, {"b1": 0.5, "b2": 0.6}),
]
IDS = [f"{cls.__name__}-{'-'.join(kwargs) or 'defaults'}" for cls, kwargs, _, _ in CASES]
CLASSES = sorted({cls for cls, *_ in CASES}, key=lambda cls: cls.__name__)
each_case = pytest.mark.parametrize(("cls", "kwargs", "formula", "constants"), CASES, ids=IDS)
each_class = pytest.mark.parametrize("cls", CLASSES)


def gradients(dtype=np.float64, seed=0):
    """STEPS gradients each for two parameters, of shapes (2, 3) and (4,)."""
    rng = np.random.default_rng(seed)
    return [
        [rng.normal(size=(2, 3)).astype(dtype), rng.normal(size=4).astype(dtype)]
        for _ in range(STEPS)
    ]


def run(optimizer, grads, names=None):
    """The two parameters, which start at 1, after each step."""
    params = [np.ones_like(g) for g in grads[0]]
    for step in grads:
        optimizer.update(params, step, names)
        yield [p.copy() for p in params]
