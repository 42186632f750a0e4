"""Items that are masked, ignored or of weight 0 never count, in losses, metrics and training."""

import numpy as np
import pytest
from fit_cases import fit
from objective_cases import REDUCTIONS, TARGETS, probabilities

import npdl
from npdl import Model, layers, metrics, objectives
from npdl.layers import LSTM, Linear, Softmax
from npdl.objectives import BCE, MSE, SCCE, Hinge
from npdl.optimizers import SGD
from npdl.utils import set_seed

RNG = np.random.default_rng(5)
MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], np.uint8)
REAL = MASK != 0


def sequences(name, dtype=np.float64):
    """A loss, outputs (3, 4, 5), targets, and weights of which one is 0."""
    make, t = TARGETS[name]
    index = np.random.default_rng(6).integers(0, 4, (3, 4))
    index[1, 2] = 3  # not of an ignored class
    p = probabilities(3, 4, 5).astype(dtype)
    weights = np.round(RNG.uniform(0.5, 2, (3, 4)), 2)
    weights[1, 2] = 0
    return make, p, t[index], weights


def spoiled(p, t, out):
    """The same, with arbitrary values where `out` is True."""
    p, t = p.copy(), t.astype(float) if t.dtype.kind == "f" else t.copy()
    p[out] = np.nan
    t[out] = np.nan if t.dtype.kind == "f" else 99
    return p, t


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TARGETS)
def test_masked_and_weightless_items_of_every_loss(name, reduction):
    """Value and gradient are those of only the real steps, whatever the others hold."""
    make, p, t, weights = sequences(name)
    loss = make(reduction=reduction)
    weights[2, 1] = np.nan  # of a step that is masked
    bad = spoiled(p, t, ~REAL | (weights == 0))
    value, grad = (call(*bad, weights, MASK) for call in (loss.forward, loss.backward))
    alone = p[REAL], t[REAL], weights[REAL]
    want, want_grad = loss.forward(*alone), loss.backward(*alone)
    if reduction == "none":
        assert not value[~REAL].any()
        value = value[REAL]
    np.testing.assert_allclose(value, want, rtol=1e-14)
    np.testing.assert_allclose(grad[REAL], want_grad, rtol=1e-14)
    assert not grad[~REAL | (weights == 0)].any()
    assert loss.count(*bad, MASK) == loss.count(p[REAL], t[REAL])
    nothing = np.zeros_like(MASK)
    assert np.sum(loss.forward(*bad, None, nothing)) == 0
    assert not loss.backward(*bad, None, nothing).any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("make", [SCCE, BCE])
def test_fused_losses(make, reduction):
    z = RNG.normal(size=(3, 4, 5))
    t = RNG.integers(0, 5, (3, 4)) if make is SCCE else RNG.integers(0, 2, (3, 4, 5)) * 1.0
    weights = np.where(RNG.random((3, 4)) < 0.3, 0.0, 2.0)
    out = ~REAL | (weights == 0)
    loss, plain = make(reduction=reduction), make(reduction=reduction, from_logits=True)
    value, _, cache = loss.forward_logits(*spoiled(z, t, out), weights, MASK)
    np.testing.assert_allclose(value, plain.forward(z, t, weights, MASK), rtol=1e-12)
    want = plain.backward(z, t, weights, MASK)
    np.testing.assert_allclose(loss.backward_logits(cache), want, rtol=1e-12, atol=1e-16)


def test_ignored_class_and_mask_together():
    """The batch of keras-team/keras#2546: the mean is one over the real steps that are labelled."""
    p, labels = probabilities(3, 4, 5), RNG.integers(0, 5, (3, 4))
    labels[1, 0] = -1
    by_hand = -np.log(np.take_along_axis(p, np.maximum(labels, 0)[..., None], 2)[..., 0])
    counts = REAL & (labels != -1)
    for padding in (-1, 0, 77):
        y = np.where(REAL, labels, padding)
        for reduction, want in (("mean", by_hand[counts].mean()), ("sum", by_hand[counts].sum())):
            loss = SCCE(ignore_class=-1, reduction=reduction)
            assert loss.forward(p, y, None, MASK) == pytest.approx(want)
            assert loss.count(p, y, MASK) == counts.sum()


