"""`npdl.plot_model`: well-formed SVG that shows all layers."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import npdl
from npdl.layers import (
    GRU,
    BatchNormal,
    Convolution,
    Dense,
    Embedding,
    Flatten,
    Layer,
    MaxPooling,
    Softmax,
)


def texts(svg):
    """The visible strings of a document, from top to bottom."""
    return [text.text for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture
def cnn():
    body = [Convolution(4, 3, (1, 8, 8), padding="same"), MaxPooling(2), Flatten()]
    model = npdl.Model([*body, Dense(6, activation="soft_sign"), Softmax(3)])
    model.compile()
    return model


def test_it_shows_layers_options_shapes_and_parameters(cnn, tmp_path):
    path = tmp_path / "model.svg"
    svg = npdl.plot_model(cnn, path)
    assert path.read_text("utf-8") == svg == svg._repr_svg_()
    assert texts(svg) == [
        "input  (N, 1, 8, 8)",
        *(
            "convolution_1",
            "Convolution, nb_filter=4, filter_size=3×3, activation=ReLU, padding=same",
        ),
        *("(N, 4, 8, 8)", "40 parameters"),
        *("max_pooling_1", "MaxPooling, pool_size=2×2, stride=2×2", "(N, 4, 4, 4)"),
        *("flatten_1", "Flatten", "(N, 64)"),
        *("dense_1", "Dense, n_out=6, activation=SoftSign", "(N, 6)", "390 parameters"),
        *("softmax_1", "Softmax, n_out=3", "(N, 3)", "21 parameters"),
    ]


def test_less_is_shown_on_demand(cnn):
    svg = npdl.plot_model(
        cnn, None, show_shapes=False, show_layer_names=False, show_parameters=False
    )
    assert texts(svg)[:3] == [
        *("input", "Convolution", "nb_filter=4, filter_size=3×3, activation=ReLU, padding=same"),
    ]
    assert "(N" not in svg and "parameters" not in svg and "dense_1" not in svg


def test_boxes_follow_each_other_and_hold_their_strings(cnn):
    root = ET.fromstring(npdl.plot_model(cnn, None))
    width, height = float(root.get("width")), float(root.get("height"))
    boxes = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class") == "b"]
    assert len(boxes) == len(cnn.layers)
    tops = [float(box.get("y")) for box in boxes]
    assert tops == sorted(tops) and tops[-1] + float(boxes[-1].get("height")) < height
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        found = [t for t in group if t.tag.endswith("text")]
        left = [len(t.text) for t in found if " r" not in t.get("class")]
        right = [len(t.text) for t in found if " r" in t.get("class")]
        for a, b in zip(left, right):
            assert 6.2 * (a + b) < width  # they do not run into each other


def test_frozen_and_unbuilt_layers():
    table = np.ones((5, 2), np.float32)
    model = npdl.Model([Embedding(table), GRU(n_out=3), BatchNormal(), Dense(2)])
    svg = npdl.plot_model(model, None)
    assert texts(svg)[0] == "input  (N, ?)" and "?" in texts(svg)
    model.compile()
    shown = texts(npdl.plot_model(model, None))
    assert "10 parameters, frozen" in shown and "12 parameters, 6 trained" in shown
    assert "GRU, n_out=3, activation=Tanh" in shown  # what is as always is left out


def test_names_of_any_kind_are_escaped():
    class Odd(Layer):
        def __init__(self, text):
            self.text = text

    layer = Odd("a" * 50 + "<&>\"'")
    layer.name = "<script>&\"'"
    model = npdl.Model([layer])
    shown = texts(npdl.plot_model(model, None))
    assert shown[1] == "<script>&\"'" and re.search("text=a{23}…$", shown[2])


def test_a_layer_without_a_configuration_can_be_drawn():
    class Own(Layer):
        def __init__(self, size):
            pass

    assert "Own" in texts(npdl.plot_model(npdl.Model([Own(3)]), None))


def test_a_png(cnn, tmp_path):
    """Twice as many pixels as the drawing, and ink where its boxes and texts are."""
    image = pytest.importorskip("matplotlib.image")
    svg = npdl.plot_model(cnn, tmp_path / "model.png")
    pixels = image.imread(tmp_path / "model.png")
    root = ET.fromstring(svg)
    size = [2 * float(root.get(side)) for side in ("height", "width")]
    assert np.allclose(pixels.shape[:2], size, atol=2)
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if box.get("fill") and box.get("x"):  # the coloured edge of a layer
            x, y, high = (float(box.get(name)) for name in ("x", "y", "height"))
            found = pixels[int(2 * (y + high / 2)), int(2 * x + 6), :3]
            assert np.allclose(255 * found, list(bytes.fromhex(box.get("fill")[1:])), atol=2)
    assert (pixels[..., :3].min(axis=2) < 0.3).mean() > 0.005  # the texts


@pytest.mark.parametrize(
    "layers, path, error",
    [([], None, "at least one layer"), ([Flatten()], "model.pdf", "must end in .svg or .png")],
)
def test_what_cannot_be_drawn(layers, path, error):
    with pytest.raises(ValueError, match=error):
        npdl.plot_model(npdl.Model(layers), path)


def test_a_folder_that_is_not_there(cnn, tmp_path):
    with pytest.raises(OSError):
        npdl.plot_model(cnn, tmp_path / "nowhere" / "model.svg")
