"""Focal and relative losses by readable values and at their edges; classes along another axis."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from objective_cases import LABELS, LOG2, ONE_HOT, REDUCTIONS, P, numeric_gradient, probabilities

import npdl
from npdl import Model
from npdl.layers import Convolution, Dense
from npdl.metrics import FunctionMetric
from npdl.objectives import (
    MAPE,
    MSLE,
    SCCE,
    BinaryFocalCrossEntropy,
    FocalCrossEntropy,
    LogCosh,
)

READABLE = [  # loss, outputs, targets, value of each item
    (LogCosh, [[0.0, LOG2], [-LOG2, 1e30]], [[0, 0], [0, 0]], [[0, L], [L, 1e30]])
    for L in [np.log(1.25)]
] + [
    (MAPE, [[1.0, 3.0], [-1.0, 0.0]], [[2, 2], [-2, -4]], [[50, 50], [50, 100]]),
    (MAPE, [[1e-9, 1.0]], [[0, 0]], [[1, 1e9]]),
    (partial(MAPE, 0.5), [[1.0]], [[0.25]], [[150]]),
    (MSLE, [[np.e - 1, 0.0], [-5.0, 1.0]], [[0, 0], [np.e - 1, 1]], [[1, 0], [1, 0]]),
    (FocalCrossEntropy, P, LABELS, [LOG2 / 4, 3 * LOG2 * 49 / 64]),
    (FocalCrossEntropy, P, ONE_HOT, [LOG2 / 4, 3 * LOG2 * 49 / 64]),
    (partial(FocalCrossEntropy, 0), P, LABELS, [LOG2, 3 * LOG2]),
    (partial(FocalCrossEntropy, 1, 0.5), P, LABELS, [LOG2 / 4, 1.5 * LOG2 * 7 / 8]),
    (partial(FocalCrossEntropy, 1, [2, 8, 0]), P, LABELS, [LOG2, 21 * LOG2]),
    (partial(FocalCrossEntropy, from_logits=True), np.log(P), LABELS, [LOG2 / 4, LOG2 * 147 / 64]),
    (partial(FocalCrossEntropy, from_logits=True), [[1e4, 0.0]], [1], [1e4]),
    (partial(FocalCrossEntropy, from_logits=True), [[1.0, -np.inf]], [0], [0]),
    (BinaryFocalCrossEntropy, [[0.5, 0.25]], [[1, 0]], [[LOG2 / 4, np.log(4 / 3) / 16]]),
    (partial(BinaryFocalCrossEntropy, 0, 0.75), [[0.5, 0.5]], [[1, 0]], [[LOG2 * 0.75, LOG2 / 4]]),
    (partial(BinaryFocalCrossEntropy, 0), [[0.5]], [[0.3]], [[LOG2]]),
    (
        partial(BinaryFocalCrossEntropy, 1, from_logits=True),
        [[0.0, 1e4, 1e4]],
        [[1, 1, 0]],
        [[LOG2 / 2, 0, 1e4]],
    ),
]


@pytest.mark.parametrize(("loss", "outputs", "targets", "want"), READABLE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_by_eye(loss, outputs, targets, want, dtype):
    p = np.array(outputs, dtype)
    values = loss(reduction="none").forward(p, targets)
    rtol = 1e-12 if dtype is np.float64 else 2e-6
    np.testing.assert_allclose(values, want, rtol=rtol, atol=rtol / 1e3)
    assert values.dtype == dtype
    assert np.isfinite(loss().backward(p, targets)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_cosh_is_exact_near_and_far(dtype):
    x = np.array([1e-30, -1e-10, 1e-4, 0.9999, 1.0001, 30, -1e4], dtype)
    wide = x.astype(np.float64)
    far = np.abs(wide) + np.log1p(np.exp(-2 * np.abs(wide))) - LOG2
    want = np.where(np.abs(wide) < 1e-3, wide**2 / 2 - wide**4 / 12, far)
    loss = LogCosh(reduction="none")
    np.testing.assert_allclose(
        loss.forward(x, np.zeros_like(x)), want.astype(dtype), rtol=8 * np.finfo(dtype).eps
    )
    np.testing.assert_allclose(loss.backward(x, np.zeros_like(x)), np.tanh(x), rtol=1e-6)


def test_kinks_have_finite_slopes():
    assert MAPE().backward([[2.0, 1e-9]], [[2, 0]]).tolist() == [[0, 5e8]]
    assert MSLE().backward([[-1.0, 0.0]], [[1, np.e - 1]]).tolist() == [[0, -1]]
    for gamma in (0, 0.5, 1, 3):
        certain = FocalCrossEntropy(gamma, reduction="none").backward(
            np.array([[1.0, 0.0], [0.0, 1.0]]), [0, 0]
        )
        assert certain.tolist() == [[-1.0 if gamma == 0 else 0, 0], [0, 0]]
        fused = FocalCrossEntropy(gamma, from_logits=True, reduction="none")
        grad = fused.backward(np.array([[900.0, 0.0], [-900.0, 0.0]]), [0, 0])
        assert np.isfinite(grad).all() and grad[0].tolist() == [0, 0]
        np.testing.assert_allclose(grad[1], [-1, 1])
        binary = BinaryFocalCrossEntropy(gamma, from_logits=True, reduction="none")
        grad = binary.backward(np.array([[900.0, -900.0, -900.0]]), [[1, 1, 0]])
        assert grad.tolist() == [[0, -1, 0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("alpha", [None, 0.25, [1, 2, 0, 4]])
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_fused_focal_loss(gamma, alpha, reduction):
    z = np.random.default_rng(4).normal(size=(2, 3, 4)) * 3
    loss = FocalCrossEntropy(gamma, alpha, reduction=reduction)

    def value(x, t):
        return np.sum(loss.forward_logits(x, t)[0])

    for t in (np.array([[0, 3, 1], [2, 2, 0]]), probabilities(2, 3, 4)):
        found, p, cache = loss.forward_logits(z, t)
        np.testing.assert_allclose(found, loss.forward(p, t), rtol=1e-12)
        want = numeric_gradient(partial(value, t=t), z)
        np.testing.assert_allclose(loss.backward_logits(cache), want, rtol=1e-7, atol=1e-9)


def test_a_focal_loss_without_focus_is_the_cross_entropy():
    z, t = np.random.default_rng(4).normal(size=(6, 3)), [0, 1, 2, 2, 1, 0]
    one, other = FocalCrossEntropy(0, from_logits=True), SCCE(from_logits=True)
    assert one.forward(z, t) == pytest.approx(other.forward(z, t))
    np.testing.assert_allclose(one.backward(z, t), other.backward(z, t), atol=1e-15)


def test_a_model_is_trained_on_a_focal_loss():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")
    y = (x[:, 0] > 0).astype(int)
    for head, loss in [
        (Dense(2, activation="softmax"), FocalCrossEntropy(alpha=[1, 2])),
        (Dense(1, activation="sigmoid"), BinaryFocalCrossEntropy(alpha=0.5)),
        (Dense(1, activation="linear"), BinaryFocalCrossEntropy(from_logits=True)),
    ]:
        model = Model([Dense(8, n_in=4), head])
        model.compile(loss, npdl.optimizers.Adam(lr=0.05))
        model.fit(x, y, epochs=20, verbose=0)
        score = model.evaluate(x, y)
        assert score.accuracy > 0.9, loss


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FocalCrossEntropy(-1), "`gamma` must be a number in"),
        (lambda: FocalCrossEntropy(alpha=-1), "`alpha` must be a number in"),
        (lambda: FocalCrossEntropy(alpha=[[1]]), "`alpha` must be a number, or one for each class"),
        (lambda: FocalCrossEntropy(alpha=[1, 2]).forward(P, LABELS), "a factor for each of 3"),
        (lambda: FocalCrossEntropy().forward([[0.5]], [[1]]), "see BinaryFocalCrossEntropy"),
        (lambda: BinaryFocalCrossEntropy(alpha=2), r"`alpha` must be a number in \[0, 1\]"),
        (
            lambda: BinaryFocalCrossEntropy().forward([[0.5]], [[2]]),
            r"Targets must lie in \[0, 1\]",
        ),
        (lambda: MAPE(0), "`epsilon` must be"),
        (lambda: MSLE().forward([[1.0]], [[-1]]), "Targets must be >= 0"),
        (lambda: SCCE(axis=0).forward(P, LABELS), "`axis` must be an axis of outputs.*not the fi"),
        (lambda: SCCE(axis=2).forward(P, LABELS), "`axis` must be an axis of outputs"),
        (lambda: SCCE(axis=1).forward(np.ones((2, 3, 4)), LABELS), r"or \(2, 4\) for class"),
        (lambda: SCCE(axis=0.5), "`axis` must be an integer"),
    ],
)
def test_they_say_what_is_wrong(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# ------------------------------------------------------------------------ classes along an axis

IMAGES = np.random.default_rng(4).normal(size=(2, 5, 3, 4))
CLASSES = np.random.default_rng(5).integers(0, 5, (2, 3, 4))
PIXELS = np.random.default_rng(6).uniform(0.5, 2, (2, 3, 4))
PIXELS[1, 2, 3] = 0


@pytest.mark.parametrize("kind", [SCCE, FocalCrossEntropy])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("form", ["labels", "rows", "ignored"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_classes_along_an_axis(kind, axis, form, reduction):
    """All is as with the classes at the end, there and back."""
    options, t, last = {"reduction": reduction}, CLASSES, CLASSES
    if form == "rows":
        last = np.eye(5)[CLASSES]
        t = np.moveaxis(last, -1, 1)
    if form == "ignored" and kind is SCCE:
        options["ignore_class"] = 2
    p = np.exp(IMAGES) / np.exp(IMAGES).sum(axis=1, keepdims=True)
    for from_logits, x in ((False, p), (True, IMAGES)):
        loss = kind(from_logits=from_logits, axis=axis, **options)
        plain = kind(from_logits=from_logits, **options)
        moved = np.moveaxis(x, 1, -1)
        for weights in (None, PIXELS, PIXELS[:, 0, 0]):
            found = loss.forward(x, t, weights), loss.backward(x, t, weights)
            want = plain.forward(moved, last, weights), plain.backward(moved, last, weights)
            np.testing.assert_array_equal(found[0], want[0])
            np.testing.assert_array_equal(np.moveaxis(found[1], 1, -1), want[1])
            assert found[1].flags.c_contiguous
            assert loss.count(x, t) == plain.count(moved, last)
    loss, plain = kind(axis=axis, **options), kind(**options)
    out = np.empty_like(IMAGES), np.empty_like(IMAGES)
    value, q, cache = loss.forward_logits(IMAGES, t, PIXELS, out=out[0])
    wanted = plain.forward_logits(np.moveaxis(IMAGES, 1, -1), last, PIXELS)
    assert np.array_equal(value, wanted[0]) and q is out[0]
    np.testing.assert_allclose(q, p, rtol=1e-12)
    dz = loss.backward_logits(cache, out=out[1])
    assert dz is out[1]
    np.testing.assert_array_equal(np.moveaxis(dz, 1, -1), plain.backward_logits(wanted[2]))


def segments(n=40):
    """Images (n, 1, 6, 6) whose pixels are of class 0, 1 or 2 by their brightness."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (n, 6, 6))
    return (y[:, None] - 1 + 0.2 * rng.normal(size=(n, 1, 6, 6))).astype("f4"), y