def per_step(loss, head=None, **kwargs):
    set_seed(1)
    model = Model([LSTM(n_out=4, n_in=3, return_sequence=True), head or Softmax(3)])
    model.compile(loss, SGD(lr=0.5), **kwargs)
    return model


@pytest.mark.parametrize("loss", [SCCE, SCCE(ignore_class=-1), SCCE(reduction="sum"), "hed"])
def test_padding_changes_nothing_in_training(loss):
    x, y = RNG.normal(size=(8, 4, 3)).astype("f4"), RNG.integers(0, 3, (8, 4))
    mask = np.ones((8, 4), "u1")
    mask[:3, 2:] = 0
    longer = [np.pad(a, [(0, 0), (0, 9)] + [(0, 0)] * (a.ndim - 2)) for a in (x, mask)]
    labels = np.where(longer[1], np.pad(y, [(0, 0), (0, 9)]), -1)
    results = []
    for inputs, targets in (((x, mask), np.where(mask, y, -1)), (tuple(longer), labels)):
        model = per_step(loss, metrics=["acc", "perplexity", "f1", "auc", "top_k"])
        history = fit(model, inputs, targets, batch_size=3, shuffle=False, epochs=3)
        score = model.evaluate(inputs, targets, batch_size=5)
        assert score == pytest.approx(model.evaluate(inputs, targets), rel=1e-5)
        results.append([*history.history["loss"], *history.history["f1"], *score])
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_masked_losses_of_float64_are_exact():
    p, t = RNG.normal(size=(2, 3, 2)), RNG.normal(size=(2, 3, 2))
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    want = np.square(p - t)[mask == 1].mean()
    assert MSE().forward(p, t, None, mask) == pytest.approx(want, rel=1e-15)
    with _float64():
        model = Model([LSTM(n_out=2, n_in=3, return_sequence=True), Linear(2)])
        model.compile("mse")
        x = RNG.normal(size=(2, 3, 3))
        p = model.predict((x, mask))
    want = np.square(p - t)[mask == 1].mean()
    assert model.evaluate((x, mask), t).loss == pytest.approx(want, rel=1e-14)


class _float64:
    def __enter__(self):
        npdl.utils.set_dtype("float64")

    def __exit__(self, *error):
        npdl.utils.set_dtype("float32")


def test_targets_of_padding_and_of_weight_0_may_be_nan():
    """Regression step by step, google-research/flood-forecasting#290."""
    x, y = RNG.normal(size=(6, 4, 3)).astype("f4"), RNG.normal(size=(6, 4, 1)).astype("f4")
    mask = np.ones((6, 4), "u1")
    mask[:2, 2:] = 0
    weight = np.ones((6, 4), "f4")
    weight[3, 1] = 0
    results = []
    for targets in (y, np.where((mask * weight)[..., None] == 0, np.nan, y)):
        names = {"metrics": [], "weighted_metrics": ["mae", "r2", "rmse"]}
        model = per_step("mse", Linear(1), **names)
        fit(model, (x, mask), targets, sample_weight=weight, epochs=3, batch_size=4)
        results.append(model.evaluate((x, mask), targets, sample_weight=weight))
    assert np.isfinite(results[0]).all() and results[0] == results[1]


@pytest.mark.parametrize("make", [lambda: MSE(), lambda: Plain(), lambda: weighted_square])
def test_losses_that_know_no_masks(make):
    """A loss with `sample_weight` gets the mask as weights; a function takes both."""
    x, y = RNG.normal(size=(6, 4, 3)).astype("f4"), RNG.normal(size=(6, 4, 1)).astype("f4")
    mask = np.ones((6, 4), "u1")
    mask[:4, 2:] = 0
    model, other = per_step(make(), Linear(1)), per_step("mse", Linear(1))
    for m in (model, other):
        fit(m, (x, mask), np.where(mask[..., None], y, 5), epochs=2, batch_size=3)
    np.testing.assert_allclose(*(m.layers[0].AllW for m in (model, other)), rtol=1e-5, atol=1e-6)


