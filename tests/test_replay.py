"""Replayed training steps give the bits of the layers, also after changes in between."""

import copy
import importlib
import pickle

import numpy as np
import pytest

import npdl
from npdl import Model, optimizers
from npdl._ext import kernels, use_backend
from npdl.layers import (
    Activation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    GlobalMeanPooling,
    LeakyReLU,
    Linear,
    MaxPooling,
    MeanPooling,
    Reshape,
    Softmax,
)
from npdl.regularizers import L2
from npdl.replay import SUMMED, Replays
from npdl.training import train_step

compiled = pytest.mark.skipif(not kernels().recorded, reason="the twins are not recorded")


@pytest.fixture
def walked(monkeypatch):
    """A function that switches replaying off for the rest of the test."""

    def switch():
        monkeypatch.setattr(Replays, "passes", lambda *_: None)
        monkeypatch.setattr(Replays, "whole", lambda *_: None)

    return switch


def batch(shape, k, n=12, seed=0, rows=False, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *shape)).astype(dtype)
    y = rng.integers(0, k, n)
    return x, np.eye(k, dtype=dtype)[y] if rows else y


NETS = {
    "dense": (lambda: [Dense(7, activation="relu"), Dense(5), Softmax(3)], (4,)),
    "gelu": (lambda: [Dense(7, activation="gelu"), Linear(6), LeakyReLU(0.1), Softmax(3)], (4,)),
    "dropout": (lambda: [Dropout(0.2), Dense(40), Dropout(0.5), Softmax(3)], (30,)),
    "images": (
        lambda: [
            *(Convolution(4, 3, activation="tanh", padding="same"), MaxPooling(2)),
            *(Convolution(3, 3, activation="relu"), MeanPooling(2), Flatten(), Softmax(3)),
        ],
        (2, 10, 10),
    ),
    "shapes": (
        lambda: [
            *(Flatten(), Dense(36), Reshape((4, 3, 3)), Convolution(4, 3, padding="same")),
            *(Activation("sigmoid"), GlobalMeanPooling(), Dense(5, use_bias=False), Softmax(3)),
        ],
        (3, 4),
    ),
}
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(lr=0.1),
    "momentum": lambda: optimizers.Momentum(lr=0.05, decay=0.1),
    "nesterov": lambda: optimizers.NesterovMomentum(lr=npdl.schedules.CosineDecay(0.1, 9)),
    "adagrad": lambda: optimizers.Adagrad(lr=0.1),
    "rmsprop": lambda: optimizers.RMSprop(lr=0.01),
    "adadelta": lambda: optimizers.Adadelta(lr=0.5),
    "adam": lambda: optimizers.Adam(lr=0.01),
    "adamax": lambda: optimizers.Adamax(lr=0.01),
    "adamw": lambda: optimizers.AdamW(lr=0.01),
    "clipped": lambda: optimizers.SGD(lr=0.1, global_clipnorm=0.1),
    "accumulating": lambda: optimizers.Adam(lr=0.01, gradient_accumulation_steps=3),
    "averaging": lambda: optimizers.SGD(lr=0.1, use_ema=True),
}


def built(net, optimizer, loss="scce", dtype="float32"):
    npdl.utils.set_seed(3)
    layers, shape = NETS[net]
    with npdl.utils.use_dtype(dtype):
        model = Model(layers())
        model.compile(loss, OPTIMIZERS[optimizer]())
        model.build((None, *shape))
    return model, shape


def state(model):
    """All bits of a model and its optimizer, and the next number of the generator."""
    slots = model.optimizer.get_state()["slots"]
    arrays = [a for name in slots for a in slots[name].values()]
    drawn = npdl.utils.get_rng().integers(2**62)
    weights = [a.tobytes() for a in model.get_weights()]
    return weights, [a.tobytes() for a in arrays], model.optimizer.iterations, drawn


def trained(net, optimizer, change=None, steps=9, rows=False, **more):
    """The losses, outputs and final state of a model that is trained step by step."""
    model, shape = built(net, optimizer, **more)
    seen = []
    with model.training():
        for i in range(steps):
            if change is not None and i == 5:
                change(model)
            x, y = batch(shape, 3, seed=i, rows=rows, dtype=more.get("dtype", "float32"))
            loss, p = train_step(model, x, y)
            seen.append((loss, p.tobytes()))
        step = model.whole_step(model.batch_of(x, y))
    return (seen, state(model)), step


