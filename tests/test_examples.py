"""The examples run, shortened, and print what they promise."""

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

if not EXAMPLES.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

TOOL = runpy.run_path(str(EXAMPLES.parent / "tools" / "compare_onnx.py"))
#: How each example is run, and what it prints.
PROMISES = {
    "digits --model mlp": "test digits are read right",
    "digits --model cnn": "test digits are read right",
    "sentences --model cnn": "complaint ",
    "sentences --model lstm": "the waiter was always awful",
    "characters --model rnn": "\nAlice ",
    "characters --model gru": "\nAlice ",
    "characters --model lstm": "\nAlice ",
    "tour": "of the test pictures are read column by column",
    "addition": "of 50 new sums",
    "shapes": "reached: ",
    "words": "of 8 words that",
}
#: More that makes a run short, or that is tried.
MORE = {"characters": "--units 16", "shapes": "--picture s.png", "words": "--picture w.png"}

#: Those that fetch their data: tests/test_examples_figures.py runs them.
FETCHING = ["anomalies", "emma", "fashion", "glucose", "mnist", "names", "transfer", "tweets"]


@pytest.mark.parametrize("command", PROMISES)
def test_example(command, tmp_path, monkeypatch, capsys):
    script, *_ = command.split()
    options = " ".join([command, TOOL["RUNS"][command], MORE.get(script, "")]).split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", options)
    if "--picture" in options:
        pytest.importorskip("matplotlib")
    if script == "words":
        pytest.importorskip("PIL")
    with TOOL["watched"]() as trained:
        runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "epoch 1/1" in out and PROMISES[command] in out
    assert trained
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        for model, X in trained.values():
            assert TOOL["compare"](model, X, tmp_path / "example.onnx").difference < 1e-5


def test_every_example_is_run():
    scripts = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert {command.split()[0] for command in PROMISES} | {*FETCHING} == scripts
    assert {command.split()[0] for command in TOOL["RUNS"]} == scripts | {"chatbot"}
