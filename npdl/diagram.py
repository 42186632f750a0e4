"""Level 2: a model as a drawing: `plot_model`; SVG needs no other program."""

from __future__ import annotations

import html
import inspect
import os
from pathlib import Path
from typing import Any

from npdl._files import atomic_write
from npdl._registry import constructor_arguments
from npdl.layers import base
from npdl.raster import to_png
from npdl.summary import Row, describe, shape_text
from npdl.trainer import Trainer

_PAD, _GAP, _HEIGHT = 16, 26, 54
#: Widths of a character, at most, in the sizes used, in a common sans-serif font.
_WIDE, _NARROW = 8.2, 6.7
_STYLE = (
    "text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#222}"
    ".n{font-size:14px;font-weight:600}.d{font-size:12px;fill:#5a6570}.r{text-anchor:end}"
    ".b{fill:#fff;stroke:#c5cdd5}.l{stroke:#7a8794;stroke-width:1.4;fill:none}"
)


class Diagram(str):
    """An SVG document, shown by notebooks as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as PNG if its name ends in ``.png``."""
        data = to_png(self) if Path(path).suffix.lower() == ".png" else self.encode()
        with atomic_write(path) as file:
            file.write(data)


def plot_model(
    model: Trainer,
    to_file: str | os.PathLike[str] | None = "model.svg",
    show_shapes: bool = True,
    show_layer_names: bool = True,
    show_parameters: bool = True,
) -> Diagram:
    """Draw the layers of a model, from input to output, as SVG or PNG.

    Parameters
    ----------
    model : Model
    to_file : path, optional
        Where to write it; its name must end in ``.svg`` or ``.png``. A PNG is drawn by matplotlib
        (``pip install 'npdl[plot]'``). None writes nothing.
    show_shapes : bool
        Whether to show the shape of each output; ``?`` stands for what is not known before the
        model is built.
    show_layer_names : bool
        Whether to show the names of the layers, or only their classes.
    show_parameters : bool
        Whether to show how many parameters a layer has, and whether they are trained.

    Returns
    -------
    Diagram
        The SVG document, a string. In a notebook it shows as a picture.

    Raises
    ------
    ValueError
        If the model has no layers, or `to_file` has another ending.
    ImportError
        If matplotlib is needed, and missing.
    """
    if not model.layers:
        raise ValueError("A model needs at least one layer to be drawn. Received: layers=[]")
    if to_file is not None and Path(to_file).suffix.lower() not in (".svg", ".png"):
        rule = "`to_file` must end in .svg or .png"
        raise ValueError(f"{rule}. Received: to_file={os.fspath(to_file)!r}")
    boxes = _boxes(model, show_shapes, show_layer_names, show_parameters)
    diagram = Diagram(_svg(boxes))
    if to_file is not None:
        diagram.save(to_file)
    return diagram


class _Box:
    """An input, or a call of a layer, with the strings to show and its place."""

    def __init__(self, labels: tuple[str, str, str, str], color: str | None, below: list[_Box]):
        #: Above left, below left, above right, below right; an input has the first only.
        self.labels = labels
        self.color = color
        self.below = below
        self.rank: int = 1 + max((box.rank for box in below), default=-1)
        longest = max(
            _WIDE * (len(labels[0]) + len(labels[2])), _NARROW * (len(labels[1]) + len(labels[3]))
        )
        self.width = (0.0 if color is None else 28 + 24) + longest
        self.x = self.y = 0.0

    @property
    def height(self) -> int:
        return 20 if self.color is None else _HEIGHT

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def _boxes(model: Trainer, shapes: bool, names: bool, parameters: bool) -> list[_Box]:
    """A box for each input and each call of a layer, sources first."""
    rows = {id(row.layer): row for row in describe(model) if not row.depth}
    plan = model.plan
    if plan is None:
        entry = model.layers[0].declared_shape
        found = [_Box((_entry("input", entry, shapes), "", "", ""), None, [])]
        for layer in model.layers:
            labels = _labels(rows[id(layer)], shapes, names, parameters)
            found.append(_Box(labels, layer.color, [found[-1]]))
        return found
    found = [
        _Box((_entry(name, shape, shapes), "", "", ""), None, [])
        for name, shape in zip(model.input_names, plan.in_shapes)
    ]
    slots = [*found]
    seen: set[int] = set()
    for step in plan.steps:
        layer = step.owner
        labels = _labels(rows[id(layer)], shapes, names, parameters and id(layer) not in seen)
        if id(layer) in seen:
            labels = (*labels[:3], "shared weights")
        seen.add(id(layer))
        below = list(dict.fromkeys(slots[slot] for slot in step.sources))
        box = _Box(labels, layer.color, below)
        found.append(box)
        slots += [box] * len(step.targets)
    return found


def _entry(name: str, shape: Any, shapes: bool) -> str:
    return name + (f"  {shape_text(shape)}" if shapes else "")


def _labels(row: Row, shapes: bool, names: bool, parameters: bool) -> tuple[str, str, str, str]:
    layer, kind = row.layer, type(row.layer).__name__
    options = _options(layer)
    below = ", ".join([kind, *options] if names else options)
    count = ""
    if parameters and row.parameters:
        frozen = {"no": ", frozen", "partly": f", {row.trained:,} trained"}.get(row.is_trained, "")
        count = f"{row.parameters:,} parameters{frozen}"
    return row.name if names else kind, below, shape_text(row.shape) if shapes else "", count


