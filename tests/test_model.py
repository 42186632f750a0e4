"""`npdl.model`: the graph of layers, compile, predict, accuracy, summary, saving."""

import io
import json
import re
import threading

import numpy as np
import pytest

import npdl
from npdl import Model
from npdl.layers import (
    LSTM,
    BatchNormal,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    MaxPooling,
    Softmax,
)
from npdl.objectives import BCE
from npdl.summary import size_text
from npdl.utils import get_dtype, set_dtype

X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(15, 4)
LABELS = np.arange(15) % 3


def small(**kwargs):
    model = Model([Dense(5, n_in=4), Dropout(0.5), Softmax(3)])
    model.compile(**kwargs)
    return model


class Scale(Layer):
    """A user's layer in the old style: no super().__init__, no `train`."""

    def __init__(self):
        self.factor = np.ones(1, np.float32)
        self.dfactor = np.zeros(1, np.float32)

    def connect_to(self, prev_layer=None):
        self.out_shape = prev_layer.out_shape

    def forward(self, input):
        self.input = input
        return input * self.factor

    def backward(self, pre_grad):
        self.dfactor[0] = (pre_grad * self.input).sum()
        return pre_grad * self.factor

    @property
    def params(self):
        return [self.factor]

    @property
    def grads(self):
        return [self.dfactor]


# ----------------------------------------------------------------------------------- the graph


def test_an_output_layer_leads_to_the_whole_network():
    first, middle, last = Dense(5, n_in=4), Dropout(0.1), Softmax(3)
    first.connect_to()
    middle.connect_to(first)
    last.connect_to(middle)
    weights = first.W.copy()
    model = Model(last)
    assert model.layers == [first, middle, last]
    model.compile()
    np.testing.assert_array_equal(first.W, weights)


def test_the_upper_part_of_a_network_keeps_its_weights():
    whole = small()
    weights = whole.layers[2].W.copy()
    upper = Model(whole.layers[1:])
    upper.compile()
    np.testing.assert_array_equal(upper.layers[1].W, weights)
    assert upper.predict(np.ones((2, 5), np.float32)).shape == (2, 3)
    assert Model.from_json(upper.to_json()).layers[1].W.shape == (5, 3)


def test_layers_are_named_in_order_and_keep_a_name_of_their_own():
    model = Model([Dense(3, n_in=4), Dense(3), Dense(3), Dropout(0.1), Dense(3)])
    model.layers[1].name = "middle"
    model.layers[2].name = "dense_1"
    model.compile()
    assert [layer.name for layer in model.layers] == [
        *("dense_2", "middle", "dense_1", "dropout_1", "dense_3")
    ]


def test_names_must_differ():
    model = Model([Dense(3, n_in=4), Dense(3)])
    for layer in model.layers:
        layer.name = "same"
    with pytest.raises(ValueError, match=r"names of layers must differ.*'same', 'same'"):
        model.compile()


def test_recompiling_keeps_the_weights():
    model = small()
    before = {name: array.copy() for name, array in model.weights.items()}
    model.compile("mse", "adam")
    assert list(before) == ["dense_1/W", "dense_1/b", "softmax_1/W", "softmax_1/b"]
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_layer_added_later_is_connected_by_the_next_compile():
    model = Model([Dense(5, n_in=4)])
    model.compile("mse")
    weights = model.layers[0].W.copy()
    model.add(Dense(2))
    with pytest.raises(RuntimeError, match="compiled before predict"):
        model.predict(X)
    model.compile("mse")
    assert model.predict(X).shape == (15, 2)
    np.testing.assert_array_equal(model.layers[0].W, weights)


def test_shapes_come_from_the_data_where_the_first_layer_does_not_tell():
    model = Model([Flatten(), Dense(5), Softmax(3)])
    model.compile()
    assert not model.built
    assert model.predict(X.reshape(15, 2, 2)).shape == (15, 3)
    assert model.layers[1].W.shape == (4, 5)


