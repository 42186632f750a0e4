"""Sample weights of the losses, and items that do not count."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from objective_cases import (
    LABELS,
    LOG2,
    ONE_HOT,
    REDUCTIONS,
    TARGETS,
    P,
    numeric_gradient,
    probabilities,
)

from npdl.objectives import MSE, SCCE


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", TARGETS)
def test_sample_weights(case, reduction):
    """The loss is each item's value times its weight; the gradient is that of this loss."""
    make, t = TARGETS[case]
    loss, p, w = make(reduction=reduction), probabilities(4, 5), np.array([0.5, 2, 0, 1])
    values = make(reduction="none").forward(p, t)
    weighted = (values.T * w).T
    got = loss.forward(p, t, w)
    if reduction == "none":
        np.testing.assert_allclose(got, weighted)
    else:
        share = 1 / loss.count(p, t) if reduction == "mean" else 1
        assert got == pytest.approx(weighted.sum() * share)
    want = numeric_gradient(lambda x: np.sum(loss.forward(x, t, w)), p)
    np.testing.assert_allclose(loss.backward(p, t, w), want, rtol=1e-7, atol=1e-9)
    assert loss.forward(p, t, w[:, None]) == pytest.approx(got)
    assert loss.forward(p, t, np.ones(4)) == pytest.approx(loss.forward(p, t))


def test_weights_of_steps_and_of_elements():
    p, labels = probabilities(2, 3, 4), np.array([[0, 3, 1], [2, 2, 0]])
    w = np.array([[1, 0, 2], [3, 1, 0]])
    values = SCCE(reduction="none").forward(p, labels)
    assert SCCE().forward(p, labels, w) == pytest.approx((values * w).mean())
    for loss in (SCCE(), MSE(reduction="sum")):
        t = labels if isinstance(loss, SCCE) else probabilities(2, 3, 4)[::-1]
        want = numeric_gradient(lambda x: loss.forward(x, t, w), p)  # noqa: B023
        np.testing.assert_allclose(loss.backward(p, t, w), want, rtol=1e-7, atol=1e-9)
    assert MSE().forward([[1.0, 2.0]], [[0, 0]], [[4, 1]]) == 4
    assert MSE().forward([[1.0], [2.0]], [0, 0], [4, 0]) == 2


def test_mean_is_one_over_the_number_of_items():
    assert MSE().forward([[1.0], [1.0]], [0, 0], [1, 0]) == 0.5
    assert MSE().forward([[1.0], [1.0]], [0, 0], [10, 30]) == 20
    assert MSE().backward([[1.0], [1.0]], [0, 0], [1, 0]).tolist() == [[1], [0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [None, -1])
def test_fused_softmax_with_weights(reduction, ignored):
    z = np.random.default_rng(4).normal(size=(2, 3, 4))
    t = np.array([[0, 3, 1], [2, 2 if ignored is None else ignored, 0]])
    w = np.array([[1, 0, 2], [3, 1, 0.5]])
    loss = SCCE(reduction=reduction, ignore_class=ignored, label_smoothing=0.1)
    value, p, cache = loss.forward_logits(z, t, w)
    np.testing.assert_allclose(value, loss.forward(p, t, w))
    want = numeric_gradient(lambda x: np.sum(loss.forward_logits(x, t, w)[0]), z)
    np.testing.assert_allclose(loss.backward_logits(cache), want, rtol=1e-7, atol=1e-9)


def test_ignored_items_do_not_count():
    loss = SCCE(ignore_class=-1)
    assert loss.forward(P, [0, -1]) == pytest.approx(LOG2)
    assert loss.backward(P, [0, -1]).tolist() == [[-2, 0, 0], [0, 0, 0]]
    assert loss.count(P, [0, -1]) == 1
    assert loss.count(P, ONE_HOT) == 2
    assert SCCE(ignore_class=-1, reduction="none").forward(P, [-1, 0]).tolist()[0] == 0
    assert loss.forward(P, ONE_HOT) == SCCE().forward(P, ONE_HOT)
    # No item counts: no nan.
    assert loss.forward(P, [-1, -1]) == 0
    assert loss.backward(P, [-1, -1]).tolist() == np.zeros((2, 3)).tolist()
    with pytest.raises(ValueError, match=r"must lie in \[0, 3\)\. Received: label=-2"):
        loss.forward(P, [0, -2])


@pytest.mark.parametrize("make", [SCCE, partial(SCCE, from_logits=True)])
def test_what_does_not_count_may_be_nan(make):
    p = P.copy()
    p[1] = np.nan
    with np.errstate(invalid="ignore"):
        for args in ((make(), LABELS, [1, 0]), (make(ignore_class=1), LABELS, None)):
            loss, t, w = args
            assert np.isfinite(loss.forward(p, t, w))
            assert loss.backward(p, t, w)[1].tolist() == [0, 0, 0]
        loss = make(ignore_class=1)
        value, _, cache = loss.forward_logits(p, LABELS)
        assert np.isfinite(value)
        assert loss.backward_logits(cache)[1].tolist() == [0, 0, 0]
