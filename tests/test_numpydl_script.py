"""Scripts as they were written for NumpyDL 0.4 run unchanged, and learn."""

import io
import sys

import numpy as np

import npdl
from npdl.datasets import load_digits

(IMAGES, DIGITS), _ = load_digits()


def last(file, figure="acc"):
    """A value in the last line that `fit` printed."""
    words = file.getvalue().splitlines()[-1].split()
    return float(words[words.index(figure) + 1])


def text_task(n=120, length=6, words=9, seed=1):
    """Sentences of word numbers; the class says whether the word 3 occurs."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, words, (n, length))
    return x, npdl.utils.data.one_hot((x == 3).any(axis=1).astype(int))


def test_mlp_digits():
    npdl.utils.random.set_seed(1234)
    X_train = IMAGES.reshape(-1, 64)
    Y_train = DIGITS
    n_classes = np.unique(Y_train).size
    file = io.StringIO()

    model = npdl.model.Model()
    model.add(npdl.layers.Dense(n_out=100, n_in=64, activation=npdl.activations.ReLU()))
    model.add(npdl.layers.Dense(n_out=n_classes, activation=npdl.activations.Softmax()))
    model.compile(loss=npdl.objectives.SCCE(), optimizer=npdl.optimizers.SGD(lr=0.1))
    model.fit(
        X_train,
        npdl.utils.data.one_hot(Y_train),
        max_iter=25,
        validation_split=0.1,
        file=file,
    )

    assert last(file, "val_acc") > 0.9
    predictions = npdl.utils.data.unhot(model.predict(X_train))
    assert np.mean(predictions == Y_train) > 0.9
    assert model.accuracy(model.predict(X_train), npdl.utils.data.one_hot(Y_train)) > 0.9


def test_mlp_with_the_defaults_of_compile():
    model = npdl.model.Model()
    model.add(npdl.layers.Dense(n_out=20, n_in=64, activation="tanh"))
    model.add(npdl.layers.Dropout(p=0.2))
    model.add(npdl.layers.Softmax(n_out=10))
    model.compile()
    file = io.StringIO()
    model.fit(IMAGES.reshape(-1, 64), npdl.utils.one_hot(DIGITS), 2, 32, True, 0.1, None, file)
    assert len(file.getvalue().splitlines()) == 2


def test_cnn_digits():
    npdl.utils.random.set_seed(42)
    X_train, Y_train = IMAGES[:600], npdl.utils.one_hot(DIGITS[:600])
    file = io.StringIO()

    net = npdl.Model()
    net.add(npdl.layers.Convolution(8, (3, 3), input_shape=(None, 1, 8, 8)))
    net.add(npdl.layers.MeanPooling((2, 2)))
    net.add(npdl.layers.Convolution(8, (2, 2)))
    net.add(npdl.layers.Flatten())
    net.add(npdl.layers.Softmax(n_out=10))
    net.compile(loss="scce", optimizer=npdl.optimizers.RMSprop(lr=0.01))
    net.fit(X_train, Y_train, max_iter=30, validation_data=(X_train, Y_train), file=file)

    assert last(file, "val_acc") > 0.85


def test_lstm_sentence_classification():
    npdl.utils.random.set_seed(1)
    nb_batch, nb_seq = 30, 6
    X, Y = text_task(length=nb_seq)

    model = npdl.model.Model()
    model.add(npdl.layers.Embedding(nb_batch=nb_batch, nb_seq=nb_seq, n_out=8, input_size=9))
    model.add(
        npdl.layers.BatchLSTM(
            n_out=16, n_in=8, return_sequence=True, nb_batch=nb_batch, nb_seq=nb_seq
        )
    )
    model.add(npdl.layers.MeanPooling((nb_seq, 1)))
    model.add(npdl.layers.Flatten())
    model.add(npdl.layers.Softmax(n_out=2))
    model.compile(loss=npdl.objectives.SCCE(), optimizer=npdl.optimizers.Adam(lr=0.02))
    file = io.StringIO()
    model.fit(X, Y, batch_size=nb_batch, max_iter=30, file=file)

    assert last(file) > 0.95


def test_cnn_sentence_classification():
    npdl.utils.random.set_seed(1)
    X, Y = text_task()

    model = npdl.model.Model()
    model.add(npdl.layers.Embedding(nb_batch=30, nb_seq=6, n_out=8, input_size=9))
    model.add(npdl.layers.DimShuffle())
    model.add(npdl.layers.Convolution(8, (1, 8)))
    model.add(npdl.layers.MaxPooling((6, 1)))
    model.add(npdl.layers.Flatten())
    model.add(npdl.layers.Softmax(n_out=2))
    model.compile(loss=npdl.objectives.SCCE(), optimizer=npdl.optimizers.Adam(lr=0.02))
    file = io.StringIO()
    model.fit(X, Y, batch_size=30, max_iter=30, file=file)

    assert last(file) > 0.95


def test_character_language_model():
    npdl.utils.random.set_seed(1)
    text = "the quick brown fox jumps over the lazy dog. " * 4
    chars = sorted(set(text))
    codes = np.array([chars.index(c) for c in text])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 8)[:-1]
    X, Y = np.eye(len(chars))[windows], np.eye(len(chars))[codes[8:]]

    for layer, updates in [
        (npdl.layers.SimpleRNN, npdl.optimizers.Adagrad(lr=0.2)),
        (npdl.layers.GRU, npdl.optimizers.Adamax(lr=0.02, clip=5)),
        (npdl.layers.LSTM, npdl.optimizers.NesterovMomentum(lr=0.5, clip=5)),
    ]:
        model = npdl.model.Model()
        model.add(layer(n_out=32, n_in=len(chars)))
        model.add(npdl.layers.Softmax(n_out=len(chars)))
        model.compile(loss=npdl.objectives.SCCE(), optimizer=updates)
        file = io.StringIO()
        model.fit(X, Y, max_iter=20, batch_size=32, file=file)
        assert last(file) > 0.9, layer


def test_file_may_be_standard_output(capsys):
    model = npdl.Model([npdl.layers.Softmax(10, 64)])
    model.compile()
    model.fit(IMAGES.reshape(-1, 64), DIGITS, max_iter=1, file=sys.stdout)
    assert "acc" in capsys.readouterr().out


def test_layers_by_hand():
    """A custom training loop, with the layers, the loss and the optimizer."""
    npdl.utils.random.set_seed(3)
    X, Y = IMAGES.reshape(-1, 64)[:300], npdl.utils.one_hot(DIGITS[:300])
    hidden = npdl.layers.Dense(n_out=32, n_in=64, activation="relu")
    output = npdl.layers.Softmax(n_out=10)
    hidden.connect_to()
    output.connect_to(hidden)
    loss, optimizer = npdl.objectives.get("scce"), npdl.optimizers.get("adam")
    losses = []
    for _ in range(150):
        predictions = output.forward(hidden.forward(X))
        losses.append(loss.forward(predictions, Y))
        hidden.backward(output.backward(loss.backward(predictions, Y)))
        optimizer.update(hidden.params + output.params, hidden.grads + output.grads)
    assert losses[-1] < 0.5 * losses[0]
    assert len(hidden.param_grads) == 2