def _options(layer: base.Layer) -> list[str]:
    """The arguments that were given and are worth showing: ``nb_filter=16``."""
    try:
        config = layer.to_json()
        defaults = constructor_arguments(type(layer))
    except (TypeError, ValueError):
        return []  # a user's layer that can't be saved can be drawn
    found = []
    for name, value in config.items():
        hidden = ("init", "n_in", "input_shape", "input_size", "nb_batch", "nb_seq", "embed_words")
        default = defaults[name].default if name in defaults else inspect.Parameter.empty
        if name.endswith(hidden) or value is None:
            continue
        if name != "activation" and _same(value, default):
            continue
        found.append(f"{name}={_short(value)}")
    return found


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list) and len(set(map(str, value))) == 1:
        value = value[0]  # a pair of equal numbers
    if isinstance(value, str) and isinstance(default, str):  # "SoftSign" and "soft_sign"
        value, default = (text.replace("_", "").lower() for text in (value, default))
    return value == default


def _short(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, list):
        return "×".join(map(str, value))
    if isinstance(value, dict):
        return str(value.get("class", value.get("name", "…")))
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def _placed(boxes: list[_Box]) -> tuple[float, float]:
    """Give each box its place, in rows by its rank; the width and the height of the drawing."""
    rows: dict[int, list[_Box]] = {}
    for box in boxes:
        rows.setdefault(box.rank, []).append(box)
    alone = all(len(row) == 1 for row in rows.values())
    widest = max([300.0, *(box.width for box in boxes if box.color)])
    for box in boxes:
        if box.color and alone:  # boxes in a column are equally wide
            box.width = widest
    spans = {r: sum(b.width for b in row) + _GAP * (len(row) - 1) for r, row in rows.items()}
    width = max(spans.values())
    y: float = _PAD
    for rank in sorted(rows):
        row = sorted(
            rows[rank], key=lambda b: sum(a.middle for a in b.below) / max(len(b.below), 1)
        )
        x = _PAD + (width - spans[rank]) / 2
        for box in row:
            box.x, box.y = x, y
            x += box.width + _GAP
        y += max(box.height for box in row) + _GAP
    return width + 2 * _PAD, y - _GAP + _PAD


def _middle_below(box: _Box) -> float:
    """The mean position of the boxes that a box reads."""
    return sum(below.middle for below in box.below) / max(len(box.below), 1)


def _svg(boxes: list[_Box]) -> str:
    width, height = _placed(boxes)
    parts = []
    for box in boxes:
        for below in box.below:
            between = [b.x + b.width for b in boxes if below.rank < b.rank < box.rank]
            lane = max([x + 16 for x in between] + [below.middle]) if between else None
            width = max(width, (lane or 0) + _PAD)
            parts.append(_arrow(below.middle, below.y + below.height, box.middle, box.y, lane))
    for box in boxes:
        if box.color is None:
            parts.append(_text(box.middle, box.y + 14, box.labels[0], "d", "text-anchor='middle'"))
            continue
        x, y, left, right = box.x, box.y, box.x + 16, box.x + box.width - 12
        title = html.escape(" ".join(text for text in box.labels if text), quote=False)
        parts += [
            f"<g><title>{title}</title>",
            f"<rect class='b' x='{x:g}' y='{y:g}' width='{box.width:g}' height='{_HEIGHT}' "
            "rx='5'/>",
            f"<rect x='{x:g}' y='{y:g}' width='6' height='{_HEIGHT}' rx='3' fill='{box.color}'/>",
            _text(left, y + 22, box.labels[0], "n"),
            _text(left, y + 42, box.labels[1], "d"),
            _text(right, y + 22, box.labels[2], "n r"),
            _text(right, y + 42, box.labels[3], "d r"),
            "</g>",
        ]
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:g}' "
        f"height='{height:g}' viewBox='0 0 {width:g} {height:g}' role='img'>"
    )
    paper = "<rect width='100%' height='100%' fill='#fff'/>"
    return "\n".join([head, f"<style>{_STYLE}</style>", paper, *filter(None, parts), "</svg>", ""])


def _text(x: float, y: float, text: str, css: str, more: str = "") -> str:
    if not text:
        return ""
    return f"<text class='{css}' x='{x:g}' y='{y:g}' {more}>{html.escape(text, quote=False)}</text>"


def _arrow(x: float, top: float, end: float, bottom: float, lane: float | None) -> str:
    """From a box to one below it; beside the boxes in between, if there are any."""
    tip = f"M{end - 4:g} {bottom - 7:g}L{end:g} {bottom - 2:g}L{end + 4:g} {bottom - 7:g}"
    top, stop = top + 4, bottom - 3
    half = (top + stop) / 2
    if lane is not None:
        way = (
            f"C{x:g} {top + 18:g} {lane:g} {top + 4:g} {lane:g} {top + 28:g}V{stop - 28:g}"
            f"C{lane:g} {stop - 4:g} {end:g} {stop - 18:g} {end:g} {stop:g}"
        )
    elif x == end:
        way = f"V{stop:g}"
    else:
        way = f"C{x:g} {half:g} {end:g} {half:g} {end:g} {stop:g}"
    return f"<path class='l' d='M{x:g} {top:g}{way}{tip}'/>"
