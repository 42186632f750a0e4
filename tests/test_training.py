"""`npdl.training`: the loops, their results, and their errors."""

import io
import itertools
import re
import sys
import warnings

import numpy as np
import pytest
from fit_cases import LABELS, X

import npdl
from npdl import Model
from npdl.layers import (
    BatchNormal,
    Dense,
    Dropout,
    Flatten,
    Layer,
    Linear,
    SimpleRNN,
    Softmax,
)
from npdl.objectives import MSE, SCCE
from npdl.optimizers import SGD
from npdl.utils import one_hot, set_seed


def classifier(optimizer=None, **kwargs):
    model = Model([Dense(8, n_in=4), Softmax(3)])
    model.compile("scce", optimizer or npdl.optimizers.Adam(lr=0.05), **kwargs)
    return model


def fit(model, x=X, y=LABELS, **kwargs):
    return model.fit(x, y, **{"epochs": 2, "verbose": False, **kwargs})


# ------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("targets", ["numbers", "one-hot", "list", "float numbers"])
def test_it_learns_from_any_form_of_labels(targets):
    y = {
        "numbers": LABELS,
        "one-hot": one_hot(LABELS),
        "list": LABELS.tolist(),
        "float numbers": LABELS.astype(float),
    }[targets]
    model = classifier()
    history = fit(model, y=y, epochs=30)
    assert history.history["loss"][-1] < 0.2 * history.history["loss"][0]
    loss, accuracy = model.evaluate(X, y)
    assert accuracy > 0.95 and loss < 0.2
    assert model.accuracy(model.predict(X), y) == pytest.approx(accuracy)


def test_a_step_is_gradient_descent_on_the_mean_over_the_batch(float64):
    """By hand, in float64: softmax regression, one step on all samples."""
    model = Model([Softmax(3, n_in=4)])
    model.compile("scce", SGD(lr=0.5))
    layer = model.layers[0]
    w, b = layer.W.copy(), layer.b.copy()
    x, t = X.astype(float), one_hot(LABELS)
    e = np.exp(x @ w + b)
    p = e / e.sum(1, keepdims=True)
    history = fit(model, x=x, epochs=1, batch_size=70)
    np.testing.assert_allclose(layer.W, w - 0.5 * x.T @ (p - t) / 70, rtol=1e-12)
    np.testing.assert_allclose(layer.b, b - 0.5 * (p - t).mean(0), rtol=1e-12)
    wanted = -np.log(p[np.arange(70), LABELS]).mean()
    assert history.history["loss"] == [pytest.approx(wanted, rel=1e-12)]


def test_softmax_and_cross_entropy_fused_or_not_are_the_same_step():
    class Unfused(SCCE):
        pass

    results = []
    for loss in (SCCE(), Unfused()):
        set_seed(1)
        model = Model([Dense(8, n_in=4), Softmax(3)])
        model.compile(loss, SGD(lr=0.1))
        fit(model, epochs=3)
        results.append(model.predict(X))
    np.testing.assert_allclose(*results, rtol=1e-4)


def test_a_head_of_ones_own_is_asked():
    class Doubt(Softmax):
        def forward(self, input, train=True):
            return 0.5 * super().forward(input, train) + 0.5 / 3

        def backward(self, pre_grad):
            return super().backward(0.5 * np.asarray(pre_grad))

    model = Model([Doubt(3, n_in=4)])
    model.compile("scce", SGD(lr=0.0))
    history = fit(model)
    assert history.history["loss"][0] == pytest.approx(model.evaluate(X, LABELS).loss, rel=1e-5)


def test_fused_loss_survives_logits_that_saturate_softmax():
    model = classifier(SGD(lr=0.01))
    history = fit(model, x=1e4 * X, epochs=3)
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(model.predict(1e4 * X)).all()


def test_the_same_seed_gives_the_same_bits():
    runs = []
    for _ in range(2):
        set_seed(9)
        model = Model([Dense(8, n_in=4), Dropout(0.3), Softmax(3)])
        model.compile()
        runs.append((fit(model, epochs=3).history, model.predict(X)))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_numpys_global_state_is_not_touched():
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    fit(classifier())
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], before)  # noqa: NPY002


