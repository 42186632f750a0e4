"""The examples run, shortened, and print what they promise."""

import importlib.util
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl.adapter import Data

EXAMPLES = Path(__file__).parents[1] / "examples"

if not EXAMPLES.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

RUNS = [
    ("digits.py", "--model mlp --epochs 1", "test digits are read right"),
    ("digits.py", "--model cnn --epochs 1", "test digits are read right"),
    ("sentences.py", "--model cnn --epochs 1", "complaint "),
    ("sentences.py", "--model lstm --epochs 1", "the waiter was always awful"),
    ("characters.py", "--model rnn --epochs 1 --rounds 1 --units 16", "\nAlice "),
    ("characters.py", "--model gru --epochs 1 --rounds 1 --units 16", "\nAlice "),
    ("tour.py", "--epochs 1", "of the test pictures are read column by column"),
    ("characters.py", "--model lstm --epochs 1 --rounds 1 --units 16", "\nAlice "),
    ("addition.py", "--epochs 1 --count 300 --test 50", "of 50 new sums"),
    ("shapes.py", "--epochs 1 --count 32 --test 8 --picture s.png", "reached: "),
    ("words.py", "--epochs 1 --count 64 --test 8 --picture w.png", "of 8 words that"),
]

#: Those that fetch their data: tests/test_examples_figures.py runs them.
FETCHING = ["anomalies", "emma", "fashion", "glucose", "mnist", "names", "transfer", "tweets"]


@pytest.mark.parametrize("script, options, promise", RUNS)
def test_example(script, options, promise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options.split()])
    if "--picture" in options:
        pytest.importorskip("matplotlib")
    if script == "words.py":
        pytest.importorskip("PIL")
    trained = {}

    def fit(model, X, *args, **options):
        trained[id(model)] = model, X
        return plain_fit(model, X, *args, **options)

    plain_fit = npdl.Model.fit
    monkeypatch.setattr(npdl.Model, "fit", fit)
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    out = capsys.readouterr().out
    assert "epoch 1/1" in out and promise in out
    assert trained
    for model, X in trained.values():
        check_onnx(model, X)


def check_onnx(model, X):
    """ONNX Runtime predicts for the model of an example what npdl does."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return
    import onnxruntime

    data = Data(model.data_names, X)
    x, _, _, masks = data.feed(8, None).first() if data.batch is None else data.batch.rows(slice(8))
    masked = [name for name, mask in zip(model.input_names, masks) if mask is not None]
    npdl.export_onnx(model, "example.onnx", masks=masked)
    session = onnxruntime.InferenceSession("example.onnx")
    feeds = dict(zip(model.input_names, x))
    feeds.update({f"{n}_mask": m for n, m in zip(model.input_names, masks) if m is not None})
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    found = session.run(
        None, {i.name: feeds[i.name].astype(kinds[i.type]) for i in session.get_inputs()}
    )
    pairs = {n: (a, m) for n, a, m in zip(model.input_names, x, masks or (None,) * len(x))}
    given = {n: a if m is None else (a, m) for n, (a, m) in pairs.items()}
    wanted = model.predict(given if len(given) > 1 else next(iter(given.values())))
    wanted = [*wanted.values()] if isinstance(wanted, dict) else wanted
    for y, want in zip(found, wanted if isinstance(wanted, list) else [wanted], strict=True):
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * max(1, np.abs(want).max()))


def test_every_example_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert {script.removesuffix(".py") for script, *_ in RUNS} | {*FETCHING} == scripts
