"""`npdl.callbacks`: the order of calls, and the behavior of each callback, as in Keras."""

import copy
import csv
import pickle

import numpy as np
import pytest

import npdl
from npdl import Model
from npdl.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    Monitor,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from npdl.callbacks.base import HOOKS
from npdl.layers import Linear
from npdl.optimizers import SGD

X = np.linspace(-1, 1, 10, dtype="f4")[:, None]


def regression(lr=0.1):
    model = Model([Linear(1, n_in=1, init="one")])
    model.compile("mse", SGD(lr=lr))
    return model


def fit(*callbacks, model=None, **kwargs):
    model = model or regression()
    options = {"epochs": 3, "batch_size": 4, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, 2 * X, callbacks=list(callbacks), **options)


class Script(Callback):
    """Writes given values into the logs, epoch by epoch, before other callbacks read them."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


def scripted(callback, values, name="val_loss", **kwargs):
    """The history of a training run with these values of a metric."""
    return fit(Script(name, values), callback, epochs=len(values), **kwargs)


# ------------------------------------------------------------------------------------ the hooks


def recorder(calls):
    """A callback that records its calls, without their logs."""

    def note(hook):
        return lambda *args: calls.append((hook, *args[:-1]))

    other_names = ("on_batch_begin", "on_batch_end")
    every = {hook: note(hook) for hook in HOOKS if hook not in other_names}
    every["on_metrics_ready"] = lambda metrics: calls.append(("on_metrics_ready",))
    every["on_step_boundary"] = lambda *place: calls.append(("on_step_boundary", *place))
    return LambdaCallback(**every)


#: An evaluation in three batches.
EVALUATION = [
    ("on_test_begin",),
    *((f"on_test_batch_{when}", i) for i in range(3) for when in ("begin", "end")),
    ("on_metrics_ready",),
    ("on_test_end",),
]


def test_hooks_of_fit_in_order():
    calls = []
    fit(recorder(calls), epochs=2, validation_data=(X, X))
    wanted = [("on_train_begin",)]
    for epoch in range(2):
        wanted.append(("on_epoch_begin", epoch))
        for i in range(3):
            wanted += [("on_train_batch_begin", i), ("on_train_batch_end", i)]
            wanted.append(("on_step_boundary", epoch, i + 1))
        wanted += [("on_metrics_ready",), *EVALUATION, ("on_epoch_end", epoch)]
        wanted.append(("on_step_boundary", epoch + 1, 0))
    assert calls == [*wanted, ("on_train_end",)]


def test_hooks_of_evaluate_and_predict_in_order():
    model, calls = regression(), []
    model.evaluate(X, X, batch_size=4, callbacks=recorder(calls))
    assert calls == EVALUATION
    calls.clear()
    model.predict(X, batch_size=5, callbacks=[recorder(calls)])
    batches = [(f"on_predict_batch_{when}", i) for i in range(2) for when in ("begin", "end")]
    assert calls == [("on_predict_begin",), *batches, ("on_predict_end",)]


def test_on_batch_is_another_name():
    heard = []

    class Old(Callback):
        def on_batch_begin(self, batch, logs=None):
            heard.append(batch)

        def on_batch_end(self, batch, logs=None):
            heard.append(set(logs))

    fit(Old(), epochs=1, batch_size=5)
    assert heard == [0, {"loss"}, 1, {"loss"}]


def test_what_callbacks_are_told():
    class Told(Callback):
        def on_train_begin(self, logs=None):
            self.told = dict(self.params), self.model

        def on_predict_batch_end(self, batch, logs=None):
            self.outputs = logs["outputs"]

    told, model = Told(), regression()
    fit(told, model=model)
    params, its_model = told.told
    assert its_model is model
    assert params == {"verbose": 0, "epochs": 3, "steps": 3, "samples": 10, "file": None}
    outputs = model.predict(X, callbacks=told)
    np.testing.assert_array_equal(told.outputs, outputs)


def test_logs_of_batches_are_of_the_epoch_so_far_and_those_of_epochs_are_whole():
    batches, epochs, tests = [], [], []
    note = LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(dict(logs)),
        on_epoch_end=lambda epoch, logs: epochs.append(dict(logs)),
        on_test_batch_end=lambda batch, logs: tests.append(dict(logs)),
    )
    model = regression(lr=0.0)
    model.compile("mse", SGD(lr=0.0), metrics=["mae", "auc"])
    y = (X > 0).astype("f4")
    model.fit(
        *(X, y), epochs=1, batch_size=4, shuffle=False, verbose=0, callbacks=note,
        validation_data=(X, y),
    )  # fmt: skip
    error = np.square(X - y)
    wanted = [error[:4].mean(), error[:8].mean(), error.mean()]
    assert [logs["loss"] for logs in batches] == pytest.approx(wanted)
    assert all(set(logs) == {"loss", "mae"} for logs in batches)  # an area needs all samples
    assert [logs["loss"] for logs in tests] == pytest.approx(wanted)
    assert set(epochs[0]) == {"loss", "mae", "auc", "val_loss", "val_mae", "val_auc"}


def test_no_results_are_computed_for_batches_that_no_callback_reads(monkeypatch):
    calls = []
    results = npdl.training.RunningMetrics.results
    count = lambda self, everything=True: calls.append(everything) or results(self, everything)  # noqa: E731
    monkeypatch.setattr(npdl.training.RunningMetrics, "results", count)

    class Quiet(Callback):
        reads_batch_logs = False

        def on_train_batch_end(self, batch, logs=None):
            assert logs is None

    fit(Quiet(), EarlyStopping("loss"))
    assert calls == [True] * 3
    fit(LambdaCallback(on_train_batch_end=lambda batch, logs: None), epochs=1)
    assert calls[3:] == [False] * 3 + [True]


def test_callbacks_that_define_no_hook_of_batches_are_not_asked():
    callbacks = CallbackList([Callback(), EarlyStopping(), History()])
    for hook in HOOKS:
        assert callbacks.wants(hook) == (hook in ("on_train_begin", "on_epoch_end", "on_train_end"))


def test_what_an_earlier_callback_adds_is_in_the_history():
    history = fit(Script("mine", [1, 2, 3]))
    assert history.history["mine"] == [1, 2, 3]


def test_a_callback_that_fails_leaves_the_model_as_it_was():
    def fail(batch, logs):
        raise KeyError("stop")

    model = regression()
    with pytest.raises(KeyError, match="stop"):
        fit(LambdaCallback(on_train_batch_end=fail), model=model)
    assert model.loop is None and not model.layers[0].keep_buffers


def test_lambda_callback_knows_the_hooks():
    with pytest.raises(TypeError, match=r"has the hooks on_train_begin, .*hook='on_epoch'"):
        LambdaCallback(on_epoch=print)
    LambdaCallback(on_epoch_end=None)


# ---------------------------------------------------------------------------- history, monitor


def test_history_goes_by_keras_names_too():
    model = Model([npdl.layers.Softmax(2, n_in=1)])
    model.compile("scce")
    history = model.fit(X, (X[:, 0] > 0).astype(int), epochs=2, verbose=0, validation_split=0.3)
    assert history.history["accuracy"] == history.history["acc"]
    assert history.history["val_accuracy"] == history.history["val_acc"]
    assert list(history.history) == ["loss", "acc", "val_loss", "val_acc"]
    assert history.epoch == [0, 1] and history.epochs == [1, 2]
    for again in (pickle.loads(pickle.dumps(history)), copy.deepcopy(history)):
        assert again.history == history.history and again.epochs == history.epochs
    with pytest.raises(KeyError):
        history.history["val_foo"]


@pytest.mark.parametrize(
    "name, mode",
    [
        *[("loss", "min"), ("val_loss", "min"), ("val_acc", "max"), ("val_accuracy", "max")],
        *[("auc", "max"), ("val_f1", "max"), ("val_mae", "min"), ("perplexity", "min")],
    ],
)
def test_which_way_is_better(name, mode):
    assert Monitor(name).mode == mode


def test_the_metric_defines_which_way_is_better():
    class Wins(npdl.metrics.Accuracy):
        pass

    model = Model([npdl.layers.Softmax(2, n_in=1)])
    model.compile("scce", metrics=[Wins(name="wins"), npdl.metrics.MeanAbsoluteError("accidents")])
    for name, mode in [("val_wins", "max"), ("accidents", "min")]:
        monitor = Monitor(name)
        monitor.bind(model)
        assert monitor.mode == mode
    fixed = Monitor("wins", "min")
    fixed.bind(model)
    assert fixed.mode == "min"


@pytest.mark.parametrize("callback", [EarlyStopping(), ReduceLROnPlateau()])
def test_a_figure_that_is_not_there(callback):
    with pytest.warns(RuntimeWarning, match="watches 'val_loss', which is not there.*: loss") as w:
        fit(callback)
    assert len(w) == 1 and w[0].filename == __file__


# ---------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    "options, values, epochs, best",
    [
        ({}, [3, 2, 2, 1], 3, 1),
        ({"patience": 1}, [3, 2, 2, 1, 1, 0], 3, 1),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1, 0], 6, 3),
        ({"min_delta": 0.5}, [3, 2, 1.6, 0], 3, 1),
        ({"baseline": 1.5, "patience": 2}, [3, 2.5, 2.5, 2, 1], 3, 1),
        ({"start_from_epoch": 2}, [1, 2, 3, 2, 2], 5, 3),
        ({"monitor": "val_acc"}, [0.1, 0.2, 0.1, 0.3], 3, 1),
        ({"monitor": "val_accuracy"}, [0.1, 0.2, 0.1, 0.3], 3, 1),
        ({"monitor": "x", "mode": "max"}, [1, 2, 1, 3], 3, 1),
        ({"patience": 2}, [np.nan, 3, np.nan, np.nan, 1], 4, 1),
        ({}, [3, 4], 2, 0),
    ],
)
def test_early_stopping(options, values, epochs, best):
    callback = EarlyStopping(**options)
    name = options.get("monitor", "val_loss").replace("accuracy", "acc")
    history = scripted(callback, values, name)
    assert len(history.epochs) == epochs and callback.best_epoch == best
    assert callback.stopped_epoch == epochs - 1


@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("values", [[3, 1, 2, 2, 2], [3, 2, 1, 2]], ids=["stopped", "all epochs"])
def test_early_stopping_restores_the_best_weights(values, restore, capsys):
    weights, model = [], regression()
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(model.layers[0].W[0, 0]))
    callback = EarlyStopping(patience=2, restore_best_weights=restore, verbose=1)
    history = fit(Script("val_loss", values), note, callback, model=model, epochs=len(values))
    assert len(history.epochs) == 4
    assert model.layers[0].W[0, 0] == (weights[int(np.argmin(values))] if restore else weights[-1])
    out = capsys.readouterr().out
    assert ("restoring the weights of the best epoch" in out) == restore
    assert ("epoch 4: early stopping" in out) == (len(values) == 5)


def test_early_stopping_can_be_used_again():
    callback = EarlyStopping()
    for _ in range(2):
        assert len(scripted(callback, [1, 2, 3]).epochs) == 2


def test_terminate_on_nan(capsys):
    model = regression(lr=1e30)
    with pytest.warns(RuntimeWarning, match="The loss is"):
        history = fit(TerminateOnNaN(), model=model, epochs=5)
    assert len(history.epochs) == 1 and not np.isfinite(history.history["loss"][0])
    assert model.optimizer.iterations < 5
    assert "terminating" in capsys.readouterr().out


# -------------------------------------------------------------------------------------- rates


@pytest.mark.parametrize(
    "options, values, rates",
    [
        ({"patience": 1}, [3, 3, 3, 2], [0.1, 0.01, 0.001, 0.001]),
        ({"patience": 2, "factor": 0.5}, [3, 3, 3, 3, 3], [0.1, 0.1, 0.05, 0.05, 0.025]),
        ({"patience": 1, "cooldown": 1}, [3, 3, 3, 3], [0.1, 0.01, 0.001, 0.0001]),
        ({"patience": 1, "cooldown": 2}, [3] * 5, [0.1, 0.01, 0.01, 0.001, 0.001]),
        ({"patience": 1, "min_lr": 0.02}, [3, 3, 3], [0.1, 0.02, 0.02]),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2], [0.1, 0.01, 0.01]),
        ({"patience": 1, "monitor": "val_acc"}, [0.1, 0.2, 0.2], [0.1, 0.1, 0.01]),
        ({}, [3] * 11, [0.1] * 10 + [0.01]),
    ],
)
def test_reduce_lr_on_plateau(options, values, rates):
    model, seen = regression(), []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.optimizer.lr))
    callback = ReduceLROnPlateau(**options)
    script = Script(options.get("monitor", "val_loss"), values)
    history = fit(script, callback, note, model=model, epochs=len(values))
    assert seen == pytest.approx(rates)
    # In the logs is the rate of the epoch itself, as in Keras.
    assert history.history["learning_rate"] == pytest.approx([0.1, *rates[:-1]])


@pytest.mark.parametrize(
    "schedule, rates",
    [
        (lambda epoch, lr: lr / 2, [0.05, 0.025, 0.0125]),
        (lambda epoch: 0.1 / (1 + epoch), [0.1, 0.05, 0.1 / 3]),
        (max, [0.1, 1, 2]),
    ],
)
def test_learning_rate_scheduler(schedule, rates, capsys):
    history = fit(LearningRateScheduler(schedule, verbose=1))
    assert history.history["learning_rate"] == pytest.approx(rates)
    assert f"epoch 1: the learning rate is {rates[0]:.3g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LearningRateScheduler(0.1), TypeError, "`schedule` must be a function"),
        (
            lambda: ReduceLROnPlateau(factor=1.0),
            ValueError,
            r"`factor` must be a number in \(0, 1\)",
        ),
        (lambda: EarlyStopping(patience=-1), ValueError, "`patience` must be an integer >= 0"),
        (lambda: EarlyStopping(mode="best"), ValueError, "`mode` must be one of 'auto'"),
        (lambda: TensorBoard(update_freq="step"), ValueError, "`update_freq` must be 'epoch'"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_schedule_and_a_callback_for_the_rate_do_not_go_together():
    model = regression()
    model.compile("mse", SGD(lr=npdl.schedules.ExponentialDecay(0.1, 10, 0.9)))
    for callback in (ReduceLROnPlateau(), LearningRateScheduler(lambda epoch: 0.1)):
        with pytest.raises(TypeError, match="whose `lr` is a number"):
            fit(callback, model=model)
    with pytest.raises(ValueError, match="the result of `schedule`"):
        fit(LearningRateScheduler(lambda epoch: -1.0))


# -------------------------------------------------------------------------------------- files


def read(path, **kwargs):
    with open(path, newline="") as file:
        return list(csv.reader(file, **kwargs))


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    history = fit(CSVLogger(path), validation_data=(X, X))
    header, *rows = read(path)
    assert header == ["epoch", "loss", "val_loss"]
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    for column, name in ((1, "loss"), (2, "val_loss")):
        assert [float(row[column]) for row in rows] == history.history[name]
    fit(CSVLogger(path, append=True), epochs=1)
    assert read(path)[-1][2] == "NA" and len(read(path)) == 5
    fit(CSVLogger(path, separator=";"), epochs=1)
    assert read(path, delimiter=";")[0] == ["epoch", "loss"] and len(read(path)) == 2


def test_csv_logger_without_training_keeps_an_old_file(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path))
    before = path.read_bytes()
    fit(CSVLogger(path), epochs=1, initial_epoch=1)
    assert path.read_bytes() == before


def test_csv_logger_continues_after_a_kill(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path))
    wanted = path.read_text()
    kept = []

    class Kill(Callback):
        def on_step_boundary(self, epoch, batch):
            if (epoch, batch) == (1, 0):
                kept.extend([copy.deepcopy(self.model), self.model.loop.get_state()])
            if epoch == 2:
                raise KeyboardInterrupt

    class Restore(Callback):
        def on_train_begin(self, logs=None):
            self.model.loop.set_state(kept[1])

    fit(CSVLogger(path), Kill())
    assert path.read_text() == "".join(wanted.splitlines(keepends=True)[:3])
    fit(CSVLogger(path), Restore(), model=kept[0])
    assert path.read_text() == wanted


def test_csv_logger_has_the_columns_of_a_validation_that_comes_later(tmp_path):
    path = tmp_path / "log.csv"
    fit(CSVLogger(path), validation_data=(X, X), validation_freq=2)
    header, first, second, _ = read(path)
    assert header == ["epoch", "loss", "val_loss"] and first[2] == "NA" and float(second[2]) > 0


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the writer itself)

    history = fit(TensorBoard(tmp_path, update_freq=2), validation_data=(X, X))

    def scalars(part):
        (path,) = (tmp_path / part).iterdir()
        data, found = path.read_bytes(), []
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
        return found

    train, validation = scalars("train"), scalars("validation")
    for found, name in ((train, "loss"), (validation, "val_loss")):
        values = [(step, value) for tag, step, value in found if tag == "epoch_loss"]
        assert [step for step, _ in values] == [0, 1, 2]
        assert [value for _, value in values] == pytest.approx(history.history[name])
    assert [step for tag, step, _ in train if tag == "batch_loss"] == [2, 4, 6, 8]


def test_tensorboard_without_its_writer(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install npdl\[tensorboard\]"):
        fit(TensorBoard(tmp_path))
