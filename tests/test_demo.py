"""`npdl.demo`: it learns, saves, plots and reports."""

import argparse
import importlib.util

import numpy as np
import pytest

import npdl
from npdl import demo

matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib"
)


def run(out, epochs):
    return demo.run(argparse.Namespace(out=out, epochs=epochs, seed=1))


@pytest.mark.slow
def test_the_demo_reaches_its_goal(tmp_path, capsys):
    assert run(tmp_path / "new", 25) == 0
    assert "at least 98%" in capsys.readouterr().out


@matplotlib
def test_a_short_demo_says_that_it_misses_the_goal(tmp_path, capsys):
    assert run(tmp_path, 1) == 1
    out = capsys.readouterr().out
    for word in ("npdl ", "convolution_1", "epoch 1/1", "samples/s", "held-out", "BELOW 98%"):
        assert word in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("curves.png", "digits-model.safetensors", "digits.png")
    ]
    for name in ("curves.png", "digits.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    _, (x, y) = npdl.datasets.load_digits()
    assert npdl.load_model(tmp_path / "digits-model.safetensors").evaluate(x, y).accuracy > 0.8


def test_without_matplotlib_it_continues_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run(tmp_path, 1)
    assert "pip install npdl[plot]" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["digits-model.safetensors"]


@matplotlib
@pytest.mark.parametrize("misread", [0, 3, 12, 40])
def test_the_picture_of_digits_holds_with_any_number_of_errors(misread):
    images, labels = np.zeros((40, 1, 8, 8), np.float32), np.arange(40) % 10
    outputs = np.eye(10)[labels]
    outputs[:misread] = np.eye(10)[(labels[:misread] + 1) % 10]
    figure = demo.plot_digits(images, labels, outputs)
    figure.canvas.draw()
    panels = [panel.get_suptitle() for panel in figure.subfigs]
    assert panels[0] == f"{40 - misread} of 40 held-out digits are read right, such as"
    assert len(panels) == (2 if misread else 1)
