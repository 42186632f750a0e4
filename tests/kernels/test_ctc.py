"""CTC against the sum over all paths, and its contract for steps and labels left out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from kernel_calls import Maker


def readings(steps: int, classes: int, blank: int) -> dict[tuple[int, ...], list]:
    """All paths, grouped by the labels that they read as."""
    found: dict[tuple[int, ...], list] = {}
    for path in itertools.product(range(classes), repeat=steps):
        merged = [k for k, _ in itertools.groupby(path) if k != blank]
        found.setdefault(tuple(merged), []).append(path)
    return found


def losses(kernels, x, labels, mask=None, blank=0, normalize=True):
    loss = np.full(len(x), np.nan, x.dtype)
    kernels.ctc_forward(x, np.asarray(labels, np.int64), mask, blank, normalize, loss)
    return loss


def gradients(kernels, x, labels, mask=None, blank=0, normalize=True, dloss=None):
    dx = np.full_like(x, np.nan)
    dloss = np.ones(len(x), x.dtype) if dloss is None else dloss
    kernels.ctc_backward(x, np.asarray(labels, np.int64), mask, blank, normalize, dloss, dx)
    return dx


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_sum_over_all_paths(backend, blank):
    steps = 4
    x = Maker("float64").random(1, steps, 3)
    p = np.exp(x[0]) / np.exp(x[0]).sum(axis=-1, keepdims=True)
    every = readings(steps, 3, blank)
    assert len(every) == 15
    total = 0.0
    for labels, paths in every.items():
        wanted = sum(np.prod(p[range(steps), path]) for path in paths)
        rows = np.array([[*labels, -1]])
        assert losses(backend, x, rows, blank=blank) == pytest.approx([-np.log(wanted)], rel=1e-13)
        found = losses(backend, np.log(p)[None], rows, blank=blank, normalize=False)
        assert found == pytest.approx([-np.log(wanted)], rel=1e-13)
        total += wanted
    assert total == pytest.approx(1)  # each path reads as something


def test_by_eye(backend):
    x = np.log([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]])
    cases = {(): 1 / 8, (1,): 1 / 4 + 1 / 16 + 1 / 8, (1, 2): 1 / 16, (2, 1): 1 / 8}
    for labels, wanted in cases.items():
        rows = np.array([[*labels, *[-1] * (2 - len(labels))]])
        np.testing.assert_allclose(losses(backend, x, rows), -np.log(wanted), rtol=1e-14)
    # Only the path (1, 2): all of the gradient is at its two classes.
    dx = gradients(backend, x, [[1, 2]], normalize=False)
    np.testing.assert_allclose(dx, [[[0, -1, 0], [0, 0, -1]]], atol=1e-15)
    dx = gradients(backend, x, [[1, 2]], dloss=np.array([4.0]))
    np.testing.assert_allclose(dx, [[[2, -3, 1], [1, 2, -3]]], atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_padding_may_be_anywhere(implementation, dtype):
    make = Maker(dtype)
    x, labels = make.random(2, 9, 5), [[1, 2, 2], [3, 4, -1]]
    mask = np.ones((2, 9), np.uint8)
    mask[0, 2:4] = mask[1, :3] = mask[1, 8] = 0
    x[mask == 0] = np.nan
    loss, dx = losses(implementation, x, labels, mask), gradients(implementation, x, labels, mask)
    assert not dx[mask == 0].any()
    for i in range(2):
        own = np.ascontiguousarray(x[i : i + 1, mask[i] != 0])
        row = np.array([[-1, *labels[i], -1]])
        found = losses(implementation, own, row)[0], gradients(implementation, own, row)[0]
        # NumPy adds longer rows in another order.
        rtol = 1e-12 if implementation.suffix == "np" else 0
        np.testing.assert_allclose(found[0], loss[i], rtol=rtol)
        np.testing.assert_allclose(found[1], dx[i, mask[i] != 0], rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_cannot_be_aligned(implementation, dtype):
    """A sample that can't be aligned has the loss inf and the gradient 0; others are unaffected."""
    x = Maker(dtype).random(6, 3, 4)
    labels = np.array([[1, 2, 3], [1, 1, -1], [1, 1, 2], [-1, -1, -1], [1, -1, -1], [2, 3, -1]])
    mask = np.ones((6, 3), np.uint8)
    mask[3:5] = 0
    x[5, :, 3] = -np.inf  # an impossible class
    loss, dx = losses(implementation, x, labels, mask), gradients(implementation, x, labels, mask)
    np.testing.assert_array_equal(loss == np.inf, [False, False, True, False, True, True])
    assert loss[3] == 0  # no steps, and no labels
    assert not dx[loss == np.inf].any()
    for i in range(6):
        part = slice(i, i + 1)
        assert losses(implementation, x[part], labels[part], mask[part]) == loss[part]
        alone = gradients(implementation, x[part], labels[part], mask[part])
        np.testing.assert_array_equal(alone, dx[part])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_and_certain(implementation, dtype):
    """Probabilities of paths far below the smallest float, over many steps."""
    x = np.zeros((1, 3000, 3), dtype)
    x[..., 2] = 200  # the wrong class, always
    labels = np.zeros((1, 1000), np.int64)
    loss = losses(implementation, x, labels, blank=1)
    # Each path has 1000 runs of the label among 3000 steps: 3001 over 2000 of them.
    paths = math.lgamma(3002) - math.lgamma(2001) - math.lgamma(1002)
    assert loss == pytest.approx([3000 * 200 - paths], rel=1e-7 if dtype == "float32" else 1e-12)
    dx = gradients(implementation, x, labels, blank=1)
    np.testing.assert_allclose(dx.sum(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(dx[..., 2], 1, rtol=1e-12)
    np.testing.assert_allclose(dx[0, :, 0], dx[0, ::-1, 0], rtol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_stays_with_its_sample(implementation, dtype):
    x = Maker(dtype).random(3, 5, 4)
    labels = np.array([[1, 2], [1, 2], [1, 2]])
    clean = losses(implementation, x, labels), gradients(implementation, x, labels)
    x[1, 2, 1] = np.nan
    with np.errstate(invalid="ignore"):
        loss, dx = losses(implementation, x, labels), gradients(implementation, x, labels)
        assert np.isnan(loss[1])
        assert np.isnan(dx[1]).any()
        unasked = gradients(implementation, x, labels, dloss=np.array([1, 0, 1], dtype))
    assert not unasked[1].any()
    for found, wanted in zip((loss, dx), clean):
        np.testing.assert_array_equal(found[[0, 2]], wanted[[0, 2]])


@pytest.mark.parametrize("labels, blank", [([[4]], 0), ([[0]], 0), ([[1]], 4), ([[1]], -1)])
def test_labels_that_are_no_classes(compiled, labels, blank):
    with pytest.raises(ValueError, match="ctc: "):
        losses(compiled, np.zeros((1, 3, 4)), labels, blank=blank)
