"""Every loss by readable values, and its gradient against central differences."""

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

from npdl import objectives
from npdl.objectives import (
    BCE,
    MAE,
    MSE,
    SCCE,
    BinaryCrossEntropy,
    CategoricalHinge,
    CosineSimilarity,
    HeD,
    HellingerDistance,
    Hinge,
    Huber,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    Objective,
    Poisson,
    SoftmaxCategoricalCrossEntropy,
    SquaredHinge,
)

SMOOTHED = 0.25 * 2 * LOG2 + 0.75 * np.log(4 / 3)
# Row 2 of P, smoothed to (¼, ½, ¼).
ROW_2 = 0.25 * 3 * LOG2 + 0.5 * 3 * LOG2 + 0.25 * np.log(4 / 3)

READABLE = [  # loss, outputs, targets, value of each item
    (MSE, [[1.0, 2.0], [3.0, 5.0]], [[1, 0], [0, 1]], [[0, 4], [9, 16]]),
    (BCE, [[0.5], [0.25], [0.25]], [[1], [1], [0]], [[LOG2], [2 * LOG2], [np.log(4 / 3)]]),
    (SCCE, P, ONE_HOT, [LOG2, 3 * LOG2]),
    (SCCE, P, LABELS, [LOG2, 3 * LOG2]),
    (SCCE, P, [[0.5, 0.5, 0], [0, 0, 0]], [1.5 * LOG2, 0]),
    (HeD, [[0.25, 0.75], [1.0, 0.0]], [[1, 0], [1, 0]], [np.sqrt(0.5), 0]),
    (HeD, [[0.25, 0.75], [1.0, 0.0]], [0, 1], [np.sqrt(0.5), 1]),
    (HeD, [[0.36, 0.64]], [[0.64, 0.36]], [0.2]),
    (MAE, [[1.0, 2.0], [3.0, 5.0]], [[1, 0], [0, 7]], [[0, 2], [3, 2]]),
    (Huber, [[1.0, 0.5], [3.0, -3.0]], [[1, 0], [0, 0]], [[0, 0.125], [2.5, 2.5]]),
    (Poisson, [[1.0, np.e], [0.0, 0.0]], [[5, 2], [0, 1]], [[1, np.e - 2], [0, -np.log(1e-7)]]),
    (Hinge, [[0.5, 2.0], [-0.5, -2.0]], [[1, 1], [1, -1]], [[0.5, 0], [1.5, 0]]),
    (Hinge, [[0.5, 2.0], [-0.5, -2.0]], [[1, 1], [1, 0]], [[0.5, 0], [1.5, 0]]),
    (SquaredHinge, [[0.5], [3.0]], [[1], [-1]], [[0.25], [16]]),
    (CategoricalHinge, [[1.0, 3.0, 2.0], [5.0, 1.0, 1.0]], [0, 0], [3, 0]),
    (CategoricalHinge, [[1.0, 3.0, 2.0], [-2.0, -1.0, -3.0]], [2, 1], [2, 2]),
    (KLDivergence, [[0.5, 0.5], [0.25, 0.75]], [[1, 0], [0.25, 0.75]], [LOG2, 0]),
    (KLDivergence, [[0.5, 0.5], [0.25, 0.75]], [0, 0], [LOG2, 2 * LOG2]),
    (CosineSimilarity, [[3.0, 4.0], [2.0, 0.0]], [[6, 8], [-1, 0]], [-1, 1]),
    (CosineSimilarity, [[3.0, 4.0], [0.0, 0.0]], [[4, -3], [1, 0]], [0, 0]),
    (partial(Huber, 2.0), [[1.0], [5.0]], [[0], [0]], [[0.5], [8]]),
    (partial(BCE, from_logits=True), [[0.0], [1e4]], [[1], [1]], [[LOG2], [0]]),
    (partial(BCE, from_logits=True), [[-1e4], [1e4]], [[1], [0]], [[1e4], [1e4]]),
    (partial(BCE, label_smoothing=0.5), [[0.5], [0.25]], [[1], [0]], [[LOG2], [SMOOTHED]]),
    (partial(SCCE, from_logits=True), np.log(P), LABELS, [LOG2, 3 * LOG2]),
    (partial(SCCE, from_logits=True), [[1e4, 0.0]], [1], [1e4]),
    (partial(SCCE, label_smoothing=0.75), P, LABELS, [1.5 * LOG2, ROW_2]),
    (partial(SCCE, label_smoothing=0.75), P, ONE_HOT, [1.5 * LOG2, ROW_2]),
]