@pytest.mark.parametrize("layout", ["plain", "read-only", "F", "strided", "float64"])
def test_the_callers_arrays_are_not_changed(layout):
    x = {
        "plain": X.copy(),
        "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
        "F": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=0)[::2],
        "float64": X.astype(float),
    }[layout]
    y = LABELS.copy()
    set_seed(1)
    model = classifier()
    fit(model, x=x, y=y, validation_split=0.2)
    model.evaluate(x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, LABELS)
    set_seed(1)
    other = classifier()
    fit(other, validation_split=0.2)
    np.testing.assert_allclose(model.predict(x), other.predict(X), rtol=1e-4)


def test_binary_classification():
    model = Model([Dense(1, n_in=4, activation="sigmoid")])
    model.compile("bce", npdl.optimizers.Adam(lr=0.1))
    y = (LABELS > 0).astype(int)
    for targets in (y, y[:, None]):
        history = fit(model, y=targets, epochs=40)
    assert history.history["acc"][-1] > 0.9
    wanted = ((model.predict(X)[:, 0] > 0.5) == y).mean()
    assert model.evaluate(X, y).accuracy == pytest.approx(wanted)


def test_regression_has_no_accuracy():
    model = Model([Linear(2, n_in=4)])
    model.compile(MSE, SGD(lr=0.1))
    y = X @ np.array([[1, 2], [0, -1], [-2, 1], [0.5, 0]])
    history = fit(model, y=y, epochs=200, validation_split=0.1)
    assert set(history.history) == {"loss", "val_loss"}
    loss, accuracy = model.evaluate(X, y)
    assert loss < 1e-2 and accuracy is None
    assert loss == pytest.approx(((model.predict(X) - y) ** 2).mean(), rel=1e-4)


def test_sequences_with_a_label_at_each_step():
    x = np.random.default_rng(1).normal(size=(30, 6, 2)).astype("f4")
    y = (x.cumsum(1)[..., 0] > 0).astype(int)
    model = Model([SimpleRNN(n_out=8, n_in=2, return_sequence=True), Softmax(2)])
    model.compile("scce", npdl.optimizers.Adam(lr=0.02))
    history = fit(model, x=x, y=y, epochs=40, batch_size=7)
    assert history.history["acc"][-1] > 0.9


class Bias(Layer):
    """A user's layer: neither `train`, nor super().__init__, nor parameters of npdl's kind."""

    def __init__(self):
        self.b, self.db = np.zeros(4, np.float32), None

    def connect_to(self, prev_layer=None):
        self.out_shape = prev_layer.out_shape

    def forward(self, input):
        return input + self.b

    def backward(self, pre_grad):
        self.db = pre_grad.sum(axis=0)
        return pre_grad

    @property
    def params(self):
        return [self.b]

    @property
    def grads(self):
        return [self.db]


@pytest.mark.parametrize("place", ["first", "middle"])
def test_a_layer_of_ones_own_trains(place):
    layers = [Bias(), Dense(4), Softmax(3)]
    if place == "middle":
        layers = [Dense(4, n_in=4), Bias(), Softmax(3)]
    model = Model(layers)
    model.compile("scce", npdl.optimizers.Adam(lr=0.05))
    history = fit(model, epochs=20)
    assert history.history["acc"][-1] > 0.9
    bias = next(layer for layer in layers if isinstance(layer, Bias))
    assert bias.b.any()


def test_an_optimizer_of_ones_own_trains():
    class Plain(npdl.optimizers.Optimizer):
        def update(self, params, grads):
            for p, g in zip(params, grads):
                p -= 0.5 * g

    model = classifier(Plain())
    assert fit(model, epochs=20).history["acc"][-1] > 0.9


# -------------------------------------------------------------------------- batches and counts


def flat(seen):
    return [*itertools.chain.from_iterable(seen)]


class Recorder(Layer):
    """Passes its input on and records each training batch."""

    def __init__(self):
        self.seen = []

    def forward(self, input, train=True):
        if train:
            self.seen.append(np.array(input))
        return input

    def backward(self, pre_grad):
        return pre_grad