def right(truth, outputs):
    """Outputs have their classes at the end."""
    return outputs.argmax(-1) == (truth if truth.ndim < outputs.ndim else truth.argmax(-1))


def test_a_model_segments_images():
    x, y = segments()
    ignored = np.where(np.arange(6) == 5, -1, y)
    model = Model(
        [
            Convolution(8, (1, 1), input_shape=(None, 1, 6, 6)),
            Convolution(3, (1, 1), activation="linear"),
        ]
    )
    model.compile(
        SCCE(from_logits=True, axis=1, ignore_class=-1),
        npdl.optimizers.Adam(lr=0.05),
        metrics=["accuracy", "recall", FunctionMetric(right, "right")],
    )
    model.fit(x, ignored, epochs=40, sample_weight=np.ones((40, 6, 6)), verbose=0)
    scores = model.evaluate(x, ignored, return_dict=True)
    share = (model.predict(x).argmax(axis=1) == y)[..., :5].mean()
    assert scores["acc"] == scores["right"] == pytest.approx(share) and share > 0.9
    one_hot = np.moveaxis(np.eye(3)[y], -1, 1)
    every = model.predict(x).argmax(axis=1) == y
    assert model.evaluate(x, one_hot, return_dict=True)["acc"] == pytest.approx(every.mean())
    weights = {0: 1.0, 1: 2.0, 2: 0.0}
    model.fit(x, y, epochs=1, class_weight=weights, verbose=0)
    by_pixel = np.array([1.0, 2.0, 0.0])[y]
    losses = []
    for options, targets in (
        ({"class_weight": weights}, y),
        ({"class_weight": weights}, one_hot),
        ({"sample_weight": by_pixel}, y),
    ):
        model.compile(SCCE(from_logits=True, axis=1), npdl.optimizers.SGD(lr=1e-20))
        losses.append(model.fit(x, targets, epochs=1, verbose=0, **options).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(losses[2])
    with pytest.raises(ValueError, match=r"`Y` must lie in \[0, 3\)"):
        model.fit(x, y + 1, epochs=1, verbose=0)
