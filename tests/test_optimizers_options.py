"""The options that all optimizers share.

Rates and their bounds, clipping, weight decay, accumulated gradients, moving averages.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from optimizer_cases import STEPS, each_case, each_class, gradients, run

from npdl import schedules
from npdl.optimizers import (
    SGD,
    Adam,
    AdamW,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    get,
    global_norm,
)

G = [np.array([3.0, 4.0]), np.array([[12.0]])]  # of norms 5 and 12, together 13


@each_case
def test_clip_decay_and_bounds(cls, kwargs, formula, constants):
    """All of them support the options of the base class."""
    grads = gradients()
    optimizer = cls(lr=0.05, clip=0.5, decay=0.5, lr_min=0.015, lr_max=0.04, **kwargs)
    path = list(run(optimizer, grads))
    rates = [min(max(0.05 / (1 + 0.5 * t), 0.015), 0.04) for t in range(STEPS)]
    assert rates[0] == 0.04
    assert rates[-1] == 0.015
    p = np.ones((2, 3))
    steps = [(np.clip(g[0], -0.5, 0.5), lr) for g, lr in zip(grads, rates)]
    for got, change in zip(path, formula(steps, **constants), strict=True):
        p = p + change
        np.testing.assert_allclose(got[0], p, rtol=1e-12)


def test_current_lr():
    optimizer = SGD(lr=0.1, decay=1.0, lr_min=0.03)
    rates = []
    for _ in range(4):
        rates.append(optimizer.current_lr)
        optimizer.update([], [])
    assert rates == pytest.approx([0.1, 0.05, 0.1 / 3, 0.03])
    assert optimizer.iterations == 4
    assert optimizer.lr == 0.1


@pytest.mark.parametrize("clip", [-1, 0])
def test_clip_is_off_at_zero_and_below(clip):
    p = np.zeros(1)
    SGD(lr=1, clip=clip).update([p], [np.array([100.0])])
    assert p[0] == -100


def test_clipping_by_eye():
    assert [g.tolist() for g in clip_by_value(G, 3.5)] == [[3, 3.5], [[3.5]]]
    assert [g.tolist() for g in clip_by_norm(G, 10)] == [[3, 4], [[10]]]
    halved = clip_by_global_norm(G, 6.5)
    assert [g.tolist() for g in halved] == [[1.5, 2], [[6]]]
    assert global_norm(G) == 13
    assert all(a is b for a, b in zip(clip_by_global_norm(G, 13), G))
    assert [g.tolist() for g in G] == [[3, 4], [[12]]]


def test_norms_do_not_overflow():
    big = np.full(4, 1e30, np.float32)
    assert global_norm([big]) == pytest.approx(2e30)
    (small,) = clip_by_norm([big], 1.0)
    assert small.dtype == np.float32
    assert small == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kwargs", "want"),
    [
        ({"clip": 3.5}, [[3, 3.5], [[3.5]]]),
        ({"clipvalue": 3.5}, [[3, 3.5], [[3.5]]]),
        ({"clipnorm": 10}, [[3, 4], [[10]]]),
        ({"global_clipnorm": 6.5}, [[1.5, 2], [[6]]]),
    ],
)
def test_clipping_in_an_optimizer(kwargs, want):
    params = [np.zeros_like(g) for g in G]
    SGD(lr=1, **kwargs).update(params, G)
    assert [(-p).tolist() for p in params] == want


def test_weight_decay_and_its_exceptions():
    names = ["dense_1/W", "dense_1/b", "dense_2/b", "norm/gamma"]
    params = [np.full(1, 8.0) for _ in names]
    zero = [np.zeros(1)] * 4
    optimizer = SGD(lr=0.5, weight_decay=0.5, exclude_from_weight_decay=["dense_1/b", "gamma"])
    optimizer.update(params, zero, names)
    assert [p.item() for p in params] == [6, 8, 6, 8]
    optimizer.lr = 0.25  # decoupled from the gradient, not from the rate
    optimizer.update(params, zero, names)
    assert params[0].item() == 5.25
    p = np.ones(1)
    SGD(lr=1, weight_decay=0.5, exclude_from_weight_decay=["b"]).update([p], [np.zeros(1)])
    assert p == 0.5


@each_class
def test_accumulated_gradients_are_one_step_of_their_mean(cls):
    grads = gradients()
    several = [np.ones((2, 3)), np.ones(4)]
    optimizer = cls(gradient_accumulation_steps=3)
    for k, step in enumerate(grads):
        kept = [g.copy() for g in step]
        optimizer.update(several, step)
        assert optimizer.iterations == (k + 1) // 3
        assert all(np.array_equal(g, b) for g, b in zip(step, kept))
    one = [np.ones((2, 3)), np.ones(4)]
    plain = cls()
    for first in (0, 3):
        plain.update(one, [np.mean([g[k] for g in grads[first : first + 3]], 0) for k in (0, 1)])
    for a, b in zip(several, one):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        assert not np.array_equal(a, np.ones_like(a))


def test_clipping_comes_after_accumulation():
    p = np.zeros(1)
    optimizer = SGD(lr=1, clip=1, gradient_accumulation_steps=2)
    for g in (100.0, -99.0):
        optimizer.update([p], [np.array([g])])
    assert p == -0.5


@pytest.mark.parametrize("after", range(1, STEPS))
def test_state_continues_with_everything_on(after):
    """With partly accumulated gradients, averages and a schedule: the same bits."""
    grads = gradients(np.float32)

    def make():
        return AdamW(
            lr=schedules.CosineDecay(0.1, 10),
            global_clipnorm=0.5,
            gradient_accumulation_steps=2,
            use_ema=True,
            ema_momentum=0.5,
            ema_overwrite_frequency=2,
        )

    *_, want = run(make(), grads, ["a", "b"])
    first, params = make(), [np.ones((2, 3), np.float32), np.ones(4, np.float32)]
    for step in grads[:after]:
        first.update(params, step, ["a", "b"])
    second = make()
    second.set_state(first.get_state())
    for step in grads[after:]:
        second.update(params, step, ["a", "b"])
    assert all(np.array_equal(p, w) for p, w in zip(params, want))
    assert second.get_state()["pending"] == STEPS % 2


def test_averages_by_eye():
    p, up = np.zeros(1), [np.array([-1.0])]
    optimizer = SGD(lr=1, use_ema=True, ema_momentum=0.5)
    for _ in range(3):
        optimizer.update([p], up, ["w"])
    assert p == 3
    other = np.zeros(1)
    optimizer.swap_averages([other, p], ["new", "w"])  # 1, then 1.5, then 2.25
    assert (other, p) == (0, 2.25)
    with pytest.raises(RuntimeError, match=r"Call swap_averages\(\) before the training goes on"):
        optimizer.update([p], up, ["w"])
    optimizer.swap_averages([p], ["w"])
    assert p == 3
    optimizer.finalize_variable_values([p], ["w"])
    assert p == 2.25


@pytest.mark.parametrize("swapped", [False, True])
def test_the_averages_stay_at_the_end(swapped):
    p = np.zeros(1)
    optimizer = SGD(lr=1, use_ema=True, ema_momentum=0.5)
    for _ in range(3):
        optimizer.update([p], [np.array([-1.0])])
    if swapped:
        optimizer.swap_averages([p])
    again = SGD(lr=1, use_ema=True, ema_momentum=0.5)
    again.set_state(optimizer.get_state())
    for one in (optimizer, again):
        q = p.copy()
        one.finalize_variable_values([q])
        assert q == 2.25
        one.update([q], [np.array([-1.0])])
        assert (q, one.get_state()["slots"][0]["average"]) == (3.25, 2.75)


def test_names_of_averages_must_match():
    optimizer, p = SGD(use_ema=True), np.zeros(1)
    with pytest.raises(ValueError):
        optimizer.swap_averages([p], ["v", "w"])


def test_averages_take_over_now_and_then():
    p, up = np.zeros(1), [np.array([-1.0])]
    optimizer = SGD(lr=1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    path = []
    for _ in range(4):
        optimizer.update([p], up, ["w"])
        path.append(p.item())
    assert path == [1, 1.5, 2.5, 2.75]


def test_no_memory_for_what_is_off():
    optimizer = SGD()
    optimizer.update([np.ones(2)], [np.ones(2)])
    optimizer.swap_averages([np.ones(2)])
    assert optimizer.get_state()["slots"] == {0: {}}


def test_a_state_of_an_older_version():
    optimizer = SGD()
    optimizer.set_state({"iterations": 3, "slots": {}})
    assert (optimizer.iterations, optimizer._pending) == (3, 0)


def test_names_of_keras():
    adam = Adam(learning_rate=0.5, clipvalue=2.0)
    assert (adam.lr, adam.learning_rate, adam.clip) == (0.5, 0.5, 2)
    adam.learning_rate = 0.25
    assert adam.lr == adam.current_lr == 0.25
    assert "learning_rate" not in adam.get_config()
    with pytest.raises(TypeError, match=r"Adam\(\) got an unexpected keyword argument 'beta_1'"):
        Adam(beta_1=0.9)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"clipnorm": 1, "global_clipnorm": 1}, "At most one of `clip`, `clipnorm` and"),
        ({"clip": 1, "clipnorm": 1}, "At most one of `clip`, `clipnorm` and"),
        ({"clipnorm": 0}, r"`clipnorm` must be a number in \(0, inf\]"),
        ({"weight_decay": -1}, r"`weight_decay` must be a number in \[0, inf\)"),
        ({"exclude_from_weight_decay": "b"}, "must be a sequence of names. Received: .*'b'"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be an integer"),
        ({"ema_momentum": 2}, r"`ema_momentum` must be a number in \[0, 1\]"),
        ({"ema_overwrite_frequency": 0}, "`ema_overwrite_frequency` must be an integer >= 1"),
    ],
)
def test_bad_options(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SGD(**kwargs)


@each_class
def test_all_options_go_through_the_configuration(cls):
    options = {
        "lr": schedules.StepDecay(0.5, 10),
        "global_clipnorm": 2.0,
        "weight_decay": 0.25,
        "exclude_from_weight_decay": ["b"],
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_momentum": 0.75,
        "ema_overwrite_frequency": 3,
    }
    config = json.loads(json.dumps(cls(**options).get_config()))
    revived = get({"name": cls.__name__, **config})
    assert revived.get_config() == config
    assert revived.lr(10) == pytest.approx(0.05)
    assert revived.exclude_from_weight_decay == ["b"]
