"""Level 2: pictures of training and of what a network sees. Needs matplotlib: ``npdl[plot]``.

Each function returns a ``matplotlib.figure.Figure``: a notebook shows it, and its `savefig` writes
it to a file.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, error_message
from npdl.layers.base import Layer
from npdl.layers.convolution import Convolution
from npdl.layers.core import Dropout
from npdl.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_activations", "plot_confusion", "plot_filters", "plot_history"]

_INK, _GRID, _TRAIN, _VALIDATION = "#222222", "#dddddd", "#8fa3b8", "#1f5fa8"


def plot_history(history: Any) -> Figure:
    """Plot the results of each epoch, training and validation in one panel.

    Parameters
    ----------
    history : History, or dict of str to list
        What `Model.fit` returned, or its attribute ``history``.
    """
    table: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    # A confusion matrix, say, is no curve.
    curves = {key: values for key, values in table.items() if values and np.ndim(values[0]) == 0}
    if not curves:
        raise ValueError("The history must hold at least one epoch. Received: none")
    names = list(dict.fromkeys(key.removeprefix("val_") for key in curves))
    epochs = getattr(history, "epochs", None) or range(1, 1 + max(map(len, curves.values())))
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = _figure(max(5.0, 4.6 * columns), 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names):
        for key, label, color in (
            (name, "training", _TRAIN),
            (f"val_{name}", "validation", _VALIDATION),
        ):
            if key in curves:
                _curve(axes, epochs, curves[key], label, color)
        axes.set_title(name, color=_INK)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color=_GRID, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    for axes in panels[len(names) :]:
        axes.axis("off")
    return figure


def _curve(axes: Axes, epochs: Any, values: Sequence[float], label: str, color: str) -> None:
    label = f"{label}, {values[-1]:.4g} at the end"
    marker = "o" if len(values) == 1 else None
    axes.plot([*epochs][: len(values)], values, color=color, lw=2, marker=marker, label=label)


def plot_filters(layer: Convolution, max_filters: int = 64) -> Figure:
    """Draw the filters of a convolution: red where a weight is positive, blue where negative.

    Parameters
    ----------
    layer : Convolution
        A built one. Filters of three channels are drawn in color, red, green and blue; filters of
        more have one picture for each of their first channels, a row for each filter.
    max_filters : int
        How many to draw at most.
    """
    if not isinstance(layer, Convolution) or layer.W is None:
        rule = "`layer` must be a Convolution that is built"
        raise ValueError(f"{rule}. Received: layer={layer!r}")
    filters = layer.W[: check_int("max_filters", max_filters)]
    count, channels = filters.shape[:2]
    by_row = channels not in (1, 3)
    columns = min(channels, 16) if by_row else min(8, count)
    shown = filters[:, :columns] if by_row else filters
    rows = count if by_row else math.ceil(count / columns)
    title = f"{layer.name}: {_of(count, layer.nb_filter)} filters"
    title += f", {_of(columns, channels)} channels of each" if by_row else ""
    figure = _figure(max(4.0, 0.75 * columns), 0.75 * rows + 0.9, title)
    panels = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(shown).max()) or 1.0
    tiles = shown.reshape(-1, *shown.shape[2:]) if by_row else shown
    image = None
    for axes, tile in zip(panels.flat, tiles):
        if channels == 3:
            axes.imshow(tile.transpose(1, 2, 0) / (2 * limit) + 0.5, interpolation="nearest")
        else:
            plane = tile if by_row else tile[0]
            image = axes.imshow(plane, "RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    _bare(panels.ravel(), len(tiles))
    if image is not None:
        figure.colorbar(image, ax=panels, shrink=0.8, label="weight")
    return figure


def plot_activations(
    model: Trainer,
    x: ArrayLike,
    layers: Sequence[str | Layer] | None = None,
    max_maps: int = 12,
) -> Figure:
    """Draw the outputs of the layers of a convolutional network for one image.

    Parameters
    ----------
    model : Model
        A built one.
    x : array_like, shape (C, H, W) or (1, C, H, W)
        The image, drawn too.
    layers : sequence of str or Layer, optional
        Names of the layers, or the layers; by default all whose outputs are images.
    max_maps : int
        How many channels of each to draw at most.
    """
    maps = check_int("max_maps", max_maps)
    image = np.asarray(x)
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(error_message("`x` must have shape (C, H, W)", shape=np.shape(x)))
    outputs = [
        (layer.name, np.array(y)[0])
        for layer, y in model.trace(image)
        if y.ndim == 4 and not isinstance(layer, Dropout)
    ]
    if layers is not None:
        wanted = [layer.name if isinstance(layer, Layer) else layer for layer in layers]
        known = dict(outputs)
        missing = [name for name in wanted if name not in known]
        if missing:
            rule = f"`layers` must be among those whose output is images, {[*known]}"
            raise ValueError(error_message(rule, name=missing[0]))
        outputs = [(name, known[name]) for name in wanted]
    rows: list[tuple[str, NDArray]] = [("input", image[0]), *outputs]
    columns = max(min(len(y), maps) for _, y in rows)
    figure = _figure(1.6 + 0.85 * columns, 0.95 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for panels, (name, y) in zip(grid, rows):
        shown = y[:maps]
        label = f"{name}\n{_of(len(shown), len(y))}, {y.shape[1]} × {y.shape[2]}"
        limits = float(y.min()), float(y.max())
        colors = "gray" if name == "input" else "viridis"
        for axes, plane in zip(panels, shown):
            axes.imshow(plane, colors, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        _bare(panels, len(shown))
        panels[0].set_ylabel(label, rotation=0, ha="right", va="center", color=_INK, fontsize=9)
    return figure


def plot_confusion(matrix: ArrayLike, classes: Sequence[str] | None = None) -> Figure:
    """Draw a confusion matrix: rows are true classes, columns predicted ones.

    Parameters
    ----------
    matrix : array_like of int, shape (K, K)
        Such as `npdl.metrics.ConfusionMatrix` counts.
    classes : sequence of str, optional
        Names of the K classes.
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size:
        raise ValueError(error_message("`matrix` must have shape (K, K)", shape=counts.shape))
    k = len(counts)
    if classes is not None and len(classes) != k:
        raise ValueError(error_message(f"`classes` must be {k} names", classes=list(classes)))
    side = 2.0 + 0.5 * k
    figure = _figure(side, side)
    axes = figure.subplots()
    # Fractions of a row, so that rare classes are as visible as frequent ones.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, "Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(counts.shape):
        if counts[i, j]:
            color = "#ffffff" if shares[i, j] > 0.5 else _INK
            axes.text(
                j, i, f"{counts[i, j]:.6g}", ha="center", va="center", color=color, fontsize=8
            )
    names = [str(i) for i in range(k)] if classes is None else list(classes)
    axes.set_xticks(range(k), names, rotation=0 if classes is None else 90)
    axes.set_yticks(range(k), names)
    axes.set(xlabel="taken for", ylabel="is")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _figure(width: float, height: float, title: str | None = None) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("npdl.viz needs matplotlib: pip install 'npdl[plot]'") from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    # For notebooks, which otherwise show only figures of pyplot.
    vars(figure)["_repr_png_"] = functools.partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _of(some: int, every: int) -> str:
    return f"{every}" if some == every else f"{some} of {every}"


def _bare(panels: NDArray, used: int) -> None:
    """Remove the ticks of pictures, and hide empty axes."""
    for axes in panels[:used]:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(_GRID)
    for axes in panels[used:]:
        axes.axis("off")
