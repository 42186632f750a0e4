"""Typical first attempts work, or fail with a helpful error."""

from __future__ import annotations

import io

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import Convolution, Dense, Dropout, Embedding, Flatten, Layer, Linear, Softmax


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_names_of_keras_for_data_and_layers():
    model = Model([Dense(units=3, input_shape=(4,), activation=None), Softmax(units=2)])
    model.compile("scce")
    x, y = numbers(6, 4), np.arange(6) % 2
    model.fit(x=x, y=y, epochs=1, verbose=0)
    assert model.predict(x=x).shape == (6, 2)
    with pytest.raises(TypeError, match="got `X` twice"):
        model.predict(X=x, x=x)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'foo'. It takes: n_out"):
        Dense(3, foo=1)
    with pytest.raises(TypeError, match=r"A model is called on symbolic values.*use predict"):
        model(x)
    assert repr(model).startswith("Model([Dense(n_out=3")
    a, b = Input((4,), name="a"), Input((4,), name="b")
    graph = Model([a, b], {"kind": Softmax(3)(a + b), "size": Linear(1)(b)})
    assert repr(graph) == "<Model a, b -> kind, size: 3 layers>"


def test_two_inputs_for_a_model_of_one():
    model = Model([Dense(3, n_in=4)])
    model.compile("mse")
    x, y = numbers(6, 4), numbers(6, 3)
    for inputs in ([x, x], {"a": x, "b": x}):
        with pytest.raises(ValueError, match=r"one input; .* make a Model\(inputs, outputs\)"):
            model.fit(inputs, y, epochs=1, verbose=0)


def test_a_history_shows_its_last_values():
    model = Model([Softmax(2, n_in=4)])
    model.compile()
    history = model.fit(numbers(6, 4), np.arange(6) % 2, epochs=2, verbose=0)
    history.history["other"] = [None, None]  # a callback may record anything
    last = {name: history.history[name][1] for name in ("loss", "acc")}
    assert repr(history) == "History(epochs=2, loss={loss:.4g}, acc={acc:.4g})".format(**last)


def test_embedding_flatten_dense_waits_for_the_data():
    model = Model([Embedding(input_size=20, n_out=3), Flatten(), Dense(4), Softmax(2)])
    model.compile()
    model.fit(np.ones((4, 6), int), np.arange(4) % 2, epochs=1, verbose=0)
    assert model.layers[2].W.shape == (18, 4)


def test_summary_before_compile():
    text = io.StringIO()
    Model([Dense(3, n_in=4), Softmax(2)]).summary(text)
    assert "23 parameters" in text.getvalue()


def test_names_of_files():
    model = Model([Dense(3, n_in=4)])
    model.compile("mse")
    for name, message in [("m.h5", "like a file of Keras"), ("folder/", "not a folder")]:
        with pytest.raises(ValueError, match=message):
            model.save(name)


def test_files_of_keras_say_what_they_are(tmp_path):
    for start, what in [(b"\x89HDF\r\n\x1a\n" * 4, "HDF5"), (b"PK\x03\x04" * 9, "zip")]:
        (tmp_path / "file").write_bytes(start)
        with pytest.raises(ValueError, match=what):
            npdl.load_model(tmp_path / "file")


def test_hints_before_the_first_step():
    x = numbers(6, 4)
    model = Model([Dense(1)])
    model.compile("mse")
    with pytest.warns(RuntimeWarning, match=r"activation Tanh of layer 'dense_1'.*\[-1, 1\]"):
        model.fit(x, 20 * x[:, :1], epochs=1, verbose=0)
    model = Model([Convolution(2, 3), Flatten(), Softmax(2)])
    model.compile()
    with pytest.warns(RuntimeWarning, match="taken as 8 channels of 8 x 3 pixels"):
        model.fit(numbers(4, 8, 8, 3), np.arange(4) % 2, epochs=1, verbose=0)


def test_a_backward_that_returns_nothing_is_blamed_itself():
    class Silent(Layer):
        def forward(self, input, train=True):
            return input

        def backward(self, pre_grad):
            pass

    model = Model([Dense(3, n_in=4), Silent(), Softmax(2)])
    model.compile()
    with pytest.raises(TypeError, match=r"Silent.backward must return.*layer 'silent_1'"):
        model.train_on_batch(numbers(4, 4), np.arange(4) % 2)


def test_a_forward_of_a_subclass_is_refused():
    class Twice(Model):
        def forward(self, X, train=True, mask=None):
            return 2 * super().forward(X, train, mask)

    with pytest.raises(TypeError, match=r"Twice.forward would not be used"):
        Twice([Dense(3, n_in=4)]).compile("mse")


def test_no_output_is_the_memory_of_the_input():
    x = numbers(3, 2, 2).astype("f4")
    for layer in (Flatten(), Dropout(0.3)):
        model = Model([layer])
        model.compile("mse")
        for size in (1, 8):
            assert not np.may_share_memory(model.predict(x, batch_size=size), x)
