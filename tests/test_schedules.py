"""Schedules by readable values; those of Keras and PyTorch are in `test_golden_training.py`."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from npdl import optimizers, schedules
from npdl.optimizers import SGD, Adam
from npdl.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    OneCycle,
    PiecewiseConstantDecay,
    PolynomialDecay,
    StepDecay,
    WarmUp,
)

EXAMPLES = [
    (ExponentialDecay(1, 2, 0.25), [1, 0.5, 0.25, 0.125]),
    (ExponentialDecay(1, 2, 0.25, staircase=True), [1, 1, 0.25, 0.25, 0.0625]),
    (InverseTimeDecay(1, 1, 1), [1, 1 / 2, 1 / 3]),
    (InverseTimeDecay(1, 2, 1, staircase=True), [1, 1, 1 / 2, 1 / 2, 1 / 3]),
    (StepDecay(1, 3, 0.5), [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    (PiecewiseConstantDecay([1, 3], [3, 2, 1]), [3, 3, 2, 2, 1, 1]),
    (PolynomialDecay(1, 4, 0), [1, 0.75, 0.5, 0.25, 0, 0]),
    (PolynomialDecay(1, 2, 0, power=2), [1, 0.25, 0, 0]),
    (PolynomialDecay(1, 2, 0, cycle=True), [1, 0.5, 0, 1 / 4, 0, 1 / 6, 0]),
    (CosineDecay(1, 4), [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0, 0]),
    (CosineDecay(1, 2, alpha=0.5), [1, 0.75, 0.5, 0.5]),
    (CosineDecay(0, 2, warmup_target=2, warmup_steps=2), [0, 1, 2, 1, 0, 0]),
    (CosineDecayRestarts(1, 2), [1, 0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 1]),
    (CosineDecayRestarts(1, 2, t_mul=1, m_mul=0.5), [1, 0.5, 0.5, 0.25, 0.25, 0.125]),
    (WarmUp(0.4, 4), [0, 0.1, 0.2, 0.3, 0.4, 0.4]),
    (WarmUp(StepDecay(8, 2, 0.5), 2, 0.5), [4, 6, 8, 8, 4, 4, 2]),
    (OneCycle(4, 6, 0.5, "linear", 4, 2), [1, 2.5, 4, 4 - 3.5 / 3, 4 - 7 / 3, 0.5, 0.5]),
    (OneCycle(4, 6, 0.5, "cos", 4, 2), [1, 2.5, 4, 0.5 + 3.5 * 0.75, 0.5 + 3.5 * 0.25, 0.5]),
]


@pytest.mark.parametrize(
    ("schedule", "want"), EXAMPLES, ids=[type(s).__name__ for s, _ in EXAMPLES]
)
def test_by_eye(schedule, want):
    got = [schedule(step) for step in range(len(want))]
    assert got == pytest.approx(want, abs=1e-12)
    assert all(type(rate) is float for rate in got)


@pytest.mark.parametrize(
    ("schedule", "want"), EXAMPLES, ids=[type(s).__name__ for s, _ in EXAMPLES]
)
def test_an_optimizer_follows_it_and_so_does_its_copy(schedule, want):
    optimizer = SGD(lr=schedule)
    p, one = np.zeros(1), np.ones(1)
    for step, rate in enumerate(want):
        before = p.copy()
        optimizer.update([p], [one])
        assert before - p == pytest.approx(rate, abs=1e-12)
        assert optimizer.iterations == step + 1
    config = json.loads(json.dumps({"name": "sgd", **optimizer.get_config()}))
    revived = optimizers.get(config)
    assert type(revived.lr) is type(schedule)
    revived.set_state(optimizer.get_state())
    assert revived.current_lr == optimizer.current_lr


def test_restarts_begin_at_the_very_step():
    """A floating-point logarithm alone would start some periods one step late."""
    for q in (1.0, 1.25, 1.5, 2.0, 3.0):
        schedule, start = CosineDecayRestarts(1, 16, t_mul=q), 0.0
        for period in range(12 if q > 1 else 200):
            if start == int(start):
                assert schedule(int(start)) == 1
                assert schedule(int(start) + 1) < 1
            if start > 0:
                assert schedule(math.ceil(start) - 1) < 0.5
            start += 16 * q**period


def test_decay_and_bounds_hold_for_schedules_too():
    optimizer = SGD(lr=PiecewiseConstantDecay([0, 1], [3, 2, 1]), decay=1.0, lr_min=0.5, lr_max=2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.current_lr)
        optimizer.update([], [])
    assert rates == pytest.approx([2, 1, 0.5, 0.5])


def test_own_schedule():
    @schedules.register()
    class Alternating(LearningRateSchedule):
        def __init__(self, high=1.0):
            self.high = high

        def __call__(self, step):
            return self.high * (step % 2)

    optimizer = Adam(lr=Alternating(high=3.0))
    config = optimizer.get_config()
    assert config["lr"] == {"name": "Alternating", "high": 3.0}
    assert optimizers.get({"name": "adam", **config}).lr(1) == 3
    default = Adam(lr=Alternating()).get_config()
    assert optimizers.get({"name": "adam", **default}).lr(1) == 1
    with pytest.raises(NotImplementedError, match=r"must define __call__\(step\)"):
        LearningRateSchedule()(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialDecay(-1, 2, 0.5), "`initial_learning_rate` must be a number in"),
        (lambda: StepDecay(1, 0), "`decay_steps` must be an integer >= 1. Received: decay_steps=0"),
        (lambda: PiecewiseConstantDecay([3, 3], [1, 2, 3]), "`boundaries` must rise. Received"),
        (lambda: PiecewiseConstantDecay([3], [1]), "`values` must hold 2, one more than"),
        (lambda: CosineDecay(1, 2, alpha=2), r"`alpha` must be a number in \[0, 1\]"),
        (lambda: CosineDecayRestarts(1, 2, t_mul=0.5), r"`t_mul` must be a number in \[1, inf\)"),
        (lambda: WarmUp(None, 2), "`schedule` must be a number"),
        (lambda: OneCycle(1, 10, anneal_strategy="sin"), "must be one of 'cos', 'linear'"),
        (lambda: OneCycle(1, 1), "`total_steps` must be an integer >= 2"),
        (lambda: schedules.get({"name": "cosine"}), "Unknown schedule 'cosine'. Valid names: exp"),
        (lambda: SGD(lr="fast"), r"Unknown schedule 'fast'\. Valid names"),
    ],
)
def test_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