def test_build_takes_a_shape():
    model = Model([Convolution(2, 2), Flatten(), Softmax(3)])
    model.build((None, 1, 4, 5))
    assert model.layers[0].out_shape == (None, 2, 3, 4)
    assert model.layers[2].W.shape == (24, 3)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Model(["relu"]), TypeError, "instances of Layer. Received: 'relu'"),
        (lambda: Model([d := Dense(2), d]), ValueError, "only once. Received: 'dense'"),
        (lambda: Model().compile(), ValueError, "at least one layer. Received: layers=.."),
        (lambda: small(loss="foo"), ValueError, "Unknown objective 'foo'. Valid names: .*MSE"),
        (lambda: small(optimizer="foo"), ValueError, "Unknown optimizer 'foo'. Valid names: .*sgd"),
        (
            lambda: small(loss=npdl.objectives.MSE(reduction="none")),
            ValueError,
            "'mean' or 'sum'. Received: reduction='none'",
        ),
    ],
)
def test_what_a_model_cannot_be_made_of(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("what", ["fit", "predict", "evaluate"])
def test_compile_comes_first(what):
    args = (X,) if what == "predict" else (X, LABELS)
    with pytest.raises(RuntimeError, match=rf"compiled before {what}. Call compile\(\) first"):
        getattr(Model([Dense(3, n_in=4)]), what)(*args)


# ------------------------------------------------------------------------------------- predict


def test_predict_in_batches_gives_the_same_as_at_once():
    model = small()
    whole = model.predict(X)
    np.testing.assert_array_equal(whole, model.forward(X, train=False))
    for size in (1, 4, 15, 100):
        np.testing.assert_allclose(model.predict(X, batch_size=size), whole, rtol=1e-6)


def test_predict_is_inference_and_writes_nothing():
    model = Model([Dense(5, n_in=4), BatchNormal(), Dropout(0.5), Softmax(3)])
    model.compile()
    model.fit(X, LABELS, epochs=2, verbose=False)
    before = [dict(vars(layer)) for layer in model.layers]
    first = model.predict(X)
    np.testing.assert_array_equal(model.predict(X), first)
    for layer, state in zip(model.layers, before):
        assert vars(layer).keys() == state.keys()
        assert all(vars(layer)[key] is value for key, value in state.items())


def test_threads_may_predict_at_once():
    model = Model([LSTM(n_out=6, n_in=3), Dense(8, activation="soft_plus"), Softmax(3)])
    model.compile()
    inputs = [np.random.default_rng(i).normal(size=(40, 5, 3)) for i in range(4)]
    wanted = [model.predict(x) for x in inputs]
    found = [None] * 4

    def work(i):
        for _ in range(20):
            found[i] = model.predict(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(found, wanted):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("order", ["F", "reversed", "read-only", "list"])
def test_predict_takes_any_layout(order):
    model = small()
    wanted = model.predict(X)
    given = {
        "F": np.asfortranarray(X),
        "reversed": X[::-1].copy()[::-1],
        "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
        "list": X.tolist(),
    }[order]
    np.testing.assert_allclose(model.predict(given), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "data, error, message",
    [
        (X[:, :3], ValueError, r"\(N, ..., 4\).*Received: shape=\(15, 3\) \(layer 'dense_1'\)"),
        (np.ones(15), ValueError, r"\(N, ..., 4\).*Received: shape=\(15,\) \(layer 'dense_1'\)"),
        (X[:0], ValueError, "`X` must hold at least one sample.*shape=.0, 4."),
        (np.array(["a", "b"]), TypeError, "`X` must be an array of numbers.*dtype='str"),
    ],
)
def test_what_predict_cannot_take(data, error, message):
    with pytest.raises(error, match=message):
        small().predict(data)


def test_batch_size_must_be_positive():
    for call in (lambda m: m.predict(X, 0), lambda m: m.evaluate(X, LABELS, 0)):
        with pytest.raises(ValueError, match=r"integer >= 1.*batch_size=0"):
            call(small())


# ------------------------------------------------------------------------------------- summary


def test_summary():
    model = Model([Embedding(input_size=7, n_out=4), LSTM(n_out=3), BatchNormal(), Softmax(2)])
    file = io.StringIO()
    model.summary(file=file)
    assert file.getvalue().count("?") == 4
    model.compile()
    file = io.StringIO()
    model.summary(file=file)
    lines = file.getvalue().splitlines()
    rows = [line.split() for line in lines]
    assert rows[0] == [*("layer", "class", "output", "shape", "parameters", "trained", "memory")]
    assert rows[2] == ["embedding_1", "Embedding", *("(N,", "?,", "4)", "28", "yes", "112", "B")]
    assert rows[3] == ["lstm_1", "LSTM", "(N,", "3)", "96", "yes", "384", "B"]
    assert rows[4] == ["batch_normal_1", "BatchNormal", *("(N,", "3)", "12", "partly", "48", "B")]
    assert rows[5] == ["softmax_1", "Softmax", "(N,", "2)", "8", "yes", "32", "B"]
    assert lines[-2:] == [
        "144 parameters, 138 of them trained",
        "memory: weights 576 B, gradients 552 B",
    ]
    assert len({len(line) for line in lines[:-2]}) == 1


def test_summary_shows_the_memory_for_training(float64):
    model = Model([Embedding(np.ones((200, 5)), nb_seq=3), LSTM(n_out=4), Dense(2)])
    model.compile(optimizer="adam")
    file = io.StringIO()
    model.summary(file)
    lines = file.getvalue().splitlines()
    assert lines[2].split()[-4:] == ["1,000", "no", "8.0", "kB"]
    # LSTM: 10 x 16; outputs: 3 x 5, 4 and 2 numbers
    assert lines[-1] == (
        "memory: weights 9.4 kB, gradients 1.4 kB, Adam 2.7 kB, "
        "outputs 168 B for each sample of a batch"
    )


@pytest.mark.parametrize(
    "size, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")],
)
def test_sizes_in_words(size, text):
    assert size_text(size) == text


