"""npdl.autodiff: layers, losses and training steps whose gradients are derived by autograd."""

import sys

import numpy as np
import pytest

import npdl
from npdl import Model, objectives, saving
from npdl.autodiff import AutoLayer, Lambda, grad, value_and_grad
from npdl.layers import LSTM, Dense
from npdl.optimizers import SGD
from npdl.testing import check_layer

anp = pytest.importorskip("autograd.numpy")


class Maxout(AutoLayer):
    """The largest of a few linear maps; its output's shape is tried out."""

    def __init__(self, n_out, pieces=2, regularizer=None):
        self.n_out, self.pieces = n_out, pieces
        self.regularizer = npdl.regularizers.get(regularizer)

    def build(self, in_shape):
        rng = npdl.utils.get_rng()
        self.add_parameter("W", 0.3 * rng.normal(size=(self.pieces, in_shape[-1], self.n_out)))
        self.add_parameter("b", np.zeros((self.pieces, self.n_out)))

    def compute(self, x, W, b):
        maps = [x @ W[k] + b[k] for k in range(self.pieces)]
        return anp.max(anp.stack(maps), axis=0)


class SelfAttention(AutoLayer):
    def build(self, in_shape):
        rng, d = npdl.utils.get_rng(), in_shape[-1]
        for name in ("query", "key", "value"):
            self.add_parameter(name, rng.normal(size=(d, d)) * d**-0.5)
        return in_shape

    def compute(self, x, query, key, value, mask=None):
        scores = (x @ query) @ anp.swapaxes(x @ key, 1, 2)
        if mask is not None:
            scores = anp.where(np.asarray(mask)[:, None] != 0, scores, -1e9)
        e = anp.exp(scores - anp.max(scores, axis=-1, keepdims=True))
        return e / anp.sum(e, axis=-1, keepdims=True) @ (x @ value)


def halves(x):
    return x[:, ::2] * anp.tanh(x[:, 1::2])


def unchanged(x):
    return x


@pytest.fixture(autouse=True)
def _registered():
    saving.register(halves)
    saving.register(unchanged)
    saving.register(Maxout)
    saving.register(SelfAttention)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ((Maxout, {"n_out": 3, "pieces": 3}), (4, 5)),
        ((Maxout, {"n_out": 3}), (2, 6, 5)),
        (SelfAttention, (3, 4, 5)),
        ((Lambda, {"function": halves}), (3, 6)),
        ((Lambda, {"function": unchanged}), (3, 6)),
    ],
)
def test_layers_keep_the_contract(layer, shape):
    check_layer(layer, shape)


def test_masks_reach_compute(rng):
    check_layer(SelfAttention, (2, 4, 3), forward_args={"mask": np.array([[1, 1, 0, 1]] * 2)})
    model = Model([LSTM(n_out=4, return_sequence=True), SelfAttention()])
    model.compile("mse", "sgd")
    model.build((None, 5, 2))
    x, mask = rng.normal(size=(3, 5, 2)), np.array([[1, 1, 1, 0, 0]] * 3)
    changed = x.copy()
    changed[:, 3:] += 9
    found = model.predict((x, mask)), model.predict((changed, mask))
    np.testing.assert_array_equal(found[0][:, :3], found[1][:, :3])


def test_open_axes_are_found():
    layer = Lambda(lambda x: anp.mean(x, axis=(2, 3)))
    layer.connect_to(type("Source", (), {"out_shape": (None, 3, None, None)}))
    assert layer.out_shape == (None, 3)
    layer = Lambda(lambda x: anp.concatenate([x, x], axis=1))
    layer.connect_to(type("Source", (), {"out_shape": (None, None, 4)}))
    assert layer.out_shape == (None, None, 4)


def test_several_inputs(rng):
    layer = Lambda(lambda a, b: a * anp.sum(b, axis=1, keepdims=True))
    layer.connect_to(*(type("S", (), {"out_shape": s}) for s in [(None, 4), (None, 3)]))
    a, b, dy = rng.normal(size=(2, 4)), rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    y = layer.forward(a, b)
    np.testing.assert_allclose(y, a * b.sum(axis=1, keepdims=True), rtol=1e-6)
    da, db = layer.backward(dy)
    np.testing.assert_allclose(da, dy * b.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(db, np.repeat((dy * a).sum(1, keepdims=True), 3, 1), rtol=1e-5)


def test_a_layer_trains_is_frozen_and_goes_through_a_file(tmp_path, rng):
    x = rng.normal(size=(60, 4)).astype("f4")
    y = (np.abs(x[:, 0]) > 0.7).astype(int)
    model = Model([Maxout(8, 3, "l2"), Dense(2, activation="softmax")])
    model.compile("scce", npdl.optimizers.Adam(lr=0.03))
    model.fit(x, y, epochs=60, verbose=0)
    assert model.evaluate(x, y).accuracy > 0.9
    model.save(tmp_path / "model.npdl")
    again = npdl.load_model(tmp_path / "model.npdl")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    before = [w.copy() for w in model.layers[0].get_weights()]
    model.layers[0].trainable = False
    model.compile("scce", "adam")
    model.fit(x, y, epochs=1, verbose=0)
    for old, new in zip(before, model.layers[0].get_weights()):
        np.testing.assert_array_equal(old, new)


# ---------------------------------------------------------------------------------------- losses


def squared(y_true, y_pred):
    """One number."""
    return anp.mean(anp.square(y_true - y_pred))


def by_row(y_true, y_pred):
    """A value for each row; not the same with its arguments exchanged."""
    return anp.mean(anp.square(y_true - y_pred) * y_true, axis=-1)


def by_element(y_true, y_pred):
    return anp.square(y_true - y_pred)


def pair(outputs, targets):
    """The loss, and its gradient."""
    return float(np.square(outputs - targets).mean()), 2 * (outputs - targets) / outputs.size


@pytest.mark.parametrize("function", [squared, by_element, pair])
def test_functions_are_the_losses_that_they_are(rng, function):
    p, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    loss, mse = objectives.get(function), objectives.MSE()
    for _ in range(2):
        assert loss.forward(p, t) == pytest.approx(mse.forward(p, t))
        np.testing.assert_allclose(loss.backward(p, t), mse.backward(p, t), rtol=1e-12)
    single = objectives.get(function)  # targets (N,) of outputs (N, 1)
    assert single.forward(p[:, :1], t[:, 0]) == pytest.approx(mse.forward(p[:, :1], t[:, 0]))


def test_weights_and_masks_of_items(rng):
    p, t, mask = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3)), np.ones((2, 4))
    mask[0, 2:] = 0
    weights = np.array([[1, 2, 3, 1], [0.5, 0, 1, 1]])
    loss = objectives.get(by_row)
    bad = p.copy()
    bad[(mask == 0) | (weights == 0)] = np.nan
    value = loss.forward(bad, t, weights, mask)
    want = (by_row(t, p) * weights * mask).sum() / mask.sum()
    assert value == pytest.approx(want) and loss.count(bad, t, mask) == 6
    found = loss.backward(bad, t, weights, mask)
    factors = (weights * mask / mask.sum())[..., None] / 3
    np.testing.assert_allclose(found, -2 * (t - p) * t * factors, rtol=1e-12, atol=1e-15)
    assert not loss.backward(bad, t, None, np.zeros((2, 4))).any()
    elements, mse = objectives.get(by_element), objectives.MSE()
    assert elements.forward(p, t, weights, mask) == pytest.approx(mse.forward(p, t, weights, mask))
    np.testing.assert_allclose(
        elements.backward(p, t, weights, mask), mse.backward(p, t, weights, mask), rtol=1e-12
    )


