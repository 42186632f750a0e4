"""Ctrl-C while a model is trained."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from npdl import Model
from npdl.callbacks import LambdaCallback
from npdl.layers import Linear
from npdl.objectives import MSE
from npdl.optimizers import SGD

COUNT = np.arange(10, dtype="f4")[:, None]


def regression():
    model = Model([Linear(1, n_in=1)])
    model.compile(MSE, SGD(lr=0.0))
    return model


def fit(model, *data, **kwargs):
    return model.fit(*data, **{"epochs": 2, "verbose": 0, **kwargs})


@pytest.fixture(autouse=True)
def _interruptible():
    """A shell starts background processes with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Press(MSE):
    """A loss that presses Ctrl-C, the given number of times, in the middle of a given step."""

    def __init__(self, step=5, times=1):
        super().__init__()
        self.step, self.times, self.count = step, times, 0

    def backward(self, outputs, targets, sample_weight=None):
        self.count += 1
        if self.count == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return super().backward(outputs, targets, sample_weight)


def pressing(loss, **kwargs):
    model = Model([Linear(1, n_in=1)])
    model.compile(loss, SGD(lr=0.01))
    calls = []
    note = LambdaCallback(on_train_end=lambda logs: calls.append((model.loop.interrupted, logs)))
    history = fit(
        model, COUNT, COUNT, batch_size=4, epochs=9, callbacks=[note], shuffle=False, **kwargs
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert model.loop is None and not model.layers[0].keep_buffers
    assert calls == [(history.interrupted, {k: v[-1] for k, v in history.history.items()} or None)]
    return model, history


def test_ctrl_c_ends_the_training_after_the_step_with_the_history_so_far():
    model, history = pressing(Press(step=5))
    assert history.interrupted and history.epochs == [1] and len(history.history["loss"]) == 1
    assert model.optimizer.iterations == 5  # the step was done as a whole


def test_a_second_ctrl_c_does_not_wait():
    model, history = pressing(Press(step=5, times=2))
    assert history.interrupted and model.optimizer.iterations == 4


@pytest.mark.parametrize(
    "hook", ["on_train_batch_begin", "on_train_batch_end", "on_test_batch_end"]
)
def test_ctrl_c_in_a_callback_lets_the_others_have_their_turn(hook, capsys):
    heard = []

    def press(batch, logs):
        if batch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model = regression()
    callbacks = [
        LambdaCallback(**{hook: press}),
        LambdaCallback(**{hook: lambda batch, logs: heard.append(batch)}),
    ]
    held = {"validation_data": (COUNT, COUNT), "validation_batch_size": 3}
    history = fit(model, COUNT, COUNT, batch_size=4, callbacks=callbacks, verbose=2, **held)
    assert history.interrupted and history.epochs == [] and heard == [0, 1]
    assert model.optimizer.iterations == (3 if "test" in hook else 2)
    assert capsys.readouterr().out == "stopped by Ctrl-C in epoch 1\n"


def test_ctrl_c_while_a_batch_is_fetched_acts_at_once():
    def batches():
        yield COUNT, COUNT
        os.kill(os.getpid(), signal.SIGINT)
        yield COUNT, COUNT

    model = regression()
    assert fit(model, batches()).interrupted
    assert model.optimizer.iterations == 1


def test_a_handler_of_the_program_is_left_alone():
    heard = []
    old = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        model = Model([Linear(1, n_in=1)])
        model.compile(Press(step=2), SGD(lr=0.01))
        history = fit(model, COUNT, COUNT)
    finally:
        signal.signal(signal.SIGINT, old)
    assert heard == [1] and not history.interrupted and history.epochs == [1, 2]


def test_training_in_a_thread_touches_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(regression(), COUNT, COUNT)))
    thread.start()
    thread.join()
    assert found[0].epochs == [1, 2]


def test_ctrl_c_in_a_process():
    code = """
        import sys
        import numpy as np, npdl
        model = npdl.Model([npdl.layers.Linear(1, n_in=1)])
        model.compile("mse", "sgd")
        x = np.ones((100, 1), "f4")
        def ready(epoch, logs):
            if epoch == 2:
                print("ready", flush=True)
        tell = npdl.callbacks.LambdaCallback(on_epoch_end=ready)
        history = model.fit(x, x, epochs=10**6, verbose=0, callbacks=[tell])
        assert history.interrupted and len(history.epochs) == len(history.history["loss"]) > 2
        assert 0 <= model.optimizer.iterations - 2 * len(history.epochs) <= 2
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "done\n"
    assert process.returncode == 0