def recording(n=10, **kwargs):
    recorder = Recorder()
    model = Model([recorder, Linear(1)])
    model.compile(MSE, SGD(lr=0.0))
    x = np.arange(n, dtype=np.float32)[:, None]
    history = model.fit(x, x, **{"verbose": False, "epochs": 2, "batch_size": 4, **kwargs})
    return [batch[:, 0].tolist() for batch in recorder.seen], history, model, x


def test_every_sample_counts_in_every_epoch():
    seen, *_ = recording(shuffle=False)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 2


def test_shuffling_takes_a_new_order_each_epoch():
    seen, *_ = recording()
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = flat(seen[:3]), flat(seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second != list(range(10))


def test_validation_split_is_the_last_fraction_before_shuffling():
    seen, history, model, x = recording(validation_split=0.3)
    assert sorted(flat(seen[:2])) == list(range(7))
    loss = ((model.predict(x[7:]) - x[7:]) ** 2).mean()
    assert history.history["val_loss"] == [pytest.approx(loss)] * 2


def test_validation_data_goes_before_the_split():
    held = np.full((5, 1), 3.0, np.float32)
    seen, history, model, _ = recording(validation_split=0.3, validation_data=(held, held))
    assert len(flat(seen)) == 20
    loss = ((model.predict(held) - held) ** 2).mean()
    assert history.history["val_loss"] == [pytest.approx(loss)] * 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_results_are_over_all_samples_for_any_batches(reduction):
    model = Model([Linear(2, n_in=4)])
    model.compile(MSE(reduction=reduction), SGD(lr=0.0))
    y = X[:, :2]
    square = (model.predict(X) - y) ** 2
    wanted = pytest.approx(getattr(square, reduction)(), rel=1e-5)
    for size in (1, 32, 70, 100):
        assert fit(model, y=y, batch_size=size, epochs=1).history["loss"] == [wanted]
        assert model.evaluate(X, y, batch_size=size).loss == wanted


def test_no_gradient_is_computed_below_the_lowest_layer_that_learns():
    class Silent(Recorder):
        def backward(self, pre_grad):
            raise AssertionError("not needed")

    model = Model([Flatten(), Silent(), Dense(3), Softmax(3)])
    model.compile()
    fit(model)


def test_training_continues_where_it_stopped():
    model = classifier()
    fit(model, epochs=15)
    before = model.evaluate(X, LABELS).loss
    fit(model, epochs=15)
    assert model.evaluate(X, LABELS).loss < before
    assert model.optimizer.iterations == 60


# --------------------------------------------------------------------------- history and lines


def test_history_and_report():
    file = io.StringIO()
    history = classifier().fit(X, LABELS, 12, validation_split=0.2, file=file)
    assert history.epochs == list(range(1, 13))
    assert list(history.history) == ["loss", "acc", "val_loss", "val_acc"]
    assert all(len(values) == 12 for values in history.history.values())
    assert all(isinstance(v, float) for values in history.history.values() for v in values)
    lines = file.getvalue().splitlines()
    assert len(lines) == 12 and all(line.isprintable() for line in lines)  # no control codes
    number = r"\d\.\d{4}"
    for i, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"epoch {i:>2}/12  loss {number}    acc {number}    val_loss {number}    "
            rf"val_acc {number} +[\d,]+ samples/s",
            line,
        )
    assert f"loss {history.history['loss'][0]:.4f}" in lines[0]