def same_when_walked(walked, *args, **more):
    """Train, once more with all layers by themselves, compare; return the last whole step."""
    found, step = trained(*args, **more)
    walked()
    assert trained(*args, **more)[0] == found
    return step


@compiled
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks(net, dtype, walked):
    rows = dtype == "float64"
    found, step = trained(net, "adam", dtype=dtype, rows=rows)
    assert step is not None
    threads = npdl.get_num_threads()
    npdl.set_num_threads(1 if threads > 1 else 2)
    try:
        assert trained(net, "adam", dtype=dtype, rows=rows)[0] == found
    finally:
        npdl.set_num_threads(threads)
    walked()
    assert trained(net, "adam", dtype=dtype, rows=rows)[0] == found


@compiled
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer, walked):
    assert same_when_walked(walked, "dense", optimizer) is not None


class Doubled:
    """A loss that a user wrote; its gradient is in float64."""

    def forward(self, outputs, targets):
        return float(((outputs - targets) ** 2).sum())

    def backward(self, outputs, targets):
        return 2.0 * (outputs.astype(np.float64) - targets)


@compiled
@pytest.mark.parametrize("loss", ["mse", "kl_divergence", Doubled()])
@pytest.mark.parametrize("net", ["dense", "dropout"])
def test_other_losses_run_between_replayed_passes(net, loss, walked):
    assert same_when_walked(walked, net, "adam", loss=loss, rows=True) is None


CHANGES = {
    "rate": lambda m: setattr(m.optimizer, "lr", 0.7),
    "schedule": lambda m: setattr(m.optimizer, "lr", npdl.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "beta": lambda m: setattr(m.optimizer, "beta1", 0.5),
    "weights": lambda m: setattr(m.layers[0], "W", np.ones_like(m.layers[0].W)),
    "frozen first": lambda m: setattr(m.layers[0], "trainable", False),
    "frozen last": lambda m: setattr(m.layers[-1], "trainable", False),
    "frozen and not": lambda m: [setattr(m, "trainable", on) for on in (False, True)],
    "activation": lambda m: setattr(m.layers[0], "activation", npdl.activations.SELU()),
    "no softmax": lambda m: setattr(m.layers[-1], "activation", npdl.activations.Sigmoid()),
    "clipping": lambda m: setattr(m.optimizer, "clip", 0.001),
    "decay": lambda m: setattr(m.optimizer, "weight_decay", 0.1),
    "optimizer's state": lambda m: m.optimizer.set_state(m.optimizer.get_state()),
    "smoothing": lambda m: setattr(m.loss, "label_smoothing", 0.1),
    "sum": lambda m: setattr(m.loss, "reduction", "sum"),
    "weight of the loss": lambda m: setattr(m.heads[0], "weight", 0.5),
    "compiled again": lambda m: m.compile("scce", optimizers.SGD(lr=0.2)),
    "forward": lambda m: setattr(m.layers[0], "forward", twice(m.layers[0].forward)),
    "threads": lambda m: npdl.set_num_threads(npdl.get_num_threads()),
    "another pass": lambda m: m.layers[0].forward(np.ones((3, 4), np.float32)),
    "prediction": lambda m: m.predict(np.ones((12, 4), np.float32)),
    "evaluation": lambda m: m.evaluate(*batch((4,), 3)),
    "copied": lambda m: (copy.deepcopy(m), pickle.loads(pickle.dumps(m))),
}


def twice(forward):
    return lambda x, train=True: 2 * forward(x, train=train)


@compiled
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_between_steps(change, walked):
    same_when_walked(walked, "dense", "adam", change, steps=12)


@compiled
@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.layers[0], "regularizer", L2(0.1)),
        lambda m: setattr(m.layers[0], "p", 0.7),
        lambda m: m.compile("mse", "sgd"),
        lambda m: (m.pop(), m.add(Softmax(3)), m.compile("scce", "adam"), m.build((None, 30))),
        lambda m: m.layers[1].connect_to(m.layers[0]),
    ],
)
def test_changes_between_training_runs(change, walked):
    def result():
        model, shape = built("dropout", "adam")
        for i in range(14):
            if i == 7:
                change(model)
            model.train_on_batch(*batch(shape, 3, seed=i, rows=True))
        return state(model)

    found = result()
    walked()
    assert result() == found