class Plain:
    def forward(self, outputs, targets, sample_weight):
        return (sample_weight[..., None] * np.square(outputs - targets)).mean()

    def backward(self, outputs, targets, sample_weight):
        return sample_weight[..., None] * 2 * (outputs - targets) / outputs.size


def weighted_square(outputs, targets, mask):
    off = (outputs - targets) * mask[..., None]
    return np.square(off).sum() / mask.sum(), 2 * off / mask.sum()


# --------------------------------------------------------------------------- weights of classes


def test_class_weights_of_hinge():
    """As in Keras, -1 is class 0. All outputs are 0, so that each loss is 1."""
    for y in (np.array([-1, 1, 1, 1]), np.array([0, 1, 1, 1]), np.array([[-1.0], [1], [1], [1]])):
        model = Model([Linear(1, n_in=2, init="zero")])
        model.compile("hinge", SGD(lr=0.0))
        loss = model.train_on_batch(np.zeros((4, 2)), y, class_weight={0: 1.0, 1: 10.0}).loss
        assert loss == pytest.approx(31 / 4)


@pytest.mark.parametrize("ignored", [-1, -100, 255])
def test_class_weights_with_an_ignored_class(ignored):
    x, y = RNG.normal(size=(6, 2)), np.array([0, 1, 2, ignored, ignored, 1])
    model = Model([Softmax(3, n_in=2)])
    model.compile(SCCE(ignore_class=ignored), SGD(lr=0.0))
    p = model.predict(x)
    kept = y != ignored
    values = -np.log(p[kept, y[kept]])
    for weights in ({0: 1.0, 1: 2.0}, np.array([1.0, 2.0, 1.0])):
        want = (values * np.array([1, 2, 1, 2])).mean()
        assert model.train_on_batch(x, y, class_weight=weights).loss == pytest.approx(want)
        history = fit(model, x, y, class_weight=weights, batch_size=4, epochs=1)
        assert history.history["loss"] == [pytest.approx(want)]
    balanced = np.array([4 / 3, 4 / 6, 4 / 3])  # 1, 2 and 1 of the 4 that count
    history = fit(model, x, y, class_weight="balanced", epochs=1)
    assert history.history["loss"] == [pytest.approx((values * balanced[y[kept]]).mean())]


