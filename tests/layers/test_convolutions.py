"""Convolutions with every option: contract, sizes, masks, errors."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl.layers import (
    Convolution,
    Convolution1D,
    Dense,
    DepthwiseConvolution,
    DepthwiseConvolution1D,
    Linear,
    SeparableConvolution,
    SeparableConvolution1D,
    Softmax,
    TransposedConvolution,
    TransposedConvolution1D,
)
from npdl.layers._hints import NAMES
from npdl.testing import check_layer

IMAGES, STEPS = (2, 4, 6, 5), (2, 7, 4)

#: Options that all convolutions of images take, and all those of sequences.
OF_IMAGES = [
    {"padding": ((1, 0), (2, 1))},
    {"padding": "same", "stride": (1, 2), "dilation": (2, 1)},
    {"padding": 2, "dilation": 2, "use_bias": False},
    {"activation": "softmax"},
]
OF_SEQUENCES = [
    {},
    {"padding": "same", "stride": 2, "use_bias": False},
    {"padding": (2, 1), "dilation": 2},
    {"activation": "softmax"},
]
CAUSAL = [{"padding": "causal", "dilation": 2}, {"padding": "causal", "stride": 2}]


def of_layer(cls) -> dict:
    """The arguments that a layer needs."""
    one = cls.__name__.endswith("1D")
    needed = {"filter_size": 3 if one else (2, 3), "activation": "tanh"}
    return needed if "Depthwise" in cls.__name__ else {**needed, "nb_filter": 4}


@pytest.mark.parametrize("options", OF_IMAGES, ids=str)
@pytest.mark.parametrize(
    "cls", [Convolution, TransposedConvolution, DepthwiseConvolution, SeparableConvolution]
)
def test_contract_of_images(cls, options):
    check_layer((cls, {**of_layer(cls), **options}), IMAGES)


@pytest.mark.parametrize("options", OF_SEQUENCES, ids=str)
@pytest.mark.parametrize(
    "cls",
    [Convolution1D, TransposedConvolution1D, DepthwiseConvolution1D, SeparableConvolution1D],
)
def test_contract_of_sequences(cls, options):
    check_layer((cls, {**of_layer(cls), **options}), STEPS)


@pytest.mark.parametrize(
    "cls, options, shape",
    [
        (Convolution, {"groups": 2}, IMAGES),
        (Convolution, {"groups": 4, "use_bias": False, "padding": 1}, IMAGES),
        (Convolution1D, {"groups": 2}, STEPS),
        *((cls, o, STEPS) for o in CAUSAL for cls in (Convolution1D, SeparableConvolution1D)),
        (TransposedConvolution, {"groups": 2, "stride": 2}, IMAGES),
        (TransposedConvolution, {"stride": (2, 3), "output_padding": (1, 2), "padding": 1}, IMAGES),
        (TransposedConvolution, {"stride": 3, "padding": "same"}, IMAGES),
        (TransposedConvolution1D, {"groups": 4, "stride": 2, "output_padding": 1}, STEPS),
        (DepthwiseConvolution, {"depth_multiplier": 3, "stride": 2}, IMAGES),
        (DepthwiseConvolution1D, {"depth_multiplier": 2, "padding": "causal"}, STEPS),
        (SeparableConvolution, {"depth_multiplier": 2, "regularizer": "l2"}, IMAGES),
    ],
    ids=str,
)
def test_contract_of_further_options(cls, options, shape):
    check_layer((cls, {**of_layer(cls), **options}), shape)


@pytest.mark.parametrize("cls", [Linear, Dense, Softmax])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)], ids=str)
def test_dense_without_bias(cls, shape):
    check_layer((cls, {"n_out": 3, "use_bias": False}), shape)
    layer = cls(3, n_in=5, use_bias=False)
    layer.connect_to()
    assert layer.b is None and [p.name for p in layer.parameters] == ["W"]


# ------------------------------------------------------------------------------------- sizes


def out_shape(layer, shape):
    layer.connect_to(_Source((None, *shape[1:])))
    found = layer.forward(np.zeros(shape), train=False).shape
    assert found == (shape[0], *layer.out_shape[1:])
    return found


class _Source:
    def __init__(self, shape):
        self.out_shape = shape


@pytest.mark.parametrize(
    "layer, shape, wanted",
    [
        (Convolution(6, 3, dilation=2), (2, 4, 9, 8), (2, 6, 5, 4)),
        (Convolution(6, 3, padding=((1, 2), (0, 3))), (2, 4, 9, 8), (2, 6, 10, 9)),
        (Convolution(6, 3, padding="same", dilation=3, stride=2), (2, 4, 9, 8), (2, 6, 5, 4)),
        (Convolution1D(6, 3), (2, 9, 4), (2, 7, 6)),
        (Convolution1D(6, 3, padding="causal", dilation=4, stride=2), (2, 9, 4), (2, 5, 6)),
        (Convolution1D(6, 3, padding=(1, 0), stride=2), (2, 9, 4), (2, 4, 6)),
        (DepthwiseConvolution(3, 2), (2, 4, 9, 8), (2, 8, 7, 6)),
        (DepthwiseConvolution1D(3, 2, stride=2), (2, 9, 4), (2, 4, 8)),
        (SeparableConvolution(6, 3, padding="same"), (2, 4, 9, 8), (2, 6, 9, 8)),
        (SeparableConvolution1D(6, 3), (2, 9, 4), (2, 7, 6)),
        (TransposedConvolution(6, 3), (2, 4, 5, 6), (2, 6, 7, 8)),
        (TransposedConvolution(6, 3, stride=2), (2, 4, 5, 6), (2, 6, 11, 13)),
        (TransposedConvolution(6, 3, stride=2, padding="same"), (2, 4, 5, 6), (2, 6, 10, 12)),
        (TransposedConvolution(6, 2, stride=3), (2, 4, 5, 6), (2, 6, 14, 17)),
        (
            TransposedConvolution(6, 3, stride=2, padding=1, output_padding=1),
            (2, 4, 5, 6),
            (2, 6, 10, 12),
        ),
        (TransposedConvolution1D(6, 4, stride=2, padding=1), (2, 9, 4), (2, 18, 6)),
    ],
    ids=lambda v: type(v).__name__ if hasattr(v, "forward") else str(v),
)
def test_sizes(layer, shape, wanted):
    assert out_shape(layer, shape) == wanted


def test_open_sizes_stay_open():
    layer = Convolution1D(6, 3, padding="same")
    layer.connect_to(_Source((None, None, 4)))
    assert layer.out_shape == (None, None, 6)
    assert layer.forward(np.zeros((2, 5, 4)), train=False).shape == (2, 5, 6)
    layer = TransposedConvolution(6, 3, (4, None, 7), stride=2)
    layer.connect_to()
    assert layer.out_shape == (None, 6, None, 15)


def test_a_causal_convolution_sees_no_later_step(rng):
    layer = Convolution1D(3, 4, (9, 2), dilation=2, padding="causal")
    layer.connect_to()
    x = rng.normal(size=(1, 9, 2))
    later = x.copy()
    later[:, 5:] += 1
    one, other = (layer.forward(a, train=False)[:, :5] for a in (x, later))
    np.testing.assert_array_equal(one, other)


def test_transposed_is_the_adjoint_of_convolution(rng):
    """<conv(u), v> = <u, transposed(v)>, with the same filters."""
    options = {"activation": "linear", "use_bias": False, "stride": 2, "padding": 1}
    conv = Convolution(5, 3, (4, 9, 7), **options)
    back = TransposedConvolution(4, 3, (5, 5, 4), **options)
    for layer in (conv, back):
        layer.connect_to()
    back.W = conv.W
    u, v = rng.normal(size=(2, 4, 9, 7)), rng.normal(size=(2, 5, 5, 4))
    one = (conv.forward(u).astype(float) * v).sum()
    other = (back.forward(v).astype(float) * u).sum()
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_softmax_runs_over_the_channels(rng):
    for layer in (Convolution(5, 1, (3, 4, 6)), TransposedConvolution(5, 1, (3, 4, 6))):
        layer.activation = npdl.activations.get("softmax")
        layer.connect_to()
        p = layer.forward(rng.normal(size=(2, 3, 4, 6)), train=False)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_the_parts_of_a_separable_convolution(rng):
    layer = SeparableConvolution(5, 3, (4, 6, 7), depth_multiplier=2)
    layer.connect_to()
    shapes = [p.value.shape for p in layer.parameters]
    assert shapes == [(8, 1, 3, 3), (5, 8, 1, 1), (5,)]
    layer = SeparableConvolution(5, 3, (4, 6, 7), use_bias=False)
    layer.connect_to()
    assert [p.value.shape for p in layer.parameters] == [(4, 1, 3, 3), (5, 4, 1, 1)]


def test_frozen_filters_get_no_gradient(rng):
    for cls in (Convolution, TransposedConvolution, Dense):
        layer = cls(4, 3, (2, 6, 5)) if cls is not Dense else Dense(4, n_in=5)
        layer.connect_to()
        x = rng.normal(size=(3, 2, 6, 5))
        y = layer.forward(x)
        wanted = layer.backward(np.ones_like(y)).copy()
        layer.trainable = False
        y = layer.forward(x)
        np.testing.assert_array_equal(layer.backward(np.ones_like(y)), wanted)
        assert layer.dW is None and layer.grads == []


# ------------------------------------------------------------------------------------- masks

MASK = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"padding": "same"}, MASK),
        ({"padding": "causal", "dilation": 2}, MASK),
        ({"padding": "causal", "stride": 2}, MASK[:, ::2]),
        ({}, [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]),
        ({"stride": 2}, [[1, 1, 0], [0, 0, 0], [1, 1, 1]]),
        ({"dilation": 2}, [[1, 0, 0], [0, 0, 0], [1, 1, 1]]),
        ({"padding": (2, 0)}, MASK),
    ],
    ids=str,
)
@pytest.mark.parametrize("cls", [Convolution1D, DepthwiseConvolution1D, SeparableConvolution1D])
def test_masks(cls, options, wanted):
    layer = cls(**{**of_layer(cls), **options})
    layer.connect_to(_Source((None, 7, 4)))
    y = layer.forward(np.zeros((3, 7, 4)), train=False)
    np.testing.assert_array_equal(layer.next_mask((MASK,), y), wanted)
    assert layer.next_mask((None,), y) is None


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Convolution(32, 3, 2), "Write stride=2 for a stride"),
        (lambda: Convolution(3, 16, 3), "the number of channels in is no argument"),
        (lambda: Convolution(32, 3, "relu"), "Write activation='relu'"),
        (lambda: Convolution1D(32, 3, "relu"), r"`input_shape` must be \(T, D\)"),
        (lambda: Convolution(32, 3, (1, 2)), r"`input_shape` must be \(C, H, W\)"),
        (lambda: Convolution(32, 3, padding="causal"), "`padding` must be 'valid', 'same', an"),
        (lambda: Convolution1D(32, 3, padding="full"), "'causal', an integer or .before, after."),
        (lambda: Convolution(32, 3, padding=((1, 2), (3,))), "`padding` must be"),
        (lambda: Convolution(32, 3, dilation=0), "`dilation` must be an integer >= 1"),
        (lambda: Convolution(32, 3, groups=5), "`groups` must divide the number of filters, 32"),
        (lambda: Convolution(32, 3, groups=0), "`groups` must be an integer >= 1"),
        (lambda: DepthwiseConvolution(3, 0), "`depth_multiplier` must be an integer >= 1"),
        (
            lambda: TransposedConvolution(4, 3, stride=2, output_padding=2),
            "`output_padding` must be less than the stride",
        ),
        (
            lambda: TransposedConvolution(4, 3, stride=2, padding="same", output_padding=1),
            "`output_padding` must be 0 where",
        ),
    ],
)
def test_options_that_are_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        make()
    assert "Received: " in str(error.value) and "(layer '" in str(error.value)


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (Convolution(4, 3, groups=2), (None, 3, 8, 8), "`groups` must divide the 3 channels"),
        (Convolution(4, 3, dilation=4), (None, 3, 8, 8), r"8 pixels high.*dilation=\(4, 4\)"),
        (Convolution1D(4, 3), (None, 2, 5), "must fit into the sequence of 2 steps"),
        (TransposedConvolution(4, 3, padding=3), (None, 2, 2, 2), "must leave something"),
        (Convolution1D(4, 3), (None, 3, 8, 8), "The input must have 3 axes"),
    ],
)
def test_inputs_that_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer.connect_to(_Source(shape))


def test_a_sequence_that_came_too_short():
    layer = Convolution1D(4, 3, (None, 5))
    layer.connect_to()
    with pytest.raises(ValueError, match="must fit into the sequence of 2 steps"):
        layer.forward(np.zeros((3, 2, 5)))
    with pytest.raises(ValueError, match=r"`input` must have shape \(N, T, 5\)"):
        layer.forward(np.zeros((3, 8, 4)))


@pytest.mark.parametrize(
    "name, ours",
    [
        ("Conv2D", "npdl.layers.Convolution: its activation is 'relu' unless told otherwise"),
        ("Conv1d", "npdl.layers.Convolution1D: without the number of channels in"),
        ("GlobalAveragePooling2D", "npdl.layers.GlobalMeanPooling"),
        ("BatchNorm2d", "npdl.layers.BatchNormalization"),
        ("dense", "Did you mean 'Dense'"),
    ],
)
def test_names_from_elsewhere(name, ours):
    with pytest.raises(AttributeError, match=ours):
        getattr(npdl.layers, name)
    assert not hasattr(npdl.layers, "Conv7D")
    with pytest.raises(AttributeError, match=r"A chain of layers is npdl.Model\(\[...\]\)"):
        npdl.Sequential  # noqa: B018


def test_hints_name_layers_that_are_there():
    later = {"Attention", "MultiHeadAttention"}
    assert {ours for ours, _ in NAMES.values()} <= {*npdl.layers.__all__, *later}
    assert not set(NAMES) & set(npdl.layers.__all__)