def check_gradient(loss, p, t, rtol=1e-7):
    """Compare `backward` with differences; for 'none' those of the sum are the same."""
    value = (lambda x: loss.forward(x, t).sum()) if loss.reduction == "none" else None
    want = numeric_gradient(value or (lambda x: loss.forward(x, t)), p)
    np.testing.assert_allclose(loss.backward(p, t), want, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize(("loss", "outputs", "targets", "want"), READABLE)
def test_values_by_eye(loss, outputs, targets, want):
    p = np.array(outputs)
    values = loss(reduction="none").forward(p, targets)
    np.testing.assert_allclose(values, want, rtol=1e-12, atol=1e-14)
    assert values.dtype == np.float64
    mean, total = loss().forward(p, targets), loss(reduction="sum").forward(p, targets)
    assert isinstance(mean, float)
    assert mean == pytest.approx(np.mean(want))
    assert total == pytest.approx(np.sum(want))


def test_gradients_by_eye():
    assert MSE().backward([[1.0, 2.0]], [[0, 4]]).tolist() == [[1, -2]]
    assert BCE().backward([[0.5], [0.25]], [[1], [0]]).tolist() == [[-1], [pytest.approx(2 / 3)]]
    want = [[-1, 0, 0], [0, -4, 0]]
    assert SCCE().backward(P, LABELS).tolist() == SCCE().backward(P, ONE_HOT).tolist() == want
    assert SCCE(reduction="sum").backward(P, LABELS).tolist() == [[-2, 0, 0], [0, -8, 0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", TARGETS)
def test_gradient_against_differences(case, reduction):
    loss, t = TARGETS[case]
    check_gradient(loss(reduction=reduction), probabilities(4, 5), t)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [MSE, BCE, SCCE, HeD])
def test_sequences(loss, reduction):
    p, t = probabilities(2, 3, 4), probabilities(2, 3, 4)[::-1]
    check_gradient(loss(reduction=reduction), p, t)
    if loss in (SCCE, HeD):
        labels = np.array([[0, 3, 1], [2, 2, 0]])
        check_gradient(loss(reduction=reduction), p, labels)
        np.testing.assert_allclose(
            loss(reduction=reduction).forward(p, labels),
            loss(reduction=reduction).forward(p, np.eye(4)[labels]),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", ["labels", "rows", "weights"])
def test_fused_softmax(form, reduction):
    """The fused loss is the loss of the softmax of the logits; its gradient is p - t."""
    z = np.random.default_rng(4).normal(size=(2, 3, 4)) * 3
    labels = np.array([[0, 3, 1], [2, 2, 0]])
    t = {"labels": labels, "rows": probabilities(2, 3, 4), "weights": 2 * np.eye(4)[labels]}[form]
    loss = SCCE(reduction=reduction)
    value, p, cache = loss.forward_logits(z, t)
    np.testing.assert_allclose(p, np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(value, loss.forward(p, t))
    want = numeric_gradient(lambda x: np.sum(loss.forward_logits(x, t)[0]), z)
    grad = loss.backward_logits(cache)
    np.testing.assert_allclose(grad, want, rtol=1e-7, atol=1e-10)
    if form != "weights":
        rows = np.eye(4)[labels] if form == "labels" else t
        np.testing.assert_allclose(grad, (p - rows) / (6 if reduction == "mean" else 1))


def test_fused_softmax_is_stable():
    z = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    value, p, cache = SCCE().forward_logits(z, [1, 1])
    assert value == 5000
    assert p.tolist() == [[1, 0], [0, 1]]
    assert SCCE().backward_logits(cache).tolist() == [[0.5, -0.5], [0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TARGETS)
def test_dtype_and_inputs_kept(case, dtype):
    loss, t = TARGETS[case][0](), TARGETS[case][1].copy()
    p = probabilities(4, 5, dtype=dtype)
    before, t_before = p.copy(), t.copy()
    p.flags.writeable = t.flags.writeable = False
    grad = loss.backward(p, t)
    assert grad.dtype == dtype
    assert loss.forward(np.asfortranarray(p), np.asfortranarray(t)) == loss.forward(p, t)
    np.testing.assert_array_equal(loss.backward(np.asfortranarray(p), t), grad)
    assert np.array_equal(p, before)
    assert np.array_equal(t, t_before)
    exact = loss.backward(p.astype(float), t)
    np.testing.assert_allclose(grad, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bce_at_the_ends(dtype):
    p = np.array([[0.0], [1.0], [0.0], [1.0], [-2.0], [2.0]], dtype)
    t = np.array([[1], [0], [0], [1], [1], [0]])
    loss = BCE(reduction="none")
    low = -np.log(1e-11)
    high = -np.log(max(1e-11, np.finfo(dtype).eps))
    near = -np.log1p(-max(1e-11, np.finfo(dtype).eps))
    want = [low, high, 1e-11, near, low, high]
    np.testing.assert_allclose(loss.forward(p, t).ravel(), want, rtol=1e-5, atol=1e-12)
    assert loss.backward(p, t).ravel().tolist() == [0] * 6


def test_bce_takes_a_vector_of_targets():
    p = np.array([[0.5], [0.25]])
    assert BCE().forward(p, [1, 0]) == BCE().forward(p, [[1], [0]])
    assert BCE().backward(p, [1, 0]).shape == (2, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scce_is_clipped(dtype):
    p = np.array([[0, 1], [1, 0], [2, 0]], dtype)
    for t in ([0, 0, 0], [[1, 0]] * 3):
        loss = SCCE(epsilon=1e-6, reduction="none")
        np.testing.assert_allclose(loss.forward(p, t), [-np.log(1e-6), 0, 0], rtol=1e-6)
        assert loss.backward(p, t).tolist() == [[0, 0], [-1, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hellinger_gradient_is_finite(dtype):
    p = np.array([[0, 1], [1, 0], [1e-20, 1], [-1, 1]], dtype)
    loss = HeD(reduction="none")
    np.testing.assert_allclose(loss.forward(p, [0] * 4), [1, 0, 1, 1], atol=1e-6)
    grad = loss.backward(p, [0] * 4)
    np.testing.assert_allclose(grad[:, 0], [0, 0, -0.25e10, 0], rtol=1e-4)
    np.testing.assert_allclose(grad[:, 1], [0.25, 0, 0.25, 0.25], rtol=1e-4)


def test_sum_of_many_float32_is_exact():
    p = np.full((200_000, 1), 0.1, np.float32)
    square = float(np.float32(0.1) * np.float32(0.1))
    assert MSE(reduction="sum").forward(p, np.zeros_like(p)) == pytest.approx(
        2e5 * square, rel=1e-12
    )


def test_names():
    assert objectives.get("mse").__class__ is MSE is MeanSquaredError
    assert objectives.get("SCCE").__class__ is SCCE is SoftmaxCategoricalCrossEntropy
    assert objectives.get("HeD").__class__ is HeD is HellingerDistance
    assert objectives.get("binary_cross_entropy").__class__ is BCE is BinaryCrossEntropy
    config = {"epsilon": 1e-3, "from_logits": False, "label_smoothing": 0, "reduction": "sum"}
    assert BCE(1e-3, reduction="sum").get_config() == config


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("loss", [SCCE, HeD])
def test_label_out_of_range(loss, label):
    message = rf"`labels` must lie in \[0, 3\)\. Received: label={label}"
    for call in (loss().forward, loss().backward, SCCE().forward_logits):
        with pytest.raises(ValueError, match=message):
            call(P, [0, label])
    with pytest.raises(ValueError, match=r"`labels` must be whole numbers\. Received: label=0\.5"):
        loss().forward(P, [0, 0.5])


def test_float_labels():
    assert SCCE().forward(P, [0.0, 1.0]) == SCCE().forward(P, LABELS)


@pytest.mark.parametrize("loss", [MSE, BCE])
def test_wrong_shape_elementwise(loss):
    for shape in ((2,), (2, 2), (3, 3), (2, 3, 1)):
        message = rf"Targets must have shape \(2, 3\)\. Received: shape={shape}"
        with pytest.raises(ValueError, match=message.replace(f"{shape}", "") + r"\("):
            loss().forward(P, np.zeros(shape))


@pytest.mark.parametrize("loss", [SCCE, HeD])
def test_wrong_shape_rowwise(loss):
    for shape in ((3,), (2, 2), (3, 3), (2, 1)):
        message = (
            r"Targets must have shape \(2, 3\), or \(2,\) for class numbers\. Received: shape="
        )
        with pytest.raises(ValueError, match=message):
            loss().backward(P, np.zeros(shape))
    with pytest.raises(ValueError, match=r"Outputs must have shape \(N, ..., K\)"):
        loss().forward([0.5, 0.5], [1, 0])


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"Targets must lie in \[0, 1\]\. Received: target=2\.0"):
        BCE().forward([[0.5]], [[2]])
    with pytest.raises(ValueError, match=r"Targets must be >= 0\. Received: target=-1\.0"):
        HeD().forward([[0.5, 0.5]], [[-1, 2]])
    with pytest.raises(TypeError, match="`outputs` must be an array of numbers"):
        MSE().forward(["a"], [1])
    with pytest.raises(TypeError, match=r"Targets must be numbers\. Received: dtype="):
        SCCE().forward(P, ["a", "b"])
    for loss in (MSE, SCCE):
        with pytest.raises(ValueError, match=r"Outputs must hold at least one value\. Received"):
            loss().forward(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"`reduction` must be one of 'mean', 'sum', 'none'"):
        MSE(reduction="median")
    with pytest.raises(ValueError, match=r"`epsilon` must be a number in \(0, 0.5\)"):
        SCCE(epsilon=0)
    with pytest.raises(TypeError):
        MSE("sum")  # keyword only


def test_users_own_objective():
    class Absolute(Objective):
        def forward(self, outputs, targets):
            return np.abs(outputs - targets).mean()

        def backward(self, outputs, targets):
            return np.sign(outputs - targets) / outputs.size

    assert objectives.get(Absolute).forward(P, ONE_HOT) > 0
    assert Absolute().get_config() == {"reduction": "mean"}


def test_logits_and_probabilities_are_one_loss():
    z = np.random.default_rng(4).normal(size=(6, 3)) * 4
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    t = [0, 1, 2, 2, 1, 0]
    assert SCCE(from_logits=True).forward(z, t) == pytest.approx(SCCE().forward(p, t))
    q, yes = 1 / (1 + np.exp(-z)), np.eye(3)[t]
    assert BCE(from_logits=True).forward(z, yes) == pytest.approx(BCE().forward(q, yes))
    np.testing.assert_allclose(BCE(from_logits=True).backward(z, yes), (q - yes) / 18)
    assert BCE(from_logits=True).backward([[1e4], [-1e4]], [1, 0]).tolist() == [[0], [0]]


def test_kinks_and_zeros_have_finite_slopes():
    assert MAE().backward([[1.0, 2.0]], [[1, 0]]).tolist() == [[0, 0.5]]
    assert Hinge().backward([[1.0, 0.0]], [[1, 1]]).tolist() == [[0, -0.5]]
    assert CosineSimilarity().backward([[0.0, 0.0]], [[1, 0]]).tolist() == [[0, 0]]
    assert CosineSimilarity().backward([[1.0, 2.0]], [[0, 0]]).tolist() == [[0, 0]]
    assert KLDivergence().backward([[0.0, 1.0]], [[1, 0]]).tolist() == [[0, 0]]
    assert Poisson().backward([[-1.0]], [[3]]).tolist() == [[1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cosine_of_very_long_and_very_short_vectors(dtype):
    far = np.array([[3, 4], [4, 3]]) * np.array([[1e30], [1e-30]])
    loss = CosineSimilarity(reduction="none")
    np.testing.assert_allclose(
        loss.forward(far.astype(dtype), [[3, 4], [4, 3]]), [-1, -1], rtol=1e-6
    )


def test_names_of_keras():
    for name in ("mae", "mean_absolute_error", "MeanAbsoluteError"):
        assert type(objectives.get(name)) is MAE is MeanAbsoluteError
    for name in (
        *("categorical_crossentropy", "sparse_categorical_crossentropy", "CategoricalCrossentropy"),
        *("SparseCategoricalCrossEntropy", "cross_entropy"),
    ):
        assert type(objectives.get(name)) is SCCE
    assert objectives.SparseCategoricalCrossEntropy is objectives.CategoricalCrossEntropy is SCCE
    for name in ("kl_divergence", "kld", "kullback_leibler_divergence", "KLDivergence"):
        assert type(objectives.get(name)) is KLDivergence is objectives.KLD
    assert type(objectives.get("binary_crossentropy")) is BCE
    assert type(objectives.get("cosine_similarity")) is CosineSimilarity
    for name in ("huber", "poisson", "hinge", "squared_hinge", "categorical_hinge"):
        assert name in objectives.get(name).__class__.__name__.lower() or "_" in name


def test_any_object_with_forward_and_backward_is_a_loss():
    class Own:
        def forward(self, outputs, targets):
            return float(np.square(outputs - targets).sum())

        def backward(self, outputs, targets):
            return 2 * (outputs - targets)

    own = Own()
    assert objectives.get(own) is own
    assert type(objectives.get(Own)) is Own
    with pytest.raises(TypeError, match="The objective must be a name, an instance or subclass"):
        objectives.get(np.mean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MSE().forward(P, P, [1, 2, 3]),
            r"must have a weight for each item, shape \(2, 3\)",
        ),
        (lambda: SCCE().forward(P, LABELS, np.ones((2, 3))), r"for each item, shape \(2,\) or its"),
        (lambda: SCCE().backward(P, LABELS, 2.0), r"or its leading axes\. Received: shape=\(\)"),
        (lambda: MSE().forward(P, P, ["a", "b"]), "`sample_weight` must be numbers"),
        (lambda: Hinge().forward([[0.5]], [[2]]), r"Targets must be -1 and 1, or 0 and 1\. Rec"),
        (lambda: Hinge().forward([[0.5, 1]], [[-1, 0]]), r"or 0 and 1\. Received: target=0\.0"),
        (lambda: Poisson().forward([[0.5]], [[-1]]), r"Targets must be >= 0\. Received: target=-1"),
        (lambda: KLDivergence().forward([[0.5]], [[-1]]), r"Targets must be >= 0\. Received"),
        (lambda: Huber(0), r"`delta` must be a number in \(0, inf\)"),
        (lambda: SCCE(label_smoothing=1), r"`label_smoothing` must be a number in \[0, 1\)"),
        (lambda: SCCE(ignore_class=0.5), "`ignore_class` must be an integer"),
    ],
)
def test_errors_of_the_further_losses(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
