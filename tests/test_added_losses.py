"""Terms of the loss beside that of an output: `Model.add_loss`."""

import copy

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import Dense, Softmax

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(4)
X, Y = RNG.standard_normal((12, 3)), RNG.integers(0, 4, 12)


def divergence(mean, log_var):
    """With its gradients, by hand."""
    n, variance = mean.size, np.exp(log_var)
    value = -0.5 * np.mean(1 + log_var - mean**2 - variance)
    return value, (mean / n, (variance - 1) / (2 * n))


def activity(y):
    return (y * y).mean(), 2 * y / y.size


def encoder():
    """A graph whose inner values have a term, and feed the output too."""
    npdl.utils.set_seed(1)
    x = Input((3,))
    h = Dense(5, activation="tanh")(x)
    mean, log_var = Dense(2, activation="linear")(h), Dense(2, activation="linear")(h)
    model = Model(x, Softmax(4)(mean + log_var))
    model.compile("scce", npdl.optimizers.SGD(lr=0.1))
    model.add_loss(divergence, mean, log_var)
    return model


def chain(term=True):
    npdl.utils.set_seed(1)
    model = Model([Dense(5, n_in=3, activation="tanh"), Softmax(4)])
    model.compile("scce", npdl.optimizers.SGD(lr=0.1))
    if term:
        model.add_loss(activity, model.layers[0])
        model.add_loss(activity)
    return model


@pytest.mark.parametrize("make", [encoder, chain])
def test_gradients_of_all_parameters(make):
    with npdl.use_dtype("float64"):
        model = make()
        _, _, cache = model.loss_forward(X, Y)
        model.loss_backward(cache)
        for param, grad in zip(model.params, [g.copy() for g in model.grads]):
            numeric = np.empty_like(param)
            for i in np.ndindex(param.shape):
                sides = []
                for step in (1e-6, -2e-6):
                    param[i] += step
                    sides.append(model.loss_forward(X, Y)[0])
                param[i] += 1e-6
                numeric[i] = (sides[0] - sides[1]) / 2e-6
            assert np.allclose(grad, numeric, rtol=1e-6, atol=1e-8)


def test_it_counts_in_training_and_in_evaluate():
    plain, model = chain(term=False), chain()
    h, p = plain.layers[0].forward(X, train=False), plain.predict(X)
    added = activity(h)[0] + activity(p)[0]
    assert np.isclose(model.evaluate(X, Y).loss, plain.evaluate(X, Y).loss + added)
    first = model.train_on_batch(X, Y).loss
    assert np.isclose(first, plain.evaluate(X, Y).loss + added)
    history = model.fit(X, Y, epochs=20, verbose=0)
    assert history.history["loss"][-1] < first
    assert model.predict(X).shape == (12, 4)


def test_a_term_trains_layers_that_no_other_loss_reaches():
    x = Input((3,))
    a, b = Dense(2, activation="tanh")(x), Dense(2, activation="tanh")(x)
    model = Model(x, {"a": a, "b": b})
    model.compile({"a": "mse"}, "sgd")
    model.add_loss(activity, b)
    before = [p.copy() for p in model.params]
    model.fit(X, {"a": np.zeros((12, 2))}, epochs=1, verbose=0)
    assert all((old != new).any() for old, new in zip(before, model.params))


def test_by_autograd():
    anp = pytest.importorskip("autograd.numpy")
    models = [chain(term=False), chain(term=False)]
    models[0].add_loss(lambda y: anp.mean(y * y), models[0].layers[0])
    models[1].add_loss(activity, models[1].layers[0])
    with npdl.use_dtype("float64"):
        losses = [[m.train_on_batch(X, Y).loss for _ in range(3)] for m in models]
    assert np.allclose(*losses, rtol=1e-6)


def test_copies_keep_terms_of_outputs_and_layers():
    model = chain()
    twin = copy.deepcopy(model)
    assert twin.train_on_batch(X, Y).loss == model.train_on_batch(X, Y).loss


def test_a_file_says_that_terms_are_missing(tmp_path):
    model = chain()
    model.save(tmp_path / "m.npdl")
    with pytest.warns(UserWarning, match=r"call add_loss\(\) again.*activity, activity"):
        loaded = npdl.load_model(tmp_path / "m.npdl")
    loaded.add_loss(activity, loaded.layers[0])
    loaded.add_loss(activity)
    assert loaded.train_on_batch(X, Y).loss == model.train_on_batch(X, Y).loss


def test_bad_terms():
    model = encoder()
    with pytest.raises(TypeError, match="`function` must be a function"):
        model.add_loss(3)
    with pytest.raises(TypeError, match=r"must be values or layers.*ndarray"):
        model.add_loss(activity, X)
    with pytest.raises(ValueError, match="must depend on the values"):
        model.add_loss(activity, Input((3,)))
    model.add_loss(lambda y: (y.sum(axis=1), y))
    with pytest.raises(ValueError, match="must return a number"):
        model.train_on_batch(X, Y)
    model = encoder()
    model.add_loss(lambda y: (y.sum(), y[:, :1]))
    with pytest.raises(ValueError, match=r"gradients of .* must have the shapes"):
        model.train_on_batch(X, Y)
