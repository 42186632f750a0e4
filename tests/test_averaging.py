"""Moving averages of the weights in training: at its end, and with `SwapEMAWeights`."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl.callbacks import Callback, ModelCheckpoint, SwapEMAWeights
from npdl.layers import Dense
from npdl.optimizers import SGD

X = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
Y = X.sum(axis=1, keepdims=True)


def make(**options):
    npdl.utils.set_seed(1)
    model = npdl.Model([Dense(1, n_in=3, activation="linear")])
    model.compile("mse", SGD(lr=0.05, use_ema=True, ema_momentum=0.9, **options))
    return model


def fit(model, epochs=3, **kwargs):
    return model.fit(X, Y, epochs=epochs, batch_size=8, verbose=0, shuffle=False, **kwargs)


class Spy(Callback):
    """Keeps W as it is in some hooks."""

    def __init__(self, *hooks):
        self.seen = []
        for hook in hooks:
            setattr(self, hook, self.look)

    def look(self, *_):
        self.seen.append(self.model.layers[0].W.copy())


def test_fit_ends_with_the_averages():
    spy = Spy("on_train_batch_end")
    model = make()
    fit(model, callbacks=spy)
    average = spy.seen[0]
    for w in spy.seen[1:]:
        average = 0.9 * average + 0.1 * w
    np.testing.assert_allclose(model.layers[0].W, average, rtol=1e-5)
    assert not np.allclose(model.layers[0].W, spy.seen[-1], rtol=1e-3)
    again = Spy("on_train_batch_begin")
    fit(model, 1, callbacks=again)  # continues from there
    np.testing.assert_allclose(again.seen[0], average, rtol=1e-5)


def test_validation_sees_the_averages_and_training_does_not():
    plain, spy = make(), Spy("on_train_batch_end")
    fit(plain, callbacks=spy)
    model = make()
    train, test = Spy("on_train_batch_end"), Spy("on_test_batch_begin")
    history = fit(model, callbacks=[SwapEMAWeights(), train, test], validation_data=(X, Y))
    np.testing.assert_array_equal(train.seen, spy.seen)
    np.testing.assert_array_equal(model.layers[0].W, plain.layers[0].W)
    np.testing.assert_array_equal(test.seen[-1], model.layers[0].W)
    assert history.history["val_loss"][-1] == pytest.approx(model.evaluate(X, Y).loss)


def test_predict_and_evaluate_can_take_the_averages():
    model = make()
    model.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    before, w = model.predict(X), model.layers[0].W.copy()
    swapped = model.predict(X, callbacks=SwapEMAWeights())
    assert not np.allclose(swapped, before)
    np.testing.assert_array_equal(model.layers[0].W, w)
    want = np.square(swapped - Y).mean()
    assert model.evaluate(X, Y, callbacks=[SwapEMAWeights()]).loss == pytest.approx(want)


def test_checkpoints_hold_the_averages_and_can_be_trained_further(tmp_path):
    path = tmp_path / "{epoch}.npdl"
    model, spy = make(), Spy("on_train_batch_end")
    fit(model, callbacks=[SwapEMAWeights(swap_on_epoch=True), ModelCheckpoint(path), spy])
    plain, want = make(), Spy("on_train_batch_end")
    fit(plain, callbacks=want)
    np.testing.assert_array_equal(spy.seen, want.seen)
    np.testing.assert_array_equal(model.layers[0].W, plain.layers[0].W)
    two = npdl.load_model(tmp_path / "2.npdl")
    average = want.seen[0]
    for w in want.seen[1:8]:
        average = 0.9 * average + 0.1 * w
    np.testing.assert_allclose(two.layers[0].W, average, rtol=1e-5)
    with pytest.raises(RuntimeError, match=r"Call swap_averages\(\)"):
        two.train_on_batch(X, Y)
    again = Spy("on_train_batch_end")
    fit(two, 1, callbacks=again)
    np.testing.assert_array_equal(again.seen, want.seen[8:])


def test_needs_averages():
    model = npdl.Model([Dense(1, n_in=3)])
    model.compile("mse", "sgd")
    with pytest.raises(ValueError, match=r"an optimizer with use_ema=True\. Received: .*'SGD'"):
        fit(model, callbacks=SwapEMAWeights())
