"""What `fit`, `evaluate` and `predict` print: in a terminal, in a notebook, in a log."""

import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from npdl import Model
from npdl.callbacks import Callback, progress
from npdl.layers import Softmax
from npdl.optimizers import SGD

X = np.linspace(-1, 1, 90, dtype="f4")[:, None]
Y = (X[:, 0] > 0).astype(int)
LINE = r"epoch 1/2  loss \d\.\d{4}    acc \d\.\d{4}   +[\d,]+ samples/s"

needs_tqdm = pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="needs tqdm")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Slow(Callback):
    """Gives a bar time to be drawn."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.12)

    on_test_batch_end = on_predict_batch_end = on_train_batch_end


def model():
    made = Model([Softmax(2, n_in=1)])
    made.compile("scce", SGD(lr=0.1))
    return made


def printed(file, **kwargs):
    model().fit(X, Y, epochs=2, batch_size=30, file=file, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("verbose", [1, 2, True, "auto"])
def test_a_log_gets_only_lines(verbose):
    text = printed(io.StringIO(), verbose=verbose)
    assert text.count("\n") == 2 and text.replace("\n", "").isprintable()
    assert re.match(LINE, text)


@pytest.mark.parametrize("verbose", [0, False])
def test_silence(verbose):
    assert printed(Terminal(), verbose=verbose) == ""


@needs_tqdm
@pytest.mark.parametrize("verbose", [1, True, "auto"])
def test_a_terminal_gets_a_bar_and_lines(verbose):
    text = printed(Terminal(), verbose=verbose, callbacks=Slow())
    assert "\r" in text and "epoch 1/2:" in text and "30/90" in text
    assert re.search(r"samples/s, loss \d\.\d{4}, acc \d\.\d{4}\]", text)
    # The bar is removed before its line is printed.
    shown = [part.strip() for part in re.split(r"[\r\n]", text) if part.strip()]
    assert len([part for part in shown if re.fullmatch(LINE, part)]) == 1
    assert re.search(r"\r +\r" + LINE, text)


def test_a_terminal_gets_no_bar_for_verbose_2():
    assert "\r" not in printed(Terminal(), verbose=2)


def test_without_tqdm_a_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    text = printed(Terminal(), verbose=1)
    assert "\r" not in text and re.match(LINE, text)


@needs_tqdm
def test_a_notebook_gets_a_bar(monkeypatch):
    class OutStream(io.StringIO):
        __module__ = "ipykernel.iostream"

    file = OutStream()
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(
        progress.importlib.util, "find_spec", lambda name: None if "widgets" in name else 1
    )
    model().fit(X, Y, batch_size=30, epochs=1, callbacks=Slow())
    assert "\r" in file.getvalue()
    made = []
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: 1)
    monkeypatch.setattr(progress.importlib, "import_module", lambda name: made.append(name) or np)
    monkeypatch.setattr(np, "tqdm", None, raising=False)
    progress.make_progress(1, file)
    assert made == ["tqdm.notebook"]


@needs_tqdm
def test_the_bar_is_closed_after_an_error():
    class Fail(Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.12)
            if batch == 2:
                raise KeyError("stop")

    file = Terminal()
    with pytest.raises(KeyError):
        printed(file, callbacks=Fail())
    assert file.getvalue().endswith("\r")  # wiped


@needs_tqdm
def test_bars_of_evaluate_and_predict(monkeypatch):
    file = Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    made = model()
    made.evaluate(X, Y, batch_size=30, verbose=1, callbacks=Slow())
    made.predict(X, batch_size=30, verbose=1, callbacks=Slow())
    text = file.getvalue()
    assert "evaluate:  67%" in text and "predict:  67%" in text and text.endswith("\r")
    file.truncate(0)
    made.evaluate(X, Y)
    made.predict(X)
    made.evaluate(X, Y, verbose=2)
    assert file.getvalue().strip("\0") == ""


def test_figures_that_are_arrays_are_left_out():
    made = Model([Softmax(2, n_in=1)])
    made.compile("scce", metrics=["f1", "confusion_matrix"])
    file = io.StringIO()
    made.fit(X, Y, epochs=1, file=file)
    assert "f1 " in file.getvalue() and "confusion" not in file.getvalue()


@needs_tqdm
@pytest.mark.skipif(sys.platform != "linux", reason="needs pseudo-terminals")
def test_in_a_real_terminal():
    import termios

    code = """
        import time
        import numpy as np, npdl
        slow = npdl.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: time.sleep(0.12))
        model = npdl.Model([npdl.layers.Softmax(2, n_in=1)])
        model.compile("scce")
        x = np.ones((90, 1), "f4")
        model.fit(x, np.zeros(90, int), epochs=2, batch_size=30, callbacks=slow)
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=theirs, stderr=theirs, timeout=60
    )
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert run.returncode == 0 and "epoch 1/2:" in text
    assert len(re.findall(r"epoch \d/2  loss", text)) == 2


def test_large_and_small_figures_stay_short():
    values = [progress._figure(v) for v in (0, 1e-9, 0.0012345, 12.3, 123456.0, np.inf)]
    assert values == ["0.0000", "1.00e-09", "0.0012", "12.3000", "1.23e+05", "inf"]
