"""`npdl.metrics`: values against scikit-learn, in any batches, with weights and masks."""

import numpy as np
import pytest

import npdl
from npdl import metrics
from npdl._registry import to_json_type
from npdl.layers import Dense, Linear, SimpleRNN, Softmax
from npdl.objectives import BCE, SCCE, Hinge

sk = pytest.importorskip("sklearn.metrics")
RNG = np.random.default_rng(5)
N, K, T = 83, 4, 6
LOGITS = RNG.normal(size=(N, K)).astype("f4")
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
LABELS = RNG.integers(0, K, N)
ONE_HOT = np.eye(K)[LABELS]
GUESSES = LOGITS.argmax(1)
YES = RNG.integers(0, 2, N)
SCORES = np.round(np.clip(0.5 + 0.3 * (YES - 0.5) + 0.2 * RNG.normal(size=N), 0, 1), 1)  # with ties
WEIGHTS = RNG.integers(0, 4, N).astype("f4")
NUMBERS = RNG.normal(size=(N, 3))
ESTIMATES = NUMBERS + 0.5 * RNG.normal(size=(N, 3))


def in_batches(metric, y, p, w=None, size=10):
    """The value from batches of this size, the last one smaller."""
    for i in range(0, len(y), size):
        s = slice(i, i + size)
        metric.update_state(y[s], p[s], None if w is None else w[s])
    return metric.result()


def by(function, y, p, **kwargs):
    return lambda w: function(y, p, sample_weight=w, **kwargs)


def exp_log_loss(y, p, sample_weight):
    return np.exp(sk.log_loss(y, p, sample_weight=sample_weight))


def percentage_error(y, p, sample_weight):
    return 100 * sk.mean_absolute_percentage_error(y, p, sample_weight=sample_weight)


def log_cosh(y, p, sample_weight):
    return np.average(np.log(np.cosh(p - y)).mean(axis=1), weights=sample_weight)


