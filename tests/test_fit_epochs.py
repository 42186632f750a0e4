"""Training runs: epoch by epoch, batch by batch, and resumed, with the same bits."""

import numpy as np
import pytest
from fit_cases import COUNT, LABELS, WEIGHTS, Seen, X, classifier, fit, same_weights

import npdl
from npdl import Model
from npdl.callbacks import Callback, LambdaCallback
from npdl.data import Background, Batches
from npdl.layers import Dense, Dropout, Linear, Softmax
from npdl.objectives import MSE
from npdl.optimizers import SGD
from npdl.utils import get_rng, set_seed

# ------------------------------------------------------------------------- epochs, one by one


def test_initial_epoch_and_validation_freq():
    heard = []
    listen = LambdaCallback(on_epoch_begin=lambda epoch, logs: heard.append(epoch))
    history = fit(
        *(classifier(), X, LABELS),
        epochs=6,
        initial_epoch=2,
        validation_split=0.2,
        validation_freq=2,
        callbacks=[listen],
    )
    assert heard == history.epoch == [2, 3, 4, 5] and history.epochs == [3, 4, 5, 6]
    assert len(history.history["val_loss"]) == 2 and len(history.history["loss"]) == 4
    assert fit(classifier(), X, LABELS, epochs=2, initial_epoch=2).epochs == []


def test_one_batch_at_a_time():
    one, other = classifier(), classifier()
    history = fit(one, X, LABELS, epochs=1, batch_size=70, shuffle=False)
    score = other.train_on_batch(X, LABELS)
    assert score == pytest.approx((history.history["loss"][0], history.history["acc"][0]))
    same_weights(one, other)
    assert other.test_on_batch(X, LABELS) == pytest.approx(other.evaluate(X, LABELS))
    assert other.test_on_batch(X, LABELS, return_dict=True) == pytest.approx(
        other.evaluate(X, LABELS, return_dict=True)
    )
    np.testing.assert_array_equal(other.predict_on_batch(X), other.predict(X))
    assert set(other.train_on_batch(X, LABELS, WEIGHTS, {0: 2.0}, return_dict=True)) == {
        "loss",
        "acc",
    }
    assert not other.layers[0].keep_buffers


def test_reset_states_of_layers_of_ones_own():
    class Stateful(Seen):
        def reset_states(self):
            self.seen = "reset"

    model = Model([Stateful(), Linear(1, n_in=1)])
    model.reset_states()
    assert model.layers[0].seen == "reset"


def regression(lr=0.0):
    set_seed(1)
    model = Model([Linear(1, n_in=1)])
    model.compile(MSE, SGD(lr=lr))
    return model


def test_a_moving_average_takes_the_place_of_the_weights_at_the_end():
    values = []
    model = regression(lr=0.01)
    model.compile(MSE, SGD(lr=0.01, use_ema=True, ema_momentum=0.5))
    note = LambdaCallback(
        on_train_batch_end=lambda batch, logs: values.append(float(model.layers[0].W[0, 0]))
    )
    fit(model, COUNT, COUNT, batch_size=4, shuffle=False, epochs=1, callbacks=[note])
    mean = values[0]
    for value in values[1:]:
        mean = 0.5 * mean + 0.5 * value
    assert model.layers[0].W[0, 0] == pytest.approx(mean, rel=1e-5)


# -------------------------------------------------------------------------------------- resuming


class Snapshot(Callback):
    """Saves the whole state at a step and ends there, like a kill; or starts from such a state."""

    reads_batch_logs = False

    def __init__(self, place=None, state=None):
        self.place, self.state = place, state

    def on_train_begin(self, logs=None):
        if self.state is not None:
            weights, optimizer, lr, loop = self.state
            for name, array in self.model.weights.items():
                array[...] = weights[name]
            self.model.optimizer.set_state(optimizer)
            self.model.optimizer.lr = lr
            self.model.loop.set_state(loop)

    def on_step_boundary(self, epoch, batch):
        if (epoch, batch) == self.place:
            weights = {name: array.copy() for name, array in self.model.weights.items()}
            optimizer = self.model.optimizer
            self.state = (
                weights,
                optimizer.get_state(),
                optimizer.lr,
                self.model.loop.get_state(),
            )
            raise KeyboardInterrupt


def training(data, callbacks, seed=4):
    """A training run with everything that has a state; `seed` differs before it starts."""
    set_seed(seed)
    model = Model([Dense(8, n_in=4), Dropout(0.3), Softmax(3)])
    metrics = ["acc", "auc", "f1", npdl.metrics.ConfusionMatrix()]
    model.compile("scce", npdl.optimizers.Adam(lr=0.05), metrics=metrics)
    plain = [
        npdl.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True, min_delta=0.02),
        npdl.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.05),
        npdl.callbacks.LearningRateScheduler(lambda epoch, lr: 0.97 * lr),
    ]
    *data, options = data()
    options = {"validation_data": (X, LABELS), "epochs": 6, "verbose": 0, **options}
    history = model.fit(*data, callbacks=[*callbacks, *plain], **options)
    return model, history


class OwnOrder:
    """Batches in their own order, which can be resumed."""

    def __init__(self):
        self.rng = np.random.default_rng(8)

    def __iter__(self):
        for index in np.array_split(self.rng.permutation(70), 4):
            yield X[index], LABELS[index]

    def get_state(self):
        return self.rng.bit_generator.state

    def set_state(self, state):
        self.rng.bit_generator.state = state


DATA = {
    "arrays": lambda: (X, LABELS, {"batch_size": 20}),
    "steps": lambda: (X, LABELS, {"batch_size": 20, "steps_per_epoch": 3}),
    "Batches": lambda: (Batches(X, LABELS, batch_size=20), {}),
    "Background": lambda: (Background(Batches(X, LABELS, batch_size=20)), {"steps_per_epoch": 3}),
    "own order": lambda: (OwnOrder(), {}),
    "seeded": lambda: (Background(Batches(X, LABELS, batch_size=20, seed=3)), {}),
    "generator": lambda: (
        (b for _ in range(9) for b in Batches(X, LABELS, batch_size=20, shuffle=False)),
        {"steps_per_epoch": 4},
    ),
}


@pytest.mark.parametrize("place", [(1, 0), (3, 0), (0, 1), (2, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("data", DATA)
def test_training_that_is_resumed_gives_the_same_bits(data, place):
    model, history = training(DATA[data], [])
    stop = Snapshot(place)
    _, cut = training(DATA[data], [stop])
    assert cut.interrupted and stop.state is not None
    other, resumed = training(DATA[data], [Snapshot(state=stop.state)], seed=99)
    for name, array in model.weights.items():
        np.testing.assert_array_equal(array, other.weights[name])
    assert resumed.epochs == history.epochs and list(resumed.history) == list(history.history)
    for name, values in history.history.items():
        np.testing.assert_array_equal(values, resumed.history[name], err_msg=name)
    assert model.optimizer.lr == other.optimizer.lr


def test_the_same_random_numbers_follow():
    training(DATA["arrays"], [])
    wanted = get_rng().random()
    stop = Snapshot((2, 2))
    training(DATA["arrays"], [stop])
    training(DATA["arrays"], [Snapshot(state=stop.state)], seed=99)
    assert get_rng().random() == wanted


def test_a_state_of_other_data_is_refused():
    stop = Snapshot((0, 3))
    training(DATA["arrays"], [stop])
    with pytest.raises(ValueError, match=r"must be one of 20 samples.*start=60"):
        training(lambda: (X[:20], LABELS[:20], {}), [Snapshot(state=stop.state)])
