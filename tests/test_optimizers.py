"""Every optimizer against its formula over several steps."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from npdl import optimizers, schedules
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
    Optimizer,
    RAdam,
    RMSprop,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    get,
    global_norm,
)

RTOL = {np.float32: 2e-5, np.float64: 1e-12}
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_case
def test_formula(cls, kwargs, formula, constants, dtype):
    grads = gradients(dtype)
    path = list(run(cls(lr=0.01, **kwargs), grads))
    for k in range(2):
        p = np.ones_like(grads[0][k], np.float64)
        steps = [(g[k].astype(np.float64), 0.01) for g in grads]
        for got, change in zip(path, formula(steps, **constants), strict=True):
            p = p + change
            assert got[k].dtype == dtype
            np.testing.assert_allclose(got[k], p, rtol=RTOL[dtype])


@each_case
def test_clip_decay_and_bounds(cls, kwargs, formula, constants):
    """All of them honour what the base class promises."""
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


def test_by_eye():
    p = np.array([1.0, 2.0])
    SGD(lr=0.5).update([p], [np.array([2.0, -2.0])])
    assert p.tolist() == [0, 3]
    nesterov = NesterovMomentum(0.5, lr=1.0)
    p = np.array([0.0])
    for want in (-1.5, -3.25):  # v = -1, -1.5; steps -0.5 - 1, -0.75 - 1
        nesterov.update([p], [np.array([1.0])])
        assert p[0] == want
    p = np.array([0.0, 0.0])
    Adam(lr=0.1).update([p], [np.array([3.0, -1e-3])])  # a first step is ± lr, whatever the size
    np.testing.assert_allclose(p, [-0.1, 0.1], rtol=1e-4)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_class
def test_in_place_and_gradients_kept(cls, dtype):
    params = [np.ones((2, 3), dtype), np.ones(4, dtype)]
    same = list(params)
    for step in gradients(dtype):
        before = [g.copy() for g in step]
        for g in step:
            g.flags.writeable = False
        cls(clip=0.1).update(params, step)
        assert all(np.array_equal(g, b) for g, b in zip(step, before))
    assert all(a is b for a, b in zip(params, same))
    assert not np.array_equal(params[0], np.ones((2, 3)))
    assert params[0].dtype == dtype


@each_class
def test_rates_of_numpy_do_not_turn_float32_into_float64(cls):
    optimizer = cls(lr=np.float64(0.01), clip=np.float64(1))
    optimizer.lr = np.float64(0.02)
    list(run(optimizer, gradients(np.float32)))
    slots = optimizer.get_state()["slots"]
    assert all(s.dtype == np.float32 for own in slots.values() for s in own.values())


@each_class
def test_state_goes_by_name(cls):
    """The order of the parameters, and others beside them, make no difference."""
    grads = gradients()
    want = list(run(cls(), grads, ["a", "b"]))[-1]
    optimizer, a, b, c = cls(), np.ones((2, 3)), np.ones(4), np.ones(5)
    for k, (ga, gb) in enumerate(grads):
        if k % 2:
            optimizer.update([c, b, a], [c, gb, ga], ["c", "b", "a"])
        else:
            optimizer.update([a, b], [ga, gb], ["a", "b"])
    np.testing.assert_array_equal(a, want[0])
    np.testing.assert_array_equal(b, want[1])


@each_class
def test_state_goes_on(cls):
    grads = gradients()
    whole = list(run(cls(), grads, ["a", "b"]))
    first, params = cls(), [np.ones((2, 3)), np.ones(4)]
    for step in grads[:3]:
        first.update(params, step, ["a", "b"])
    state = first.get_state()
    first.update([p.copy() for p in params], grads[3], ["a", "b"])  # the state is a copy
    second = cls()
    second.set_state(state)
    for step in grads[3:]:
        second.update(params, step, ["a", "b"])
    assert second.iterations == STEPS
    np.testing.assert_array_equal(params[0], whole[-1][0])
    np.testing.assert_array_equal(params[1], whole[-1][1])
    assert state["iterations"] == 3


@each_class
def test_slots_are_kept_arrays(cls):
    optimizer, params = cls(), [np.ones((2, 3)), np.ones(4)]
    optimizer.update(params, gradients()[0])
    before = {(n, k): s for n, own in optimizer._slots.items() for k, s in own.items()}
    optimizer.update(params, gradients()[1])
    after = {(n, k): s for n, own in optimizer._slots.items() for k, s in own.items()}
    assert all(after[key] is before[key] for key in after)
    assert len(after) == len(before) == 2 * len(cls.slot_names)


@each_class
def test_other_arrays_of_the_same_names_are_noticed(cls):
    optimizer, first = cls(), [np.ones((2, 3)), np.ones(4)]
    for step in gradients()[:2]:
        optimizer.update(first, step, ["a", "b"])
    second = [p.copy() for p in first]
    for params in (second, [first[0], second[1]], second[::-1]):
        before = [p.copy() for p in (*first, *second)]
        names = ["b", "a"] if params[0].ndim == 1 else ["a", "b"]
        optimizer.update(params, [np.ones(p.shape) for p in params], names)
        for p, old in zip((*first, *second), before, strict=True):
            assert (p != old).any() == any(p is q for q in params)


@each_class
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, np.float32])
def test_the_same_arrays_and_others_make_the_same_steps(cls, form):
    kept, other = cls(), cls()
    p, q, g = np.ones((2, 3)), np.ones((2, 3)), form(np.zeros((2, 3)))
    for i, (step, _) in enumerate(gradients()):
        g[...] = step
        kept.clip = other.clip = 0.1 if i == 3 else -1
        kept.update([p], [g])
        other.update([q], [g.copy()])
        np.testing.assert_array_equal(p, q)


@each_class
def test_a_state_set_between_two_steps_counts(cls):
    grads = gradients()
    want = list(run(cls(), grads, ["a", "b"]))
    optimizer, params = cls(), [np.ones((2, 3)), np.ones(4)]
    optimizer.update(params, grads[0], ["a", "b"])
    state, values = optimizer.get_state(), [p.copy() for p in params]
    optimizer.update(params, grads[3], ["a", "b"])
    optimizer.set_state(state)
    for p, value in zip(params, values):
        p[...] = value
    for step in grads[1:]:
        optimizer.update(params, step, ["a", "b"])
    for p, last in zip(params, want[-1]):
        np.testing.assert_array_equal(p, last)


@each_class
def test_a_copy_changes_its_own_arrays(cls):
    optimizer, params = cls(), [np.ones((2, 3)), np.ones(4)]
    for step in gradients()[:2]:
        optimizer.update(params, step)
    other, copies = copy.deepcopy((optimizer, params))
    assert other._plan is None
    before = [p.copy() for p in params]
    other.update(copies, gradients()[2])
    for p, q, old in zip(params, copies, before, strict=True):
        np.testing.assert_array_equal(p, old)
        assert (q != old).all()


def test_a_step_of_ones_own_on_top_of_a_kernel():
    class Halved(SGD):
        def _step(self, p, g, slots, lr):
            assert p.ndim == 2
            super()._step(p, g / 2, slots, lr)

    for p in (np.ones((2, 3)), np.ones((3, 2)).T):  # the kernel takes it, the twin takes it
        Halved(lr=1.0).update([p], [np.ones((2, 3))])
        assert (p == 0.5).all()


@each_class
def test_zero_gradient_stays_put(cls):
    p = np.ones(3)
    cls(weight_decay=None).update([p], [np.zeros(3)])
    assert p.tolist() == [1, 1, 1]


@each_class
def test_lowers_a_quadratic(cls):
    p = np.array([3.0, -2.0])
    optimizer = cls(lr=1.0 if cls is Adadelta else 0.05)
    for _ in range(60):
        optimizer.update([p], [p.copy()])
    assert np.sum(p**2) < 12.9
    assert get(cls.__name__).get_config() == cls().get_config()


def test_positional_arguments_of_old_scripts():
    adam = Adam(0.8, 0.99, 1e-7, 0.01, 5.0)
    assert (adam.beta1, adam.beta2, adam.epsilon, adam.lr, adam.clip) == (0.8, 0.99, 1e-7, 0.01, 5)
    assert Momentum(0.8, 0.01).lr == 0.01
    assert SGD(0.01, 5).clip == 5


def test_lists_that_do_not_fit():
    p = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"must be equal in number\. Received: 2, 1 and 2"):
        SGD().update([p, p], [p])
    with pytest.raises(ValueError, match=r"must be equal in number\. Received: 1, 1 and 2"):
        SGD().update([p], [p], ["a", "b"])
    with pytest.raises(ValueError, match="Each parameter must have a name of its own"):
        SGD().update([p, p], [p, p], ["a", "a"])
    message = r"The gradient of parameter 'W' must have shape \(2, 3\)\. Received: shape=\(3,\)"
    with pytest.raises(ValueError, match=message):
        SGD().update([p], [np.ones(3)], ["W"])
    for wrong in ([1.0], np.ones(1, int), np.ones(1, np.float16)):
        with pytest.raises(TypeError, match="Parameter 0 must be an array of float32 or float64"):
            SGD().update([wrong], [np.ones(1)])
    assert p.tolist() == np.ones((2, 3)).tolist()


def test_a_parameter_keeps_shape_and_dtype():
    optimizer = Adam()
    optimizer.update([np.ones(3)], [np.ones(3)], ["W"])
    for other in (np.ones(4), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match=r"Parameter 'W' must stay float64 of shape \(3,\)"):
            optimizer.update([other], [other], ["W"])
    assert optimizer.iterations == 1


@pytest.mark.parametrize(
    ("cls", "kwargs", "interval"),
    [
        (SGD, {"lr": -1}, "[0, inf)"),
        (SGD, {"lr": np.nan}, "[0, inf)"),
        (SGD, {"decay": -0.1}, "[0, inf)"),
        (SGD, {"lr_min": -0.1}, "[0, inf)"),
        (SGD, {"lr_min": 0.5, "lr_max": 0.1}, "[0.5, inf]"),
        (Momentum, {"momentum": 1}, "[0, 1)"),
        (RMSprop, {"rho": -0.1}, "[0, 1)"),
        (Adam, {"beta1": 1}, "[0, 1)"),
        (Adam, {"beta2": 1}, "[0, 1)"),
        (Adagrad, {"epsilon": 0}, "(0, inf)"),
    ],
)
def test_bad_arguments(cls, kwargs, interval):
    name, value = list(kwargs.items())[-1]
    with pytest.raises(ValueError) as error:
        cls(**kwargs)
    assert str(error.value) == f"`{name}` must be a number in {interval}. Received: {name}={value}"


def test_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match="Optimizer must define _step"):
        Optimizer().update([np.ones(1)], [np.ones(1)])
    assert optimizers.get("adam", lr=0.5).lr == 0.5


# ------------------------------------------------------------- what holds for every optimizer

G = [np.array([3.0, 4.0]), np.array([[12.0]])]  # of norms 5 and 12, together 13


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
def test_state_goes_on_with_everything_on(after):
    """With half-gathered gradients, averages and a schedule, to the same bits."""
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


def test_nadam_goes_on_to_the_same_bits():
    grads = gradients()
    *_, want = run(Nadam(), grads)
    params = [np.ones((2, 3)), np.ones(4)]
    optimizer = Nadam()
    for step in grads:
        state, optimizer = optimizer.get_state(), Nadam()
        optimizer.set_state(state)
        optimizer.update(params, step)
    assert all(np.array_equal(p, w) for p, w in zip(params, want))
    optimizer.iterations = 10**7  # its product is 0 long since
    assert optimizer._product_up_to(10**7) == 0


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