class Clipped(npdl.activations.Activation):
    """An activation that a user wrote, which no kernel computes."""

    def forward(self, input):
        return np.clip(input, -0.5, 0.5)

    def backward(self, x, y, dy):
        return dy * (np.abs(x) < 0.5)


@compiled
@pytest.mark.parametrize(
    "hidden",
    [
        lambda: [Dense(7, activation=Clipped())],
        lambda: [Dense(7), Activation(Clipped())],
        lambda: [Dense(7), Activation("log_softmax")],
    ],
    ids=["fused", "layer", "softmax"],
)
def test_steps_that_begin_all_alike(hidden, walked):
    """What NumPy computed in the recorded step must not pass as the tape's."""

    def result():
        npdl.utils.set_seed(3)
        model = Model([*hidden(), Dense(5), Softmax(3)])
        model.compile("scce", optimizers.SGD(lr=0.0))
        model.build((None, 4))
        for i in range(9):
            if i == 5:
                model.optimizer.lr = 0.1
            model.train_on_batch(*batch((4,), 3, seed=max(i, 5)))
        return state(model)

    found = result()
    walked()
    assert result() == found


def test_a_gradient_of_another_shape_is_an_error_in_every_step():
    class Loss:
        def forward(self, outputs, targets):
            return 0.0

        def backward(self, outputs, targets):
            shape = wrong.get(i, outputs.shape)
            return None if shape is None else np.zeros(shape)

    wrong = {0: None, 2: (3,), 7: (12, 2), 8: None}
    model, shape = built("dense", "sgd", loss=Loss())
    for i in range(9):
        if i in wrong:
            with pytest.raises(ValueError, match=r"Loss.backward must return .* \(12, 3\)"):
                model.train_on_batch(*batch(shape, 3, rows=True))
        else:
            model.train_on_batch(*batch(shape, 3, rows=True))


