"""Level 2: a drawing of `npdl.diagram` as PNG, by matplotlib: ``npdl[plot]``."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

_SVG = "{http://www.w3.org/2000/svg}"
#: Pixels of the picture for one of the drawing.
_SCALE = 2
#: Size, weight and colour of text by its class, as in the style sheet of the drawing.
_FONTS = {"n": (14, 700, "#222222"), "d": (12, 400, "#5a6570")}


def to_png(svg: str) -> bytes:
    """Draw an SVG document of rectangles, lines and text, as `plot_model` makes them.

    Parameters
    ----------
    svg : str

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    ImportError
        If matplotlib is missing; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import BoxStyle, FancyBboxPatch, PathPatch
    except ImportError as error:
        raise ImportError("A PNG needs matplotlib: pip install 'npdl[plot]'") from error
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    figure = Figure((width / 100, height / 100), dpi=100 * _SCALE, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for item in root.iter():
        css = item.attrib.get("class", "").split()
        if item.tag == f"{_SVG}path":
            axes.add_patch(PathPatch(_path(item.attrib["d"]), fill=False, ec="#7a8794", lw=1))
        elif item.tag == f"{_SVG}rect" and "x" in item.attrib:
            x, y, wide, high, radius = (float(item.attrib[k]) for k in _SIDES)
            style = BoxStyle("round", pad=0, rounding_size=min(radius, wide / 2))
            edge, face = ("#c5cdd5", "white") if "b" in css else ("none", item.attrib["fill"])
            box = FancyBboxPatch((x, y), wide, high, style, ec=edge, fc=face, lw=0.8)
            axes.add_patch(box)
        elif item.tag == f"{_SVG}text":
            size, weight, color = _FONTS[css[0]]
            side = "right" if "r" in css else "left"
            if item.attrib.get("text-anchor") == "middle":
                side = "center"
            axes.text(
                float(item.attrib["x"]),
                float(item.attrib["y"]),
                (item.text or "").replace("$", r"\$"),
                fontsize=0.72 * _FIT * size,
                fontweight=weight,
                color=color,
                ha=side,
                va="baseline",
            )
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


_SIDES = ("x", "y", "width", "height", "rx")
#: Matplotlib's own font is wider than those for which boxes are measured.
_FIT = 0.9


def _path(commands: str) -> Any:
    """The line of a path that has M, L, V and C, with absolute coordinates."""
    from matplotlib.path import Path

    points: list[tuple[float, float]] = []
    codes: list[int] = []
    for letter, rest in re.findall(r"([MLVC])([^MLVC]*)", commands):
        numbers = [float(number) for number in rest.split()]
        if letter == "V":
            numbers = [points[-1][0], *numbers]
        pairs = [*zip(numbers[::2], numbers[1::2])]
        kind = {"M": Path.MOVETO, "C": Path.CURVE4}.get(letter, Path.LINETO)
        points += pairs
        codes += [int(kind)] * len(pairs)
    return Path(points, codes)
