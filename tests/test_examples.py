"""The examples run, shortened, and print what they promise."""

import runpy
import sys
from pathlib import Path

import pytest

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
    ("addition.py", "--epochs 1 --count 300 --test 50 --picture a.png", "of 50 new sums"),
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
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    out = capsys.readouterr().out
    assert "epoch 1/1" in out and promise in out


def test_every_example_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert {script.removesuffix(".py") for script, *_ in RUNS} | {*FETCHING} == scripts
