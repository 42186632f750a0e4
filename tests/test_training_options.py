"""Losses, optimizers, schedules and regularizers together, in models that train."""

from __future__ import annotations

import json

import numpy as np
import pytest

import npdl
from npdl import objectives, optimizers, regularizers, schedules
from npdl.layers import Convolution, Dense, Embedding, Flatten, Linear, Softmax
from npdl.optimizers import SGD, AdamW

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
ROWS = np.eye(3, dtype=np.float32)[LABELS]


def chain(activation="softmax", **kwargs):
    npdl.utils.set_seed(3)
    return npdl.Model([Dense(8, n_in=4), Dense(3, activation=activation, **kwargs)])


HEADS = {  # the head, and the targets, that make sense for a loss
    "SoftmaxCategoricalCrossEntropy": ("softmax", LABELS),
    "HellingerDistance": ("softmax", LABELS),
    "KLDivergence": ("softmax", ROWS),
    "BinaryCrossEntropy": ("sigmoid", ROWS),
    "CategoricalHinge": ("linear", LABELS),
    "Hinge": ("linear", ROWS),
    "SquaredHinge": ("linear", 2 * ROWS - 1),
    "CosineSimilarity": ("linear", ROWS),
    "Poisson": ("softplus", 3 * ROWS),
    "MeanSquaredError": ("linear", ROWS),
    "MeanAbsoluteError": ("linear", ROWS),
    "Huber": ("linear", ROWS),
    "LogCosh": ("linear", ROWS),
    "MeanAbsolutePercentageError": ("linear", ROWS + 1),
    "MeanSquaredLogarithmicError": ("softplus", 3 * ROWS),
    "FocalCrossEntropy": ("softmax", LABELS),
    "BinaryFocalCrossEntropy": ("sigmoid", ROWS),
}


def test_every_loss_is_listed():
    assert {cls.__name__ for cls in objectives._registry._classes.values()} >= HEADS.keys()
    for name in objectives.__all__:
        cls = getattr(objectives, name)
        if isinstance(cls, type) and cls not in (objectives.Objective, objectives.CTC):
            assert cls.__name__ in HEADS


@pytest.mark.parametrize("loss", HEADS)
def test_every_loss_trains(loss):
    activation, targets = HEADS[loss]
    model = chain(activation)
    model.compile(loss, optimizers.Adam(lr=0.02))
    first = model.evaluate(X, targets).loss
    history = model.fit(X, targets, epochs=15, batch_size=16, verbose=0)
    last = model.evaluate(X, targets).loss
    assert last < first - 0.1 * abs(first)
    assert all(np.isfinite(history.history["loss"]))


