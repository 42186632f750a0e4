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
]


@pytest.mark.parametrize("script, options, promise", RUNS)
def test_example(script, options, promise, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options.split()])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    out = capsys.readouterr().out
    assert "epoch 1/1" in out and promise in out


def test_every_example_is_run():
    assert {script for script, *_ in RUNS} == {path.name for path in EXAMPLES.glob("*.py")}