# -------------------------------------------------------------------------------------- saving


def make_cnn():
    model = Model()
    model.add(Convolution(3, 2, input_shape=(1, 4, 5), padding="same", activation="elliot"))
    model.add(BatchNormal(axis=1))
    model.add(MaxPooling(2))
    model.add(Flatten())
    model.add(Softmax(3))
    model.compile("scce", npdl.optimizers.Adam(lr=0.01))
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_predicts_the_same(tmp_path, dtype):
    set_dtype(dtype)
    x = np.random.default_rng(1).normal(size=(9, 1, 4, 5)).astype(dtype)
    model = make_cnn()
    model.fit(x, np.arange(9) % 3, epochs=3, verbose=False)
    set_dtype("float32")
    model.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    loaded = npdl.load_model(tmp_path / "model")
    assert get_dtype() == np.float32
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.predict(x).dtype == dtype
    assert type(loaded.optimizer) is npdl.optimizers.Adam and loaded.optimizer.lr == 0.01
    assert loaded.evaluate(x, np.arange(9) % 3) == model.evaluate(x, np.arange(9) % 3)


def test_a_model_built_from_data_is_saved_with_its_shape(tmp_path):
    model = Model([Flatten(), Softmax(3)])
    model.compile()
    model.predict(X.reshape(15, 2, 2))
    model.save(tmp_path / "model.npz")
    loaded = npdl.load_model(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(X.reshape(-1, 2, 2)), model.predict(X[:, None]))


def test_json_round_trip():
    config = json.loads(json.dumps(make_cnn().to_json()))
    again = Model.from_json(config)
    assert again.to_json() == config
    assert [layer.name for layer in again.layers] == [entry["name"] for entry in config["layers"]]


def test_layers_of_ones_own_are_saved(tmp_path):
    model = Model([Dense(3, n_in=4), Scale(), Softmax(3)])
    model.compile()
    model.fit(X, LABELS, epochs=3, verbose=False)
    assert model.weights["scale_1/0"] is model.layers[1].factor
    model.save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match=r"Unknown layer 'Scale'.*custom_objects"):
        npdl.load_model(tmp_path / "model.npz")
    loaded = npdl.load_model(tmp_path / "model.npz", {"Scale": Scale})
    assert loaded.layers[1].factor != 1
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_weights_only(tmp_path):
    one, other = small(), small()
    assert not np.array_equal(one.predict(X), other.predict(X))
    one.save_weights(tmp_path / "w.npz")
    other.load_weights(tmp_path / "w.npz")
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_what_cannot_be_loaded(tmp_path):
    path = tmp_path / "w.npz"
    small().save_weights(path)
    with pytest.raises(ValueError, match=r"one that Model\.save wrote"):
        npdl.load_model(path)
    other = Model([Dense(6, n_in=4), Dropout(0.5), Softmax(3)])
    other.compile()
    before = other.predict(X)
    with pytest.raises(ValueError, match=r"'dense_1/W' must have shape \(4, 6\).*\(4, 5\)"):
        other.load_weights(path)
    np.testing.assert_array_equal(other.predict(X), before)
    other = Model([Dense(5, n_in=4)])
    other.compile("mse")
    with pytest.raises(ValueError, match=r"missing=\[\], unexpected=\['softmax_1/W'"):
        other.load_weights(path)


def test_nothing_is_saved_of_what_is_not_built(tmp_path):
    model = Model([Flatten(), Softmax(3)])
    model.compile()
    with pytest.raises(RuntimeError, match="built before save"):
        model.save(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "outputs, targets, right",
    [
        ([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [1, 0, 0], 2 / 3),
        ([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], [[0, 1], [1, 0], [1, 0]], 2 / 3),
        ([[[1, 0], [0, 1]], [[1, 0], [1, 0]]], [[0, 1], [1, 1]], 2 / 4),
        ([[0.2], [0.6], [0.7]], [0, 1, 0], 2 / 3),
        ([[0.2], [0.6], [0.7]], [[0], [1], [0]], 2 / 3),
        ([0.2, 0.6], [0, 1], 1),
    ],
)
def test_accuracy(outputs, targets, right):
    assert Model().accuracy(outputs, targets) == pytest.approx(right)


def test_accuracy_with_many_yes_or_no_answers():
    model = Model([Dense(3, n_in=4, activation="sigmoid")])
    model.compile(BCE)
    assert model.accuracy([[0.9, 0.8, 0.1]], [[1, 0, 0]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("outputs, targets", [((4, 3), (5,)), ((4, 3), (4, 2)), ((4, 1), (5,))])
def test_accuracy_of_what_does_not_fit(outputs, targets):
    with pytest.raises(ValueError, match=rf"Received: shape {re.escape(str(targets))}"):
        Model().accuracy(np.ones(outputs), np.ones(targets))