OPTIMIZERS = sorted(
    name
    for name in optimizers.__all__
    if isinstance(getattr(optimizers, name), type) and name != "Optimizer"
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_with_everything_on(name):
    rate = {"Adadelta": 3.0, "SGD": 0.5, "Adagrad": 0.1, "Momentum": 0.1}.get(name, 0.02)
    optimizer = optimizers.get(
        name,
        lr=schedules.WarmUp(schedules.CosineDecay(rate, 60), 5),
        global_clipnorm=5.0,
        weight_decay=1e-3,
        exclude_from_weight_decay=["b"],
        gradient_accumulation_steps=2,
        use_ema=True,
        ema_momentum=0.5,
    )
    model = chain(regularizer="l2")
    model.compile("scce", optimizer)
    first = model.evaluate(X, LABELS).loss
    model.fit(X, LABELS, epochs=40, batch_size=16, verbose=0)
    assert optimizer.iterations == 60
    assert model.evaluate(X, LABELS).loss < 0.9 * first


def test_logits_and_softmax_train_alike():
    """A network without softmax, its loss from logits, and the other way round."""
    results = []
    for activation, loss in (("linear", objectives.SCCE(from_logits=True)), ("softmax", "scce")):
        model = chain(activation)
        model.compile(loss, SGD(lr=0.3))
        history = model.fit(X, LABELS, epochs=3, batch_size=16, shuffle=False, verbose=0)
        results.append((history.history, model.evaluate(X, LABELS)))
    (one, score), (other, other_score) = results
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    assert one["acc"] == other["acc"]
    assert score == pytest.approx(other_score, rel=1e-5)


def test_softmax_head_with_a_loss_from_logits_is_not_fused():
    model = chain()
    model.compile(objectives.SCCE(from_logits=True), SGD())
    npdl.testing.check_gradients(model, X[:5], targets=LABELS[:5])
    outputs = model.predict(X)
    want = objectives.SCCE(from_logits=True).forward(outputs, LABELS)
    assert model.evaluate(X, LABELS).loss == pytest.approx(want, rel=1e-5)


def test_accumulated_batches_are_one_large_batch():
    weights = []
    for batch_size, steps in ((48, None), (12, 4)):
        model = chain()
        optimizer = SGD(lr=0.5, gradient_accumulation_steps=steps)
        model.compile("scce", optimizer)
        model.fit(X, LABELS, epochs=3, batch_size=batch_size, shuffle=False, verbose=0)
        assert optimizer.iterations == 3
        weights.append(model.params)
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_ignored_samples_are_as_good_as_gone(fused):
    marked = np.where(np.arange(48) % 3 == 0, -1, LABELS)
    kept = marked != -1
    weights = []
    for x, y in ((X, marked), (X[kept], LABELS[kept])):
        model = chain() if fused else chain("linear")
        loss = objectives.SCCE(ignore_class=-1, from_logits=not fused, label_smoothing=0.1)
        model.compile(loss, SGD(lr=0.5))
        model.fit(x, y, epochs=3, batch_size=48, shuffle=False, verbose=0)
        weights.append(model.params)
        score = model.evaluate(x, y)
    assert model.evaluate(X, marked) == pytest.approx(score, rel=1e-5)
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_loss_of_the_users_own():
    class Own:
        def forward(self, outputs, targets):
            return float(np.square(outputs - targets).mean())

        def backward(self, outputs, targets):
            return 2 * (outputs - targets) / outputs.size

    histories = []
    for loss in (Own(), "mse"):
        model = chain("linear")
        model.compile(loss, SGD(lr=0.1))
        history = model.fit(X, ROWS, epochs=3, batch_size=16, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)


def test_the_loss_that_is_shown_holds_the_penalty():
    model = chain("linear", regularizer=regularizers.L2(0.1))
    model.compile("mse", SGD(lr=0.0))
    history = model.fit(X, ROWS, epochs=1, verbose=0, validation_data=(X, ROWS))
    bare = np.square(model.predict(X) - ROWS).mean()
    want = bare + 0.1 * np.square(model.layers[1].W).sum()
    assert history.history["loss"] == pytest.approx([want], rel=1e-5)
    assert history.history["val_loss"] == pytest.approx([want], rel=1e-5)
    assert model.evaluate(X, ROWS).loss == pytest.approx(want, rel=1e-5)


def test_all_of_it_goes_through_a_file(tmp_path):
    npdl.utils.set_seed(0)
    model = npdl.Model(
        [
            Embedding(input_size=5, n_out=4, nb_seq=6, regularizer="l1"),
            npdl.layers.DimShuffle(1),
            Convolution(2, 3, regularizer=regularizers.L1L2(1e-4, 1e-3)),
            Flatten(),
            Linear(4, regularizer="l2"),
            Softmax(3, regularizer=regularizers.L2(1e-4)),
        ]
    )
    x, y = RNG.integers(0, 5, (20, 6)), RNG.integers(0, 3, 20)
    optimizer = AdamW(
        lr=schedules.OneCycle(0.01, 20), clipnorm=1.0, gradient_accumulation_steps=3, use_ema=True
    )
    model.compile(objectives.SCCE(label_smoothing=0.1, ignore_class=2), optimizer)
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    assert optimizer.get_state()["pending"] == 10 % 3
    model.save(tmp_path / "model")
    other = npdl.load_model(tmp_path / "model")
    assert json.dumps(other.to_json()) == json.dumps(model.to_json())
    assert other.penalty() == model.penalty() > 0
    for one in (model, other):
        npdl.utils.set_seed(5)
        one.fit(x, y, epochs=2, batch_size=4, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.params, other.params))
