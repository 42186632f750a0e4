"""Level 2: a model as a drawing: `plot_model`, which writes SVG and needs no other program."""

from __future__ import annotations

import html
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npdl._files import replacing
from npdl._registry import constructor_arguments
from npdl.layers import base, convolution, core, embedding, normalization, pooling, recurrent
from npdl.summary import Row, describe, shape_text

if TYPE_CHECKING:
    from npdl.model import Model

#: Colors of the stripe at the left of a layer, by what it does.
_COLORS: list[tuple[type, str]] = [
    (convolution.Convolution, "#1f5fa8"),
    (recurrent.Recurrent, "#2a7f62"),
    (core.Softmax, "#b3452c"),
    (core.Linear, "#b7791f"),
    (embedding.Embedding, "#6b4fa0"),
    (normalization.BatchNormal, "#7a8794"),
    (pooling.Pooling, "#5b9bd5"),
]
_OTHER = "#a9b3bd"

_PAD, _GAP, _HEIGHT = 16, 26, 54
#: Widths of a character, at most, in the sizes used, in a common sans-serif font.
_WIDE, _NARROW = 8.2, 6.7
_STYLE = (
    "text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#222}"
    ".n{font-size:14px;font-weight:600}.d{font-size:12px;fill:#5a6570}.r{text-anchor:end}"
    ".b{fill:#fff;stroke:#c5cdd5}.l{stroke:#7a8794;stroke-width:1.4;fill:none}"
)


class Diagram(str):
    """An SVG document. A notebook shows it as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file."""
        with replacing(path) as file:
            file.write(self.encode())


def plot_model(
    model: Model,
    to_file: str | os.PathLike[str] | None = "model.svg",
    show_shapes: bool = True,
    show_layer_names: bool = True,
    show_parameters: bool = True,
) -> Diagram:
    """Draw the layers of a model, from input to output, as SVG.

    Parameters
    ----------
    model : Model
    to_file : path, optional
        Where to write it; its name must end in ``.svg``. None writes nothing.
    show_shapes : bool
        Whether to show the shape of each output; ``?`` stands for what is not known before the
        model is built.
    show_layer_names : bool
        Whether to show the names of the layers, or their classes alone.
    show_parameters : bool
        Whether to show how many parameters a layer has, and whether they are trained.

    Returns
    -------
    Diagram
        The document, a string. In a notebook it shows as a picture.

    Raises
    ------
    ValueError
        If the model has no layers, or `to_file` does not end in ``.svg``.
    """
    if not model.layers:
        raise ValueError("A model needs at least one layer to be drawn. Received: layers=[]")
    if to_file is not None and Path(to_file).suffix.lower() != ".svg":
        rule = "`to_file` must end in .svg"
        raise ValueError(f"{rule}. Received: to_file={os.fspath(to_file)!r}")
    boxes = [
        _texts(row, show_shapes, show_layer_names, show_parameters)
        for row in describe(model.layers)
    ]
    first = model.layers[0]
    before = getattr(first.prev_layer, "out_shape", None) or first.in_shape
    entry = "input" + (f"  {shape_text(before)}" if show_shapes else "")
    diagram = Diagram(_svg(entry, boxes, [_color(layer) for layer in model.layers]))
    if to_file is not None:
        diagram.save(to_file)
    return diagram


#: The four texts of a box: above left, below left, above right, below right.
_Texts = tuple[str, str, str, str]


def _texts(row: Row, shapes: bool, names: bool, parameters: bool) -> _Texts:
    layer, kind = row.layer, type(row.layer).__name__
    options = _options(layer)
    below = ", ".join([kind, *options] if names else options)
    count = ""
    if parameters and row.parameters:
        frozen = {"no": ", frozen", "partly": f", {row.trained:,} trained"}.get(row.is_trained, "")
        count = f"{row.parameters:,} parameters{frozen}"
    shape = shape_text(layer.out_shape) if shapes else ""
    return layer.name if names else kind, below, shape, count


def _options(layer: base.Layer) -> list[str]:
    """The arguments that were given and that a reader wants to know: ``nb_filter=16``."""
    try:
        config = layer.to_json()
        defaults = constructor_arguments(type(layer))
    except (TypeError, ValueError):
        return []  # a layer of the user's own that can't be saved can be drawn
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
    if isinstance(value, list):
        return "×".join(map(str, value))
    if isinstance(value, dict):
        return str(value.get("name", "…"))
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def _color(layer: base.Layer) -> str:
    return next((color for cls, color in _COLORS if isinstance(layer, cls)), _OTHER)


def _svg(entry: str, boxes: list[_Texts], colors: list[str]) -> str:
    width = max(
        300.0,
        *(2 * 14 + 24 + _WIDE * (len(box[0]) + len(box[2])) for box in boxes),
        *(2 * 14 + 24 + _NARROW * (len(box[1]) + len(box[3])) for box in boxes),
    )
    middle = _PAD + width / 2
    parts = []
    y: float = _PAD + 20
    parts.append(_text(middle, _PAD + 14, entry, "d", "text-anchor='middle'"))
    for box, color in zip(boxes, colors):
        parts.append(_arrow(middle, y, y + _GAP))
        y += _GAP
        left, right = _PAD + 16, _PAD + width - 12
        title = html.escape(" ".join(text for text in box if text), quote=False)
        parts += [
            f"<g><title>{title}</title>",
            f"<rect class='b' x='{_PAD}' y='{y:g}' width='{width:g}' height='{_HEIGHT}' rx='5'/>",
            f"<rect x='{_PAD}' y='{y:g}' width='6' height='{_HEIGHT}' rx='3' fill='{color}'/>",
            _text(left, y + 22, box[0], "n"),
            _text(left, y + 42, box[1], "d"),
            _text(right, y + 22, box[2], "n r"),
            _text(right, y + 42, box[3], "d r"),
            "</g>",
        ]
        y += _HEIGHT
    total_width, total_height = width + 2 * _PAD, y + _PAD
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{total_width:g}' "
        f"height='{total_height:g}' viewBox='0 0 {total_width:g} {total_height:g}' role='img'>"
    )
    paper = "<rect width='100%' height='100%' fill='#fff'/>"
    return "\n".join([head, f"<style>{_STYLE}</style>", paper, *filter(None, parts), "</svg>", ""])


def _text(x: float, y: float, text: str, css: str, more: str = "") -> str:
    if not text:
        return ""
    return f"<text class='{css}' x='{x:g}' y='{y:g}' {more}>{html.escape(text, quote=False)}</text>"


def _arrow(x: float, top: float, bottom: float) -> str:
    tip = f"M{x - 4:g} {bottom - 7:g}L{x:g} {bottom - 2:g}L{x + 4:g} {bottom - 7:g}"
    return f"<path class='l' d='M{x:g} {top + 4:g}V{bottom - 3:g}{tip}'/>"