def test_tables_of_class_weights_are_not_as_long_as_their_largest_key():
    model = Model([Softmax(3, n_in=2)])
    model.compile("scce")
    x, y = RNG.normal(size=(6, 2)), np.arange(6) % 3
    fit(model, x, y, class_weight={10**12: 2.0}, epochs=1)
    for shift in (10**9, -5):
        with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\)"):
            model.train_on_batch(x, y + shift, class_weight={0: 2.0})
    for wrong, message in (
        ({0: "a"}, r"`class_weight\[0\]` must be a number"),
        ("heavy", "or, for arrays, 'balanced'"),
        ({2**70: 1.0}, "class numbers as keys"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            fit(model, x, y, class_weight=wrong)
    with pytest.raises(ValueError, match="for arrays, 'balanced'"):
        fit(model, [(x, y)], class_weight="balanced")


def test_labels_with_an_axis_more_as_in_keras():
    x, y = RNG.normal(size=(30, 2)).astype("f4"), RNG.integers(0, 3, 30)
    results = []
    for labels in (y, y[:, None]):
        for loss in ("scce", "hed"):
            set_seed(1)
            model = Model([Softmax(3, n_in=2)])
            model.compile(loss, SGD(lr=0.1), metrics=["acc", "f1", "top_k", "auc"])
            fit(model, x, labels, class_weight={1: 3.0}, batch_size=7)
            results.append(model.evaluate(x, labels))
    assert results[:2] == results[2:]
    with pytest.raises(ValueError, match=r"`Y` must lie in \[0, 3\)\. Received: label=3"):
        fit(model, x, y[:, None] + 1)


# -------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("name", ["acc", "f1", "auc", "perplexity", "top_k", "confusion_matrix"])
def test_metrics_of_masked_items_only(name):
    make = {"confusion_matrix": metrics.ConfusionMatrix}.get(name, lambda: metrics.get(name))
    p, y, w = RNG.random((9, 4)), RNG.integers(0, 4, 9), np.array([1, 0, 2, 0, 1, 1, 3, 0, 1.0])
    bad, labels = p.copy(), y.copy()
    bad[w == 0], labels[w == 0] = np.nan, -7
    np.testing.assert_allclose(make()(labels, bad, w), make()(y[w > 0], p[w > 0], w[w > 0]))
    metric = make()
    metric.update_state(labels, bad, np.zeros(9))
    metric.update_state(y, p, w)
    np.testing.assert_allclose(metric.result(), make()(y, p, w))


def test_r2_with_weights_of_elements():
    p, t, w = RNG.random((8, 2)), RNG.random((8, 2)), RNG.integers(0, 2, (8, 2)) * 1.0
    w[:4, 0] = 0  # nothing of the first output in the first batch
    w[5, 0] = 1
    t[w == 0] = np.nan
    metric = metrics.R2Score()
    for part in (slice(4), slice(4, 8)):
        metric.update_state(t[part], p[part], w[part])
    each = [metrics.R2Score()(t[w[:, i] > 0, i], p[w[:, i] > 0, i]) for i in (0, 1)]
    assert metric.result() == pytest.approx(np.mean(each))


def test_hinge_says_that_it_classifies():
    assert [cls().classifies for cls in (SCCE, BCE, Hinge, MSE)] == [True, True, True, False]
    assert [cls().threshold for cls in (SCCE, BCE, Hinge)] == [None, 0.5, 0.0]
    assert BCE(from_logits=True).threshold == 0 and SCCE().takes_labels

    class Own(objectives.Rowwise):
        classifies = True

        def values(self, p, t):
            return np.square(p - self._rows(p, t)).sum(-1)

        def gradient(self, p, t):
            return 2 * (p - self._rows(p, t))

    model = Model([Softmax(3, n_in=2)])
    model.compile(Own())
    x, y = RNG.normal(size=(6, 2)), np.arange(6) % 3
    assert model.evaluate(x, y).accuracy is not None
    npdl.testing.check_gradients(Own(), probabilities(6, 3), targets=y)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Convolution1D(4, 3, padding="same"),
        lambda: layers.SeparableConvolution1D(4, 3, padding="same"),
        lambda: layers.Dense(4, activation="exponential"),
        lambda: layers.Residual([layers.Dense(3, activation="exponential")]),
        lambda: layers.LayerNormalization(),
        lambda: layers.MultiHeadAttention(1, 2),
        lambda: layers.LSTM(n_out=4, return_sequence=True),
        lambda: layers.MaxPooling1D(2, stride=1, padding="same"),
    ],
)
@pytest.mark.parametrize("held", [7.0, 1e30, np.nan, -np.inf])
def test_the_content_of_masked_steps_has_no_effect_on_training(layer, held):
    """Not through a window over neighbours, nor where the values overflow."""
    numbers = np.random.default_rng(0)
    x, labels = numbers.standard_normal((4, 5, 3)).astype("f4"), numbers.integers(0, 3, (4, 5))
    mask = np.ones((4, 5))
    mask[:2, 3:] = mask[2, :2] = 0
    weights = []
    for value in (0, held):
        x[mask == 0] = value
        npdl.utils.set_seed(1)
        model = npdl.Model([layer(), layers.LayerNormalization(), layers.Softmax(3)])
        model.compile("scce", "sgd")
        given = x.copy()
        model.fit((given, mask), labels, epochs=2, verbose=0)
        assert np.array_equal(given, x, equal_nan=True)
        weights.append(model.get_weights())
    for zeros, others in zip(*weights):
        assert zeros.tobytes() == others.tobytes()