def test_lines_go_to_standard_output_of_the_moment(capsys, monkeypatch):
    classifier().fit(X, LABELS, max_iter=1)
    assert capsys.readouterr().out.startswith("epoch 1/1  loss ")
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    classifier().fit(X, LABELS, epochs=2)
    assert file.getvalue().count("\n") == 2
    classifier().fit(X, LABELS, epochs=2, verbose=False)
    assert file.getvalue().count("\n") == 2


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": X[:0], "y": LABELS[:0]}, ValueError, r"`X` must hold at least one sample"),
        ({"y": LABELS[:9]}, ValueError, r"the same number of samples. Received: 70 and 9"),
        ({"x": X[:, :3]}, ValueError, r"\(N, ..., 4\). Received: .*\(1, 3\) \(layer 'dense_1'\)"),
        ({"x": X[:, 0]}, ValueError, r"\(N, ..., 4\). Received: .*\(1,\) \(layer 'dense_1'\)"),
        ({"y": LABELS + 1}, ValueError, r"`Y` must lie in \[0, 3\). Received: label=3"),
        ({"y": LABELS - 1}, ValueError, r"must lie in \[0, 3\). Received: label=-1"),
        ({"y": LABELS + 0.5}, ValueError, r"must be whole numbers. Received: label=\d.5"),
        (
            {"y": one_hot(LABELS, 5)},
            ValueError,
            r"Targets must have shape \(70, 3\).*shape=\(70, 5\)",
        ),
        ({"y": np.array(["a"] * 70)}, TypeError, r"`Y` must be an array of numbers.*dtype='str"),
        ({"batch_size": 0}, ValueError, r"`batch_size` must be an integer >= 1.*batch_size=0"),
        ({"batch_size": 2.5}, TypeError, r"`batch_size` must be an integer >= 1.*batch_size=2.5"),
        ({"epochs": 0}, ValueError, r"`epochs` must be an integer >= 1. Received: epochs=0"),
        ({"epochs": None, "max_iter": -1}, ValueError, r"`max_iter` must be .*max_iter=-1"),
        ({"validation_split": 1.0}, ValueError, r"`validation_split` must be a number in \[0, 1\)"),
        ({"validation_split": 0.999}, ValueError, r"divide 70 samples into two parts"),
        ({"validation_data": X}, ValueError, r"must be a pair \(X, Y\). Received: ndarray"),
        ({"validation_data": (X,)}, ValueError, r"must be a pair \(X, Y\). Received: 1 items"),
        ({"validation_data": (X, LABELS[:3])}, ValueError, r"Received: 70 and 3"),
        ({"validation_data": (X, LABELS + 3)}, ValueError, r"must lie in \[0, 3\). Received: lab"),
        ({"validation_data": (X[:, 1:], LABELS)}, ValueError, r"\(1, 3\) \(layer 'dense_1'\)"),
    ],
)
def test_what_fit_cannot_take(change, error, message):
    model = classifier()
    before = model.layers[0].W.copy()
    with pytest.raises(error, match=message):
        fit(model, **change)
    np.testing.assert_array_equal(model.layers[0].W, before)


def test_evaluate_checks_its_data_too():
    for x, y, message in [
        (X, LABELS[:5], "Received: 70 and 5"),
        (X, LABELS + 1, "Received: label=3"),
        (X[:, :2], LABELS, r"\(1, 2\) \(layer 'dense_1'\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            classifier().evaluate(x, y)


# --------------------------------------------------------------------------------- nan and inf


def test_a_layer_that_overflows_is_named_with_the_epoch():
    model = Model([Dense(8, n_in=4), Dense(8, activation="relu"), BatchNormal(), Softmax(3)])
    model.compile("scce", SGD(lr=0.0))
    fit(model)
    model.layers[1].W[0, 0] = np.inf
    with pytest.warns(RuntimeWarning) as caught:
        fit(model, epochs=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert re.search(
        r"loss is nan in epoch 1: layer 'dense_2' is the first whose output is not finite",
        str(caught[0].message),
    )


def test_training_that_diverges_warns_once():
    model = Model([Linear(1, n_in=4)])
    model.compile(MSE, SGD(lr=1e9))
    with pytest.warns(RuntimeWarning) as caught:
        history = fit(model, y=X[:, :1], epochs=8, validation_split=0.2)
    assert len(caught) == 1
    losses = history.history["loss"]
    epoch = next(i for i, loss in enumerate(losses, 1) if not np.isfinite(loss))
    assert f"in epoch {epoch}: " in str(caught[0].message) and epoch > 1


def test_bad_numbers_in_the_data_are_named():
    x = X.copy()
    x[5] = np.nan
    with pytest.warns(RuntimeWarning, match=r"X itself holds values that are not finite"):
        fit(classifier(), x=x)


def test_a_loss_that_is_not_finite_by_itself_is_named():
    class Log(MSE):
        def forward(self, outputs, targets):
            return float("inf")

    model = Model([Linear(2, n_in=4)])
    model.compile(Log())
    with pytest.warns(RuntimeWarning, match="loss is inf in epoch 1: the outputs of all.* Log is"):
        fit(model, y=X[:, :2])


def test_no_warning_without_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(classifier(), epochs=5, validation_split=0.2)
