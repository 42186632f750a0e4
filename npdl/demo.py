"""Train a small CNN on real handwritten digits: ``python -m npdl demo``."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from npdl.config import configuration
from npdl.datasets import load_digits
from npdl.layers import Convolution, Dense, Dropout, Flatten, MaxPooling, Softmax
from npdl.model import Model
from npdl.optimizers import Adam
from npdl.saving import load_model
from npdl.training import History
from npdl.utils import set_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Share of the held-out digits that the network has to read.
GOAL = 0.98

_INK, _GRID, _TRAIN, _TEST, _WRONG = "#222222", "#dddddd", "#8fa3b8", "#1f5fa8", "#c0392b"


def make_model() -> Model:
    """A network of two convolutions for images of shape (1, 8, 8): 38,000 parameters."""
    model = Model()
    model.add(Convolution(16, 3, input_shape=(1, 8, 8), padding="same"))
    model.add(Convolution(32, 3, padding="same"))
    model.add(MaxPooling(2))
    model.add(Dropout(0.25))
    model.add(Flatten())
    model.add(Dense(64, activation="relu"))
    model.add(Dropout(0.25))
    model.add(Softmax(10))
    model.compile(loss="scce", optimizer=Adam(lr=0.003, decay=0.005))
    return model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m npdl demo``."""
    default = "default: %(default)s"
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help=f"folder for the model and the pictures ({default})",
    )
    parser.add_argument("--epochs", type=int, default=25, metavar="N", help=default)
    parser.add_argument("--seed", type=int, default=1, metavar="S", help=default)


def run(options: argparse.Namespace) -> int:
    """Run ``python -m npdl demo``: 0 if the network reads 98 % of the held-out digits, else 1."""
    start = time.perf_counter()
    set_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = configuration()
    keys = ("npdl", "backend", "numpy", "python")
    print(" | ".join(f"{key} {rows[key]}" for key in keys), end="\n\n")

    train, test = load_digits()
    model = make_model()
    model.summary()
    print(f"\n{len(train[0])} digits to learn from, {len(test[0])} held out for the test\n")
    history = model.fit(*train, epochs=options.epochs, batch_size=32, validation_data=test)

    path = options.out / "digits-model.safetensors"
    model.save(path)
    outputs = load_model(path).predict(test[0])
    if not np.array_equal(outputs, model.predict(test[0])):
        raise ValueError(f"The model read from {path} predicts otherwise than the one written.")
    correct = model.accuracy(outputs, test[1])
    print(f"\nsaved {path}, loaded it again; it reads {correct:.2%} of the held-out digits")

    if importlib.util.find_spec("matplotlib") is None:
        print("plots skipped: matplotlib is not installed (pip install npdl[plot])")
    else:
        plot_curves(history).savefig(options.out / "curves.png")
        plot_digits(*test, outputs).savefig(options.out / "digits.png")
        print(f"saved {options.out / 'curves.png'} and {options.out / 'digits.png'}")

    good = correct >= GOAL
    verdict = "at least" if good else "BELOW"
    print(f"{verdict} {GOAL:.0%}, in {time.perf_counter() - start:.1f} s")
    return 0 if good else 1


def plot_curves(history: History) -> Figure:
    """Loss and accuracy, of training and test, over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    figure.suptitle("A small CNN learns handwritten digits", color=_INK, fontsize=14)
    panels = [("loss", "loss", "upper right"), ("acc", "accuracy", "lower right")]
    for axes, (key, title, corner) in zip(figure.subplots(1, 2), panels):
        series = {"training": history.history[key], "test": history.history["val_" + key]}
        for (label, values), color in zip(series.items(), (_TRAIN, _TEST)):
            last = f"{values[-1]:.3f}" if key == "loss" else f"{values[-1]:.1%}"
            axes.plot(
                history.epochs, values, color=color, lw=2, label=f"{label}, {last} at the end"
            )
        axes.set(title=title, xlabel="epoch", xlim=(1, max(2, history.epochs[-1])))
        axes.grid(color=_GRID, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc=corner)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if key == "acc":
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axes.set_ylim(min(0.8, *map(min, series.values())), 1.005)
        else:
            axes.set_ylim(bottom=0)
    return figure


def plot_digits(images: NDArray, labels: NDArray, outputs: NDArray) -> Figure:
    """A row of test digits, one of each class, and a row of those that were misread."""
    from matplotlib.figure import Figure

    guesses, surety = outputs.argmax(axis=1), outputs.max(axis=1)
    hits = guesses == labels
    right = [int(np.argmax(hits & (labels == k))) for k in np.unique(labels[hits])]
    wrong = np.flatnonzero(~hits)
    titles = [f"{hits.sum()} of {len(hits)} held-out digits are read right, such as"]
    if len(wrong):
        titles.append(f"{len(wrong)} misread" + (", such as" if len(wrong) > 10 else ""))
    figure = Figure(figsize=(11, 2.3 * len(titles)), dpi=120, layout="constrained")
    panels = figure.subfigures(len(titles), 1, squeeze=False).flat
    for panel, title, chosen in zip(panels, titles, (right, wrong[:10].tolist())):
        panel.suptitle(title, x=0.01, ha="left", fontsize=13, color=_INK)
        row = panel.subplots(1, 10)
        for axes in row[len(chosen) :]:
            axes.axis("off")
        for axes, i in zip(row, chosen):
            axes.imshow(images[i, 0], cmap="gray_r", interpolation="nearest", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(_GRID)
            color = _TEST if hits[i] else _WRONG
            axes.set_title(f"{guesses[i]}", color=color, fontsize=16, weight="bold", pad=4)
            truth = "" if hits[i] else f"\nit is a {labels[i]}"
            axes.set_xlabel(f"{surety[i]:.1%} sure{truth}", color=_INK, fontsize=9)
    return figure
