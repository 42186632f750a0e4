"""Merges: values, gradients, masks, open axes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import npdl
from npdl.layers import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
)
from npdl.testing import check_layer, numeric_gradient

ELEMENTWISE = {
    Add: lambda *x: sum(x),
    Subtract: lambda a, b: a - b,
    Multiply: lambda *x: np.prod(np.broadcast_arrays(*x), axis=0),
    Average: lambda *x: sum(x) / len(x),
    Maximum: lambda *x: np.max(np.broadcast_arrays(*x), axis=0),
    Minimum: lambda *x: np.min(np.broadcast_arrays(*x), axis=0),
}
SHAPES = [
    [(2, 3), (2, 3)],
    [(2, 3, 4), (2, 1, 4)],
    [(3, 2, 1, 2), (3, 1, 4, 1), (3, 1, 1, 1)],
    [(2, 3, 2)] * 3,
    [(2, 3)],
]


def drawn(shapes, dtype="f8"):
    rng = np.random.default_rng(4)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def connected(layer, *shapes):
    layer.connect_to(*(npdl.graph.Input((None, *shape)) for shape in shapes))
    return layer


def check(layer, xs):
    """Values and gradients are right, arguments unchanged, kept arrays not shared."""
    connected(layer, *(x.shape[1:] for x in xs))
    copies = [x.copy() for x in xs]
    y = layer.forward(*xs)
    assert all(want in (None, size) for want, size in zip(layer.out_shape, y.shape, strict=True))
    np.testing.assert_array_equal(layer.forward(*xs, train=False), y)
    weights = np.random.default_rng(5).standard_normal(y.shape)
    weights.flags.writeable = False
    grads = layer.backward(weights)
    grads = grads if len(xs) > 1 else (grads,)
    assert isinstance(grads, tuple) and len(grads) == len(xs)
    for x, grad in zip(xs, grads):
        wanted = numeric_gradient(lambda: np.sum(layer.forward(*xs, train=False) * weights), x)
        np.testing.assert_allclose(grad, wanted, rtol=1e-6, atol=1e-9)
    for x, copy in zip(xs, copies):
        np.testing.assert_allclose(x, copy, rtol=1e-15)

    single = [x.astype("f4") for x in xs]
    z = layer.forward(*single)
    back = layer.backward(weights.astype("f4"))
    assert {a.dtype for a in (z, *(back if len(xs) > 1 else (back,)))} == {np.dtype("f4")}

    revived = type(layer).from_json(json.loads(json.dumps(layer.to_json())))
    np.testing.assert_array_equal(revived.forward(*xs), y)
    layer.need_input_grad = False
    layer.forward(*xs)
    assert layer.backward(weights) == ((None,) * len(xs) if len(xs) > 1 else None)
    layer.need_input_grad = True
    return y


@pytest.mark.parametrize("cls", ELEMENTWISE)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_elementwise(cls, shapes):
    if cls is Subtract and len(shapes) != 2:
        pytest.skip("two inputs only")
    xs = drawn(shapes)
    np.testing.assert_allclose(check(cls(), xs), ELEMENTWISE[cls](*xs), rtol=1e-14)


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_concatenate(axis):
    shapes = [[2, 3, 4] for _ in range(3)]
    for i, shape in enumerate(shapes):
        shape[axis] = i + 1
    xs = drawn(shapes)
    np.testing.assert_array_equal(check(Concatenate(axis), xs), np.concatenate(xs, axis))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "shapes, axes, formula",
    [
        ([(3, 4), (3, 4)], 1, "nk,nk->n"),
        ([(3, 2, 4), (3, 5, 4)], 2, "nak,nbk->nab"),
        ([(3, 4, 2), (3, 5, 4)], (1, -1), "nka,nbk->nab"),
        ([(3, 4), (3, 5, 4)], (1, 2), "nk,nbk->nb"),
        ([(2, 3, 4, 2), (2, 4, 3)], (2, 1), "nakb,nkc->nabc"),
    ],
    ids=str,
)
def test_dot(shapes, axes, formula, normalize):
    xs = drawn(shapes)
    y = check(Dot(axes, normalize=normalize), xs)
    pair = axes if isinstance(axes, tuple) else (axes, axes)
    if normalize:
        xs = [x / np.linalg.norm(x, axis=axis, keepdims=True) for x, axis in zip(xs, pair)]
    np.testing.assert_allclose(y, np.einsum(formula, *xs).reshape(y.shape), rtol=1e-12)


@pytest.mark.parametrize("cls", ELEMENTWISE)
def test_contract_of_elementwise_merges(cls):
    check_layer(cls, [(3, 4), (3, 4)])
    check_layer(cls, [(2, 3, 4), (2, 1, 4)])
    if cls is not Subtract:
        check_layer(cls, [(2, 3)] * 3)


def test_contract_of_concatenate_and_dot():
    check_layer((Concatenate, {"axis": -1}), [(2, 3, 4), (2, 3, 2), (2, 3, 1)])
    check_layer(Concatenate, [(2, 3, 4), (2, 1, 4)])
    for normalize in (False, True):
        check_layer((Dot, {"axes": (1, 2), "normalize": normalize}), [(2, 4, 3), (2, 5, 4)])


def test_cosine_of_nothing_is_zero():
    layer = Dot(1, normalize=True)
    x = np.zeros((2, 3), "f4")
    np.testing.assert_array_equal(layer.forward(x, x), 0)
    assert all(np.isfinite(grad).all() for grad in layer.backward(np.ones((2, 1), "f4")))


def test_of_equal_inputs_the_first_gets_the_gradient():
    a, b = np.array([[1.0, 2, np.nan, 4]]), np.array([[1.0, 3, 5, np.nan]])
    layer = Maximum()
    np.testing.assert_array_equal(layer.forward(a, b), [[1, 3, np.nan, np.nan]])
    left, right = layer.backward(np.ones((1, 4)))
    np.testing.assert_array_equal(left, [[1, 0, 1, 0]])
    np.testing.assert_array_equal(right, [[0, 1, 0, 1]])


def test_the_gradient_of_a_sum_is_handed_on():
    layer = Add()
    layer.forward(np.ones((2, 3)), np.ones((2, 3)))
    dy = np.ones((2, 3))
    assert all(grad is dy for grad in layer.backward(dy))


def test_kept_buffers_are_apart():
    for cls in ELEMENTWISE:
        layer = cls()
        layer.keep_buffers = True
        for xs in (drawn([(2, 3), (2, 3)]), drawn([(4, 3), (4, 1)])):
            y = layer.forward(*xs)
            wanted = [np.array(grad) for grad in layer.backward(np.ones_like(y))]
            for _ in range(2):
                layer.forward(*xs)
                for grad, want in zip(layer.backward(np.ones_like(y)), wanted):
                    np.testing.assert_array_equal(grad, want)


def test_open_axes():
    assert connected(Add(), (None, 4), (1, 4)).out_shape == (None, None, 4)
    assert connected(Add(), (None, 4), (7, 1)).out_shape == (None, 7, 4)
    assert connected(Concatenate(1), (None, 4), (3, 4)).out_shape == (None, None, 4)
    assert connected(Concatenate(-1), (None, 4), (3, 2)).out_shape == (None, 3, 6)
    assert connected(Dot(2), (None, 4), (3, 4)).out_shape == (None, None, 3)
    assert connected(Dot(1), (4,), (4,)).out_shape == (None, 1)


def test_masks():
    a, b = np.array([[1, 1, 0], [0, 0, 0]]), np.array([[0, 1, 0], [1, 0, 0]])
    x = np.ones((2, 3, 4))
    y = Add().forward(x, x)
    np.testing.assert_array_equal(Add().next_mask((a, b), y), [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(Add().next_mask((None, b), y), b)
    assert Add().next_mask((None, None), y) is None
    assert Add().next_mask((a, b), y[:, 0]) is None
    one = np.array([[1], [0]])  # of a single step, which is repeated
    np.testing.assert_array_equal(Multiply().next_mask((one, b), y), [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(
        Concatenate(-1).next_mask((a, b), Concatenate(-1).forward(x, x)), [[1, 1, 0], [1, 0, 0]]
    )
    assert Dot(2).next_mask((a, b), Dot(2).forward(x, x)) is None


def test_masks_along_the_steps():
    a = np.array([[1, 1, 0], [0, 0, 0]])
    x = np.ones((2, 3, 4))
    layer = Concatenate()
    y = layer.forward(x, x[:, :2])
    wanted = [[1, 1, 0, 1, 1], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(layer.next_mask((a, None), y), wanted)
    layer = connected(Concatenate(), (2, 4), (None, 4), (3, 4))
    y = layer.forward(x[:, :2], x[:, :1], x)
    mask = layer.next_mask((None, None, a), y)
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    layer = connected(Concatenate(), (None, 4), (None, 4), (3, 4))
    with pytest.raises(ValueError, match="all inputs but one must have a known number of steps"):
        layer.next_mask((None, None, a), y)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: connected(Add(), (3,), (4,)), ["agree or are 1", "(None, 4)", "(layer 'add')"]),
        (lambda: connected(Add(), (3,), (3, 4)), ["same number of axes"]),
        (lambda: Add().forward(np.ones((2, 3)), np.ones((1, 3))), ["as many samples", "(1, 3)"]),
        (lambda: connected(Subtract(), (3,)), ["must have 2 inputs"]),
        (lambda: Concatenate(0), ["`axis`", "samples", "axis=0"]),
        (lambda: connected(Concatenate(), (3, 2), (3, 4)), ["same shape", "(None, 3, 4)"]),
        (lambda: connected(Concatenate(2), (3,), (3,)), ["same shape", "`axis` 2"]),
        (lambda: Dot((1, 2, 3)), ["`axes`", "pair"]),
        (lambda: Dot(0), ["`axes`", "samples"]),
        (lambda: connected(Dot(1), (3,), (4,)), ["equal size", "(None, 4)"]),
        (lambda: connected(Dot(1), (3,), (3,), (3,)), ["two inputs"]),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)
