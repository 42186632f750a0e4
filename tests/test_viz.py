"""`npdl.viz`: the pictures show the data."""

import pickle
import sys

import numpy as np
import pytest

import npdl
from npdl import viz
from npdl.layers import Convolution, Dropout, Flatten, MaxPooling, Softmax

pytest.importorskip("matplotlib", reason="needs matplotlib")


def images(figure):
    """The arrays of all pictures in a figure."""
    return [image.get_array() for axes in figure.axes for image in axes.get_images()]


def drawn(figure, tmp_path):
    """The figure, after it was drawn once: empty panels hidden, and no ticks around pictures."""
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=40)
    assert path.stat().st_size > 1000
    for axes in figure.axes:
        assert axes.axison == axes.has_data()
        picture = axes.get_images() and not axes.texts
        assert not picture or not (len(axes.get_xticks()) or len(axes.get_yticks()))
    return figure


@pytest.fixture
def cnn():
    body = [Convolution(5, 3, (1, 8, 8)), MaxPooling(2), Dropout(0.5), Convolution(3, 2)]
    model = npdl.Model([*body, Flatten(), Softmax(2)])
    model.compile()
    return model


def test_history_has_a_panel_for_each_figure(tmp_path):
    table = {"loss": [2.0, 1.0, 0.5], "acc": [0.1, 0.2, 0.4], "val_loss": [3.0, 2.0, 1.0]}
    table["confusion"] = [np.eye(2)] * 3
    figure = drawn(viz.plot_history(table), tmp_path)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.axison}
    assert [*panels] == ["loss", "acc"]
    training, validation = panels["loss"].get_lines()
    assert training.get_xydata().tolist() == [[1, 2.0], [2, 1.0], [3, 0.5]]
    assert validation.get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert validation.get_label() == "validation, 1 at the end"
    assert len(panels["acc"].get_lines()) == 1


def test_history_of_fit(tmp_path, rng):
    model = npdl.Model([Softmax(2, n_in=3)])
    model.compile()
    x = rng.random((20, 3))
    history = model.fit(x, x.argmax(1) % 2, epochs=2, verbose=0, validation_split=0.2)
    for figure in (viz.plot_history(history), history.plot()):
        loss, *_ = figure.axes
        assert loss.get_lines()[0].get_ydata().tolist() == history.history["loss"]
        assert loss.get_lines()[0].get_xdata().tolist() == [1, 2]
    drawn(figure, tmp_path)


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        viz.plot_history({"loss": []})


def test_filters_of_one_channel(cnn, tmp_path):
    layer = cnn.layers[0]
    figure = drawn(viz.plot_filters(layer), tmp_path)
    tiles = [tile for tile in images(figure) if tile.ndim == 2 and tile.shape == (3, 3)]
    np.testing.assert_array_equal(tiles, layer.W[:, 0])
    assert figure.get_suptitle() == "convolution_1: 5 filters"
    limit = np.abs(layer.W).max()  # white is 0 in every tile
    for axes in figure.axes:
        for image in axes.get_images():
            np.testing.assert_allclose(image.get_clim(), (-limit, limit))


def test_filters_of_many_channels_have_a_row_each(cnn, tmp_path):
    figure = drawn(viz.plot_filters(cnn.layers[3], max_filters=2), tmp_path)
    tiles = [tile for tile in images(figure) if tile.shape == (2, 2)]
    np.testing.assert_array_equal(tiles, cnn.layers[3].W[:2].reshape(10, 2, 2))
    assert figure.get_suptitle() == "convolution_2: 2 of 3 filters, 5 channels of each"


def test_filters_of_three_channels_are_in_color(tmp_path):
    layer = Convolution(2, 3, (3, 5, 5))
    layer.connect_to()
    (tile, _) = images(drawn(viz.plot_filters(layer), tmp_path))
    assert tile.shape == (3, 3, 3) and 0 <= tile.min() < 0.5 < tile.max() <= 1


@pytest.mark.parametrize("layer", [Flatten(), Convolution(2, 3)])
def test_only_a_built_convolution_has_filters(layer):
    with pytest.raises(ValueError, match="Convolution that is built"):
        viz.plot_filters(layer)


def test_activations_of_one_image(cnn, rng, tmp_path):
    x = rng.random((1, 8, 8), np.float32)
    figure = drawn(viz.plot_activations(cnn, x), tmp_path)
    found = images(figure)
    outputs = [y[0] for layer, y in cnn.trace(x[None]) if layer.name in ("convolution_1",)]
    assert len(found) == 1 + 5 + 5 + 3  # the input, two layers of five maps, one of three
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(found[1:6], outputs[0])
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert [label.split()[0] for label in labels] == [
        *("input", "convolution_1", "max_pooling_1", "convolution_2")
    ]


def test_activations_of_some_layers(cnn, rng):
    x = rng.random((1, 1, 8, 8), np.float32)
    figure = viz.plot_activations(cnn, x, [cnn.layers[3], "max_pooling_1"], max_maps=2)
    assert [image.shape for image in images(figure)] == [(8, 8), *[(2, 2)] * 2, *[(3, 3)] * 2]
    with pytest.raises(ValueError, match=r"among those .* Received: name='softmax_1'"):
        viz.plot_activations(cnn, x, ["softmax_1"])
    with pytest.raises(ValueError, match=r"must have shape \(C, H, W\)"):
        viz.plot_activations(cnn, x[0, 0])


def test_confusion(tmp_path):
    figure = drawn(viz.plot_confusion([[8, 2], [0, 5]], ["cat", "dog"]), tmp_path)
    (shares,) = images(figure)
    np.testing.assert_allclose(shares, [[0.8, 0.2], [0, 1]])
    (axes,) = figure.axes
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "8"),
        ((1, 0), "2"),
        ((1, 1), "5"),
    }
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]
    with pytest.raises(ValueError, match="`matrix` must have shape"):
        viz.plot_confusion([1, 2])
    with pytest.raises(ValueError, match="`classes` must be 2 names"):
        viz.plot_confusion(np.eye(2), ["a"])


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'npdl\[plot\]'"):
        viz.plot_history({"loss": [1.0]})


def test_a_notebook_shows_a_figure():
    """IPython calls `_repr_png_`; otherwise it shows only figures of pyplot."""
    figure = viz.plot_history({"loss": [2.0, 1.0]})
    assert figure._repr_png_().startswith(b"\x89PNG")
    pickle.loads(pickle.dumps(figure))