@compiled
def test_a_penalty_that_comes_during_an_epoch_counts_from_the_next_one_on(walked):
    x, y = batch((4,), 3, n=96)

    class Penalty(npdl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.layers[0].regularizer = self.model.layers[0].regularizer or L2(0.1)

    def result():
        model, _ = built("dense", "adam")
        history = model.fit(x, y, epochs=3, batch_size=12, verbose=0, callbacks=[Penalty()])
        return history.history, state(model)

    found = result()
    walked()
    assert result() == found


@compiled
def test_batches_that_are_not_aligned(walked):
    def result():
        model, shape = built("dropout", "adam")
        with model.training():
            for i in range(9):
                x, y = batch(shape, 3, seed=i)
                memory = np.zeros(x.nbytes + 64, np.uint8)
                start = 1 - memory.ctypes.data % 64
                odd = np.frombuffer(memory.data, x.dtype, x.size, start % 64).reshape(x.shape)
                odd[...] = x
                assert not odd.flags.aligned
                train_step(model, x if i in (5, 6) else odd, y)
        return state(model)

    found = result()
    walked()
    assert result() == found


def test_backward_after_training_is_an_error():
    """The layers have not seen the batches of replayed steps."""
    model, shape = built("dense", "adam")
    for i in range(4):
        model.train_on_batch(*batch(shape, 3, seed=i))
        with pytest.raises(RuntimeError, match="must come after a training forward pass"):
            model.backward(np.ones((12, 3), np.float32))


@compiled
def test_batches_that_are_not_alike(walked):
    def result():
        model, shape = built("dropout", "adam")
        seen = []
        with model.training():
            for i in range(60):
                x, y = batch(shape, 3, n=12 if i % 12 < 9 else 7, seed=i)
                weight = None if i % 10 else np.linspace(0, 1, len(x))
                if i % 4 == 1:
                    x, y = x.astype(np.float64), y.astype(np.int8)
                if i % 5 == 3:
                    x, y = np.asfortranarray(x), y[:, None]
                if i % 9 == 8:
                    y = np.eye(3)[y.ravel()].astype(np.float32 if i % 2 else int)
                if i == 30:
                    with use_backend("numpy"):
                        train_step(model, x, y)
                seen.append(train_step(model, x, y, weight)[0])
        return seen, state(model)

    found = result()
    walked()
    assert result() == found


@compiled
def test_fit(walked, tmp_path):
    x, y = batch((4,), 3, n=130)

    class Rates(npdl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            self.model.optimizer.lr *= 0.99
            self.seen = logs["loss"], logs["acc"]

    def result():
        model, _ = built("dense", "adam")
        rates = Rates()
        options = {"batch_size": 12, "verbose": 0, "callbacks": [rates]}
        first = model.fit(x, y, epochs=2, validation_split=0.1, **options)
        model.save(tmp_path / "model.safetensors")
        model = npdl.load_model(tmp_path / "model.safetensors")
        second = model.fit(x, y, epochs=2, **options)
        return first.history, second.history, rates.seen, state(model)

    found = result()
    walked()
    assert result() == found


@compiled
def test_bad_batches_are_errors_and_change_nothing():
    model, shape = built("dropout", "adam")
    with model.training():
        for i in range(6):
            train_step(model, *batch(shape, 3, seed=i))
        x, y = batch(shape, 3)
        assert model.whole_step(model.batch_of(x, y)) is not None
        before = [a.tobytes() for a in model.get_weights()]
        for label in (3, -1):
            with pytest.raises(ValueError, match=r"must lie in \[0, 3\)"):
                train_step(model, x, np.where(y == 1, label, y))
        assert [a.tobytes() for a in model.get_weights()] == before
        train_step(model, x, y)


@compiled
def test_a_loss_that_is_not_finite(walked):
    x, y = batch((4,), 3, n=96)
    x[90] = np.inf

    def result():
        model, _ = built("dense", "sgd")
        with pytest.warns(RuntimeWarning) as caught:
            model.fit(x, y, epochs=1, batch_size=12, shuffle=False, verbose=0)
        return [str(w.message) for w in caught], [a.tobytes() for a in model.get_weights()]

    found = result()
    walked()
    assert result() == found


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tape_adds_losses_as_numpy_does(dtype):
    make = importlib.import_module("npdl._ext.tape").Tape
    numbers = np.random.default_rng(0)
    for n in [*range(1, 300), 1000, 1600, 4103, 8191, SUMMED]:
        losses = (10 ** numbers.uniform(-6, 6, n)).astype(dtype)
        tape = make([(lambda: None, [])], [], losses, 0)
        tape.play([])
        assert tape.total == np.add.reduce(losses, axis=None, dtype=np.float64)


@compiled
def test_a_watch_sees_every_change():
    tape = importlib.import_module("npdl._ext.tape")

    class Layer:
        pass

    layer, names = Layer(), {"p": 1, "q": 2}
    layer.x = array = np.ones(1)
    watch = tape.Watch([(layer, "x")], [(names, frozenset({"may", "come"}))])
    steps = [
        ({"may": 3}, True),
        ({"may": 3, "other": 4}, False),
        ({"may": 3, "come": 4}, True),
        ({"may": 3, "p": 5}, False),
    ]
    for change, same in steps:
        names.update(change)
        assert watch.same() is same
        names.clear()
        names.update(p=1, q=2)
        assert watch.same()
    del names["q"]
    assert not watch.same()
    names["q"] = 2
    layer.x = array.copy()
    assert not watch.same()
    layer.x = array
    assert watch.same()


@compiled
def test_a_watch_compares_the_bytes_of_arrays():
    one, other = np.zeros(300), np.zeros(300)
    watch = importlib.import_module("npdl._ext.tape").Watch([], [], [(one, other)])
    assert watch.same()
    for array in (one, other):
        array[-1] = -0.0
        assert not watch.same()
        array[-1] = 0
        assert watch.same()


def test_a_replaced_method_of_a_class_is_called_at_each_step(monkeypatch):
    calls, usual = [], Dense.forward
    monkeypatch.setattr(
        Dense, "forward", lambda self, x, train=True: [calls.append(1), usual(self, x)][1]
    )
    model = Model([Dense(3, n_in=2), Softmax(2)])
    model.compile("scce")
    x = np.ones((40, 2), "float32")
    model.fit(x, np.arange(40) % 2, epochs=5, batch_size=4, verbose=0)
    assert len(calls) >= 50