@pytest.mark.parametrize("function", [squared, by_row])
def test_a_model_trains_on_a_function(rng, function):
    x = rng.normal(size=(50, 3)).astype("f4")
    y = np.abs(x[:, :2]) + 0.5
    model = Model([Dense(16, n_in=3, activation="tanh"), Dense(2, activation="linear")])
    model.compile(function, npdl.optimizers.Adam(lr=0.02), metrics=[by_row, "mse"])
    first = model.evaluate(x, y, return_dict=True)
    model.fit(x, y, epochs=40, verbose=0)
    last = model.evaluate(x, y, return_dict=True)
    assert last["mse"] < 0.3 * first["mse"]
    if function is by_row:
        assert last["loss"] == pytest.approx(last["by_row"], rel=1e-5)
        model.fit(x, y, epochs=1, sample_weight=np.ones(50), verbose=0)


def test_losses_say_what_is_wrong(rng):
    p, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    for function, kind, message in [
        (lambda y_true, y_pred: anp.zeros(2), ValueError, "one number, or a value for each item"),
        (lambda y_true, y_pred: (1, 2, 3), TypeError, r"return the loss, or \(loss, gradient\)"),
        (lambda y_true, y_pred: np.sort(y_pred), TypeError, "written in functions of"),
        (
            lambda y_true, y_pred: anp.take(y_pred, [0], 1)[:, 0],
            TypeError,
            "written in functions of",
        ),
        (lambda y_true, y_pred: y_pred.nothing, AttributeError, "nothing"),
    ]:
        with pytest.raises(kind, match=message):
            objectives.get(function).forward(p, t)
            objectives.get(function).backward(p, t)
    with pytest.raises(ValueError, match="With sample_weight, squared, which returns one number"):
        objectives.get(squared).forward(p, t, np.ones(4))


# --------------------------------------------------------------------------------------- training


def test_a_training_loop_of_ones_own(rng):
    x, y = rng.normal(size=(20, 3)).astype("f4"), rng.normal(size=(20, 1)).astype("f4")
    models = []
    for _ in range(2):
        npdl.utils.set_seed(3)
        models.append(Model([Dense(5, n_in=3, regularizer="l2"), Dense(1, activation="linear")]))
        models[-1].compile("mse", SGD(lr=0.1))
    own, other = models
    for loss in (squared, "mse"):
        for _ in range(3):
            value, grads = value_and_grad(loss)(own, x, y)
            own.optimizer.update(own.params, grads)
            assert value == pytest.approx(other.train_on_batch(x, y)[0], rel=1e-5)
    for one, two in zip(own.get_weights(), other.get_weights()):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert [g.shape for g in grad("mse")(own, x, y)] == [p.shape for p in own.params]


def test_functions_of_arrays():
    value, slopes = value_and_grad(lambda p, c: c * anp.sum(p["a"] ** 3))({"a": np.arange(3.0)}, 2)
    assert value == 18 and slopes["a"].tolist() == [0, 6, 24]
    assert grad(lambda x: anp.sum(x * x))(np.array([1.0, 2.0])).tolist() == [2, 4]
    with pytest.raises(TypeError, match="A model must come first"):
        grad("mse")(np.ones(3))


def test_without_autograd_an_error_names_the_extra(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "autograd", None)
    p, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    assert objectives.get(pair).backward(p, t).shape == (4, 3)  # needs none
    with pytest.raises(ImportError, match=r"the loss squared.*pip install 'npdl\[autodiff\]'"):
        objectives.get(squared).backward(p, t)
    layer = Maxout(2)
    layer.connect_to(type("Source", (), {"out_shape": (None, 3)}))
    with pytest.raises(ImportError, match=r"layer 'maxout'.*npdl\[autodiff\]"):
        layer.forward(p)
    assert layer.forward(p, train=False).shape == (4, 2)
