"""Every optimizer: its formula over several steps, its arrays and state, its errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from optimizer_cases import STEPS, each_case, each_class, gradients, run

from npdl import optimizers
from npdl.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Momentum,
    Nadam,
    NesterovMomentum,
    Optimizer,
    RMSprop,
    get,
)

RTOL = {np.float32: 2e-5, np.float64: 1e-12}


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
def test_state_continues(cls):
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


def test_nadam_resumes_to_the_same_bits():
    grads = gradients()
    *_, want = run(Nadam(), grads)
    params = [np.ones((2, 3)), np.ones(4)]
    optimizer = Nadam()
    for step in grads:
        state, optimizer = optimizer.get_state(), Nadam()
        optimizer.set_state(state)
        optimizer.update(params, step)
    assert all(np.array_equal(p, w) for p, w in zip(params, want))
    optimizer.iterations = 10**7  # the product of its factors is 0 by then
    assert optimizer._product_up_to(10**7) == 0


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
    with pytest.raises(NotImplementedError, match="Optimizer must define step"):
        Optimizer().update([np.ones(1)], [np.ones(1)])
    assert optimizers.get("adam", lr=0.5).lr == 0.5
