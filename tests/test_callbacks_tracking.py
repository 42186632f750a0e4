"""Callbacks that report to other tools, with stand-ins for the tools, and with Optuna itself."""

import copy
import pickle
import sys
import types

import numpy as np
import pytest

import npdl
from npdl.callbacks import Callback, LiveCurves, OptunaPruning, Tracker
from npdl.layers import Linear
from npdl.optimizers import SGD

X = np.linspace(-1, 1, 10, dtype="f4")[:, None]


def fit(*callbacks, **kwargs):
    model = npdl.Model([Linear(1, n_in=1, init="one")])
    model.compile("mse", SGD(lr=0.1))
    options = {"epochs": 3, "batch_size": 4, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(X, 2 * X, callbacks=list(callbacks), **options)


# ----------------------------------------------------------------------------------------- Optuna


class Trial:
    """Prunes after some reports."""

    def __init__(self, limit):
        self.limit, self.reports = limit, []

    def report(self, value, step):
        self.reports.append((value, step))

    def should_prune(self):
        return len(self.reports) == self.limit


@pytest.fixture
def pruned(monkeypatch):
    """The exception of the stand-in for Optuna."""
    optuna = types.ModuleType("optuna")
    optuna.TrialPruned = type("TrialPruned", (Exception,), {})
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    return optuna.TrialPruned


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
def test_pruning_reports_each_epoch(pruned, monitor):
    trial = Trial(9)
    history = fit(OptunaPruning(trial, monitor), validation_split=0.2).history
    assert trial.reports == [(value, i) for i, value in enumerate(history[monitor])]
    assert {type(value) for value, _ in trial.reports} == {float}


def test_pruning_ends_the_trial(pruned):
    trial = Trial(2)
    with pytest.raises(pruned, match="pruned after epoch 2, loss 0"):
        fit(OptunaPruning(trial, "loss"))
    assert len(trial.reports) == 2


def test_pruning_where_the_value_is_missing(pruned):
    trial = Trial(1)
    with pytest.warns(RuntimeWarning, match="reports 'val_loss', which is not in the logs: loss"):
        fit(OptunaPruning(trial))
    assert trial.reports == []
    trial = Trial(5)
    fit(OptunaPruning(trial), validation_split=0.2, validation_freq=3)
    assert [step for _, step in trial.reports] == [2]


def test_pruning_needs_a_trial_and_optuna(monkeypatch):
    with pytest.raises(TypeError, match=r"`trial` must be a trial of Optuna\. Received: trial=3"):
        OptunaPruning(3)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'npdl\[optuna\]'"):
        fit(OptunaPruning(Trial(1), "loss"))


def test_a_study_of_optuna():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        with npdl.use_rng(0):
            model = npdl.Model([Linear(1, n_in=1)])
            model.compile("mse", SGD(lr=lr))
            options = {"epochs": 6, "batch_size": 4, "verbose": 0}
            history = model.fit(X, 2 * X, callbacks=[OptunaPruning(trial, "loss")], **options)
            return history.history["loss"][-1]

    def run(jobs):
        sampler = optuna.samplers.RandomSampler(seed=1)
        pruner = optuna.pruners.ThresholdPruner(upper=0.5, n_warmup_steps=2)
        study = optuna.create_study(sampler=sampler, pruner=pruner)
        study.optimize(objective, n_trials=12, n_jobs=jobs)
        return study

    study = run(1)
    states = [trial.state.name for trial in study.trials]
    assert {*states} == {"COMPLETE", "PRUNED"}
    for trial in study.trials:
        last = max(trial.intermediate_values)
        assert last == 5 if trial.state.name == "COMPLETE" else 2 <= last
        assert trial.state.name == "COMPLETE" or trial.intermediate_values[last] > 0.5
    # In threads, a rate gives the same bits.
    values = {trial.params["lr"]: trial.intermediate_values for trial in study.trials}
    for trial in run(2).trials:
        assert values.get(trial.params["lr"], trial.intermediate_values) == (
            trial.intermediate_values
        )


# ---------------------------------------------------------------------------------------- Tracker


class Noise(Callback):
    """Adds values to the logs that are not single numbers."""

    def on_epoch_end(self, epoch, logs=None):
        logs |= {"confusion": np.eye(2), "half": np.float32(0.5), "nothing": None}


def test_tracker_hands_on_floats():
    calls = []
    history = fit(Noise(), Tracker(lambda values, step: calls.append((step, values))))
    assert [step for step, _ in calls] == [0, 1, 2]
    assert [values["loss"] for _, values in calls] == history.history["loss"]
    for _, values in calls:
        assert {*values} == {"loss", "half"} and {type(v) for v in values.values()} == {float}


def test_tracker_has_the_parameters_and_the_model():
    started, ended = [], []
    tracker = Tracker(lambda *_: None, on_start=started.append, on_end=ended.append)
    fit(tracker)
    (parameters,) = started
    assert parameters == {
        **{"epochs": 3, "steps": 3, "samples": 10, "loss": "MeanSquaredError"},
        **{"optimizer": "SGD", "lr": 0.1, "parameters": 2},
    }
    assert ended == [tracker.model]


def test_tracker_takes_the_functions_of_trackers():
    """Stand-ins with the signatures of wandb.log, trackio.log and mlflow.log_metrics."""
    seen = []

    def wandb_log(data, step=None, commit=None):
        seen.append((data, step, commit))

    def mlflow_log_metrics(metrics, step=None, synchronous=None):
        seen.append((metrics, step, synchronous))

    for log in (wandb_log, mlflow_log_metrics):
        fit(Tracker(log), epochs=1)
    assert seen[0] == seen[1] and seen[0][1:] == (0, None)


@pytest.mark.parametrize("name", ["log", "on_start", "on_end"])
def test_tracker_needs_functions(name):
    with pytest.raises(TypeError, match=f"`{name}` must be a function. Received: {name}='x'"):
        Tracker(**{"log": print, name: "x"})
    with pytest.raises(TypeError, match="`log` must be a function"):
        Tracker(None)


# ------------------------------------------------------------------------------------- LiveCurves


@pytest.fixture
def notebook(monkeypatch):
    """The pictures that a notebook shows: a list for each place, the last one is seen."""
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    shown = []

    class Handle:
        def update(self, image):
            shown[-1].append(image)

    def display(image, display_id):
        assert display_id is True
        shown.append([image])
        return Handle()

    module = types.ModuleType("IPython.display")
    module.Image, module.display = bytes, display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_live_curves_are_one_picture(notebook):
    curves = LiveCurves()
    fit(curves, epochs=2, validation_split=0.2)
    assert [len(place) for place in notebook] == [2]
    assert all(image.startswith(b"\x89PNG") for image in notebook[0])
    assert notebook[0][0] != notebook[0][1]
    for again in (curves, pickle.loads(pickle.dumps(curves)), copy.deepcopy(curves)):
        fit(again, epochs=1)
    assert [len(place) for place in notebook] == [2, 1, 1, 1]  # each run has a picture of its own


@pytest.mark.parametrize("epochs, pictures", [(1, 1), (3, 1), (4, 2)])
def test_live_curves_of_every_third_epoch_and_the_last(notebook, epochs, pictures):
    curves = LiveCurves(every=3)
    history = fit(curves, epochs=epochs)
    assert [len(place) for place in notebook] == [pictures]
    assert curves.get_state() == history.get_state()
    other = LiveCurves()
    other.set_state(curves.get_state())
    assert other.get_state() == curves.get_state()


@pytest.mark.parametrize(
    "missing, message",
    [("IPython.display", "by IPython: pip install"), ("matplotlib.figure", r"'npdl\[plot\]'")],
)
def test_live_curves_say_what_is_missing(notebook, monkeypatch, missing, message):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        fit(LiveCurves())
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        LiveCurves(every=0)