CASES = {
    "accuracy": (metrics.Accuracy, LABELS, PROBABILITIES, by(sk.accuracy_score, LABELS, GUESSES)),
    "accuracy-one-hot": (
        metrics.Accuracy,
        ONE_HOT,
        PROBABILITIES,
        by(sk.accuracy_score, LABELS, GUESSES),
    ),
    "accuracy-binary": (metrics.Accuracy, YES, SCORES, by(sk.accuracy_score, YES, SCORES > 0.5)),
    "top-2": (
        lambda: metrics.TopKAccuracy(2),
        LABELS,
        PROBABILITIES,
        by(sk.top_k_accuracy_score, LABELS, PROBABILITIES, k=2),
    ),
    "precision": (
        metrics.Precision,
        LABELS,
        PROBABILITIES,
        by(sk.precision_score, LABELS, GUESSES, average="macro"),
    ),
    "recall": (
        metrics.Recall,
        ONE_HOT,
        PROBABILITIES,
        by(sk.recall_score, LABELS, GUESSES, average="macro"),
    ),
    "f1": (
        metrics.F1Score,
        LABELS,
        PROBABILITIES,
        by(sk.f1_score, LABELS, GUESSES, average="macro"),
    ),
    "f1-micro": (
        lambda: metrics.F1Score("micro"),
        LABELS,
        PROBABILITIES,
        by(sk.f1_score, LABELS, GUESSES, average="micro"),
    ),
    "f1-weighted": (
        lambda: metrics.F1Score("weighted"),
        LABELS,
        PROBABILITIES,
        by(sk.f1_score, LABELS, GUESSES, average="weighted"),
    ),
    "f1-each": (
        lambda: metrics.F1Score(None),
        LABELS,
        PROBABILITIES,
        by(sk.f1_score, LABELS, GUESSES, average=None),
    ),
    "precision-of-2": (
        lambda: metrics.Precision(class_id=2),
        LABELS,
        PROBABILITIES,
        by(sk.precision_score, LABELS == 2, GUESSES == 2),
    ),
    "precision-binary": (
        metrics.Precision,
        YES[:, None],
        SCORES[:, None],
        by(sk.precision_score, YES, SCORES > 0.5),
    ),
    "recall-binary": (
        lambda: metrics.Recall(threshold=0.3),
        YES,
        SCORES,
        by(sk.recall_score, YES, SCORES > 0.3),
    ),
    "f1-labels": (
        lambda: metrics.F1Score(threshold=0.4),
        ONE_HOT,
        PROBABILITIES,
        by(sk.f1_score, ONE_HOT, PROBABILITIES > 0.4, average="macro"),
    ),
    "confusion": (
        metrics.ConfusionMatrix,
        LABELS,
        PROBABILITIES,
        by(sk.confusion_matrix, LABELS, GUESSES),
    ),
    "confusion-binary": (
        metrics.ConfusionMatrix,
        YES,
        SCORES[:, None],
        by(sk.confusion_matrix, YES, SCORES > 0.5),
    ),
    "auc": (metrics.AUC, YES, SCORES, by(sk.roc_auc_score, YES, SCORES)),
    "auc-two-classes": (
        metrics.AUC,
        YES,
        np.stack([1 - SCORES, SCORES], 1),
        by(sk.roc_auc_score, YES, SCORES),
    ),
    "auc-classes": (
        metrics.AUC,
        LABELS,
        PROBABILITIES,
        by(sk.roc_auc_score, ONE_HOT, PROBABILITIES),
    ),
    "auc-pr": (lambda: metrics.AUC("PR"), YES, SCORES, by(sk.average_precision_score, YES, SCORES)),
    "perplexity": (
        metrics.Perplexity,
        LABELS,
        PROBABILITIES,
        by(exp_log_loss, LABELS, PROBABILITIES),
    ),
    "perplexity-logits": (
        lambda: metrics.Perplexity(from_logits=True),
        ONE_HOT,
        LOGITS,
        by(exp_log_loss, LABELS, PROBABILITIES),
    ),
    "mse": (
        metrics.MeanSquaredError,
        NUMBERS,
        ESTIMATES,
        by(sk.mean_squared_error, NUMBERS, ESTIMATES),
    ),
    "rmse": (
        metrics.RootMeanSquaredError,
        NUMBERS[:, 0],
        ESTIMATES[:, :1],
        by(sk.root_mean_squared_error, NUMBERS[:, 0], ESTIMATES[:, 0]),
    ),
    "mae": (
        metrics.MeanAbsoluteError,
        NUMBERS,
        ESTIMATES,
        by(sk.mean_absolute_error, NUMBERS, ESTIMATES),
    ),
    "mape": (
        metrics.MeanAbsolutePercentageError,
        NUMBERS,
        ESTIMATES,
        by(percentage_error, NUMBERS, ESTIMATES),
    ),
    "msle": (
        metrics.MeanSquaredLogarithmicError,
        np.abs(NUMBERS),
        np.abs(ESTIMATES),
        by(sk.mean_squared_log_error, np.abs(NUMBERS), np.abs(ESTIMATES)),
    ),
    "log-cosh": (metrics.LogCoshError, NUMBERS, ESTIMATES, by(log_cosh, NUMBERS, ESTIMATES)),
    "r2": (metrics.R2Score, NUMBERS + 1e4, ESTIMATES + 1e4, by(sk.r2_score, NUMBERS, ESTIMATES)),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_values(name, weighted):
    make, y, p, wanted = CASES[name]
    w = WEIGHTS if weighted else None
    for size in (10, 1, N):
        found = in_batches(make(), y, p, w, size)
        np.testing.assert_allclose(found, wanted(w), rtol=1e-6)
        assert isinstance(found, np.ndarray | float)
    assert make()(y, p, w) == pytest.approx(wanted(w), rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_weight_of_0_leaves_out_and_2_counts_twice(name):
    make, y, p, _ = CASES[name]
    index = np.repeat(np.arange(N), WEIGHTS.astype(int))
    p = np.where(WEIGHTS.reshape(-1, *[1] * (p.ndim - 1)) == 0, 0.5, p)
    np.testing.assert_allclose(
        in_batches(make(), y, p, WEIGHTS), in_batches(make(), y[index], p[index]), rtol=1e-6
    )


@pytest.mark.parametrize("name", CASES)
def test_reset_state_and_state(name):
    make, y, p, _ = CASES[name]
    metric, other = make(), make()
    wanted = in_batches(metric, y, p)
    metric.reset_state()
    half = N // 2
    metric.update_state(y[:half], p[:half])
    other.set_state(metric.get_state())
    other.update_state(y[half:], p[half:])
    np.testing.assert_allclose(other.result(), wanted, rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_batch_is_neither_changed_nor_kept(name):
    """`Model` passes the same array for each batch."""
    make, y, p, _ = CASES[name]
    metric, room, targets = make(), np.empty_like(p[:10]), np.empty_like(y[:10])
    for i in range(0, 80, 10):
        room[...], targets[...] = p[i : i + 10], y[i : i + 10]
        metric.update_state(targets, room)
        np.testing.assert_array_equal(room, p[i : i + 10])
    room[...] = 0
    np.testing.assert_allclose(metric.result(), in_batches(make(), y[:80], p[:80]))


@pytest.mark.parametrize("metric", [metrics.Accuracy, metrics.F1Score, metrics.ConfusionMatrix])
def test_a_mask_of_steps(metric):
    """Items of sequences count by a weight for each sample, or for each step."""
    p, y = RNG.random((7, T, K)), RNG.integers(0, K, (7, T))
    mask = RNG.integers(0, 2, (7, T))
    mask[0] = 1
    real = mask.astype(bool)
    np.testing.assert_allclose(metric()(y, p, mask), metric()(y[real], p[real]))
    samples = mask[:, 0].astype(bool)
    np.testing.assert_allclose(metric()(y, p, mask[:, 0]), metric()(y[samples], p[samples]))


def test_what_is_left_out_may_be_nan():
    p = ESTIMATES.copy()
    p[0] = np.nan
    w = np.ones(N)
    w[0] = 0
    assert metrics.MeanSquaredError()(NUMBERS, p, w) == pytest.approx(
        metrics.MeanSquaredError()(NUMBERS[1:], p[1:])
    )


def test_of_nothing():
    for name in ("acc", "f1", "auc", "r2", "mse", "perplexity"):
        assert np.isnan(metrics.get(name).result())
    assert np.isnan(metrics.AUC()([1, 1], [0.2, 0.3]))
    assert metrics.Precision()([1, 0], [0.1, 0.2]) == 0
    assert metrics.R2Score()([2.0, 2.0], [2.0, 2.0]) == 1
    assert metrics.R2Score()([2.0, 2.0], [2.0, 2.1]) == 0


def _gaps(a):
    return np.repeat(a, 2, axis=0)[::2]


@pytest.mark.parametrize("axes", [(50,), (10, 5)])
@pytest.mark.parametrize("scores", ["f4", "f8", ">f4", "f2", "i8", "gaps", "fortran"])
@pytest.mark.parametrize("targets", ["i8", "i4", "u1", "f8", "rows", "other rows", "gaps"])
def test_accuracy_in_whatever_form(axes, scores, targets):
    """Scores with many ties and some nan, by the kernel or not, against NumPy's argmax."""
    p = RNG.integers(0, 3, (*axes, K)).astype("f4")
    if scores != "i8":
        p[RNG.random(p.shape) < 0.1] = np.nan
    forms = {"gaps": _gaps, "fortran": np.asfortranarray}
    p = forms[scores](p) if scores in forms else p.astype(scores)
    labels = RNG.integers(0, K, axes)
    if "rows" in targets:
        y = np.eye(K, dtype=p.dtype if targets == "rows" else "f8")[labels]
    else:
        labels[:2] = K  # a class that does not occur
        y = _gaps(labels) if targets == "gaps" else labels.astype(targets)
    assert metrics.Accuracy()(y, p) == (p.argmax(-1) == labels).mean()
    weight = RNG.random(axes)
    wanted = np.average(p.argmax(-1) == labels, weights=weight)
    assert metrics.Accuracy()(y, p, weight) == pytest.approx(wanted)


def test_rows_that_differ_in_the_last_places_only():
    """Targets of float64 are not rounded to the dtype of the outputs."""
    p, y = np.array([[0.0, 1.0]], "f4"), np.array([[1.0, 1 + 1e-12]])
    assert metrics.Accuracy()(y, p) == 1


def test_a_score_that_is_nan_is_not_among_the_best():
    assert metrics.TopKAccuracy(1)([0], [[np.nan, 0.3, 0.2]]) == 0
    assert metrics.TopKAccuracy(1)([1], [[0.1, 0.3, 0.3]]) == 1


# --------------------------------------------------------------------------- names and look-up


@pytest.mark.parametrize(
    "name, cls, called",
    [
        ("accuracy", metrics.Accuracy, "acc"),
        ("acc", metrics.Accuracy, "acc"),
        ("sparse_categorical_accuracy", metrics.CategoricalAccuracy, "acc"),
        ("binary_accuracy", metrics.BinaryAccuracy, "binary_accuracy"),
        ("top_k", metrics.TopKCategoricalAccuracy, "top_k"),
        ("mse", metrics.MeanSquaredError, "mse"),
        ("mean_squared_error", metrics.MeanSquaredError, "mean_squared_error"),
        ("MAE", metrics.MeanAbsoluteError, "MAE"),
        ("R2Score", metrics.R2Score, "R2Score"),
        ("auc", metrics.AUC, "auc"),
        ("f1", metrics.F1Score, "f1"),
    ],
)
def test_get_by_name(name, cls, called):
    metric = metrics.get(name)
    assert type(metric) is cls and metric.name == called


def test_an_object_is_called_by_its_class():
    assert metrics.TopKAccuracy(3).name == "top_k_accuracy"
    assert metrics.ConfusionMatrix().name == "confusion_matrix"
    assert metrics.TopKAccuracy(3, name="top_3").name == "top_3"


@pytest.mark.parametrize(
    "metric",
    ["f1", metrics.Precision(average=None, threshold=0.2, name="mine"), metrics.AUC("PR"), "top_k"],
)
def test_configurations_go_round(metric):
    metric = metrics.get(metric)
    again = metrics.get(to_json_type(metric))
    assert type(again) is type(metric) and again.get_config() == metric.get_config()


def test_a_function_is_a_metric():
    def off_by(y_true, y_pred):
        return np.abs(y_true - y_pred).max(axis=1)

    metric = metrics.get(off_by)
    assert metric.name == "off_by"
    wanted = np.abs(NUMBERS - ESTIMATES).max(1)
    assert in_batches(metric, NUMBERS, ESTIMATES) == pytest.approx(wanted.mean())
    assert metrics.get(lambda y, p: 2.0)(NUMBERS, ESTIMATES) == 2


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: metrics.get("foo"), ValueError, "Unknown metric 'foo'. Valid names: .*perplexity"),
        (lambda: metrics.get(3), TypeError, "The metric must be a name"),
        (lambda: metrics.TopKAccuracy(0), ValueError, "`k` must be an integer >= 1"),
        (lambda: metrics.Precision("mean"), ValueError, "`average` must be one of 'macro'"),
        (lambda: metrics.AUC("pr"), ValueError, "`curve` must be one of 'ROC', 'PR'"),
        (lambda: metrics.F1Score()(LABELS + 1, LOGITS), ValueError, r"lie in \[0, 4\).*label=4"),
        (lambda: metrics.TopKAccuracy()(YES, SCORES), ValueError, r"\(N, ..., K\), K > 1"),
        (lambda: metrics.Accuracy()(LABELS[:3], LOGITS), ValueError, r"Received: shape \(3,\)"),
        (lambda: metrics.R2Score()(NUMBERS[:, :2], ESTIMATES), ValueError, r"shape \(83, 3\)"),
        (
            lambda: metrics.F1Score()(LABELS, LOGITS, WEIGHTS[:4]),
            ValueError,
            r"`sample_weight` must have a weight for each item, shape \(83,\).*shape=\(4,\)",
        ),
        (lambda: metrics.Accuracy()(LABELS, LOGITS, ["a"] * N), TypeError, "must be numbers"),
        (lambda: metrics.Metric(), NotImplementedError, "must define reset_state"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -------------------------------------------------------------------------------- in a model


def compiled(layer, loss, **kwargs):
    model = npdl.Model([layer])
    model.compile(loss, "sgd", **kwargs)
    return model


def test_of_a_model():
    x = RNG.normal(size=(N, 5)).astype("f4")
    names = ["accuracy", "top_k", "f1", "auc", metrics.ConfusionMatrix(), "perplexity"]
    model = compiled(Softmax(K, n_in=5), SCCE, metrics=names)
    history = model.fit(x, LABELS, epochs=2, validation_split=0.4, verbose=0, batch_size=7)
    own = ["loss", "acc", "top_k", "f1", "auc", "confusion_matrix", "perplexity"]
    assert list(history.history) == [*own, *(f"val_{name}" for name in own)]
    score = model.evaluate(x, LABELS, batch_size=9)
    p = model.predict(x)
    loss, acc, top, f1, auc, confusion, perplexity = score
    assert score.loss == loss and score.accuracy == acc
    assert f1 == pytest.approx(sk.f1_score(LABELS, p.argmax(1), average="macro"))
    assert auc == pytest.approx(sk.roc_auc_score(ONE_HOT, p), rel=1e-6)
    assert perplexity == pytest.approx(np.exp(loss), rel=1e-5)
    assert confusion.sum() == N and np.trace(confusion) == round(acc * N) and top == 1
    figures = model.evaluate(x, LABELS, return_dict=True)
    assert list(figures) == own and figures["accuracy"] == figures["acc"]
    with pytest.raises(KeyError):
        figures["val_accuracy"]


def test_metrics_replace_the_automatic_accuracy():
    model = compiled(Softmax(K, n_in=5), SCCE, metrics=["f1"])
    loss, f1 = model.evaluate(np.ones((N, 5)), LABELS)
    assert 0 <= f1 <= 1 < loss
    assert (
        len(compiled(Softmax(K, n_in=5), SCCE, metrics=[]).evaluate(np.ones((N, 5)), LABELS)) == 2
    )


@pytest.mark.parametrize("loss", [BCE(), BCE(from_logits=True), Hinge()])
def test_the_loss_defines_the_threshold(loss):
    model = compiled(Linear(3, n_in=5), loss, metrics=["accuracy", "f1", "auc"])
    x = RNG.normal(size=(N, 5)).astype("f4")
    y = ONE_HOT[:, :3]
    z = model.predict(x)
    cut = 0.0 if loss.from_logits or isinstance(loss, Hinge) else 0.5
    _, acc, f1, auc = model.evaluate(x, y)
    assert acc == pytest.approx(((z > cut) == y).mean())
    assert f1 == pytest.approx(sk.f1_score(y, z > cut, average="macro"))
    assert auc == pytest.approx(sk.roc_auc_score(y, z), rel=1e-6)


def test_weighted_metrics_count_by_sample_weights_and_others_do_not():
    x = RNG.normal(size=(N, 5)).astype("f4")
    model = compiled(Dense(3, n_in=5), "mse", metrics=["mae"], weighted_metrics=["mae", "r2"])
    figures = model.evaluate(x, NUMBERS, sample_weight=WEIGHTS, return_dict=True, batch_size=8)
    p = model.predict(x)
    assert figures["mae"] == pytest.approx(sk.mean_absolute_error(NUMBERS, p), rel=1e-5)
    weighted = sk.mean_absolute_error(NUMBERS, p, sample_weight=WEIGHTS)
    assert figures["weighted_mae"] == pytest.approx(weighted, rel=1e-5)
    assert figures["r2"] == pytest.approx(sk.r2_score(NUMBERS, p, sample_weight=WEIGHTS), rel=1e-5)
    loss = (WEIGHTS[:, None] * (p - NUMBERS) ** 2).mean()  # over the number of items, as in Keras
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)


def test_steps_of_padding_count_nowhere():
    x = RNG.normal(size=(9, T, 2)).astype("f4")
    y = RNG.integers(0, K, (9, T))
    mask = (np.arange(T) < RNG.integers(1, T + 1, 9)[:, None]).astype(np.uint8)
    model = npdl.Model([SimpleRNN(n_out=3, n_in=2, return_sequence=True), Softmax(K)])
    model.compile("scce", metrics=["acc", "perplexity"])
    p = model.predict((x, mask))[mask == 1]
    real = y[mask == 1]
    for size in (4, 9):
        loss, acc, perplexity = model.evaluate({"input": x, "mask": mask}, y, batch_size=size)
        wanted = -np.log(p[np.arange(len(p)), real]).mean()
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert perplexity == pytest.approx(np.exp(wanted), rel=1e-5)
        assert acc == pytest.approx((p.argmax(1) == real).mean())


def test_a_class_that_is_ignored_counts_nowhere():
    x = RNG.normal(size=(N, 5)).astype("f4")
    y = np.where(WEIGHTS == 0, -1, LABELS)
    model = compiled(Softmax(K, n_in=5), SCCE(ignore_class=-1), metrics=["acc", "top_k", "auc"])
    other = compiled(model.layers[0], SCCE, metrics=["acc", "top_k", "auc"])
    np.testing.assert_allclose(
        model.evaluate(x, y, batch_size=8), other.evaluate(x[y >= 0], y[y >= 0]), rtol=1e-5
    )
    model.fit(x, y, epochs=1, verbose=0)


def test_classes_are_averaged_by_a_sum_of_numpy():
    """A product, by a BLAS, would have other bits on other CPUs."""
    for size in range(50, 60):
        y, wrong = np.random.default_rng(size).integers(0, size, (2, 9 * size))
        p = np.eye(size)[np.where(y % 3, y, wrong)]
        each, mean = (in_batches(metrics.F1Score(kind), y, p) for kind in (None, "macro"))
        assert mean == each.sum() / size


def test_two_metrics_of_one_name():
    with pytest.raises(ValueError, match=r"Each metric must have a name of its own.*'mae'"):
        compiled(Linear(3, n_in=5), "mse", metrics=["mae", "mae"])
