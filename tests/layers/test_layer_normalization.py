"""Batch, layer, group and RMS normalization: contract, masks, free sizes, frozen layers, errors.

Values and gradients of PyTorch and Keras: `test_golden_normalization.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl.data import Buckets
from npdl.layers import (
    LSTM,
    BatchNormal,
    BatchNormalization,
    Convolution,
    GroupNormalization,
    LayerNormalization,
    RMSNormalization,
    Softmax,
)
from npdl.testing import check_layer
from npdl.utils import set_seed

MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]])


class Data:
    """A stand-in for the previous layer, with outputs of this shape for any batch."""

    def __init__(self, *shape):
        self.out_shape = (None, *shape)


def connected(layer, *shape):
    layer.connect_to(Data(*shape))
    return layer


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("trainable", [True, False], ids=["", "frozen"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", ""])
def test_batch_normal(axis, trainable, masked):
    args = {"mask": MASK} if masked else {}
    kwargs = {"axis": axis, "momentum": 0.7, "trainable": trainable}
    check_layer((BatchNormal, kwargs), (3, 4, 2, 3), forward_args=args)
    if axis < 3:
        check_layer((BatchNormal, kwargs), (3, 4, 2), forward_args=args)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_masked_steps_count_for_nothing(axis, rng):
    """Masked steps, even with NaN, change neither statistics nor gradients."""
    x, dy = rng.normal(3, 1, size=(2, 3, 4, 5)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    layers = [connected(BatchNormal(axis=axis), 4, 5) for _ in range(2)]
    for layer, value in zip(layers, (0.5, np.nan)):
        x[mask == 0] = value
        y = layer.forward(x, mask=mask)
        dx = layer.backward(dy)
        assert not y[mask == 0].any() and not dx[mask == 0].any()
        assert not layer.forward(x, train=False, mask=mask)[mask == 0].any()
    for name in ("running_mean", "running_var", "dgamma", "dbeta"):
        one, other = (getattr(layer, name) for layer in layers)
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    if axis == -1:
        real = x[mask == 1].astype(float)
        np.testing.assert_allclose(layer.running_mean, 0.1 * real.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * real.var(axis=0), rtol=1e-5)
        longer = connected(BatchNormal(axis=axis), None, 5)
        pad = [(0, 0), (0, 7), (0, 0)]
        longer.forward(np.pad(x, pad), mask=np.pad(mask, pad[:2]))
        longer.backward(np.pad(dy, pad))
        np.testing.assert_array_equal(longer.running_var, layer.running_var)
        np.testing.assert_array_equal(longer.dgamma, layer.dgamma)


def test_a_mask_of_ones_is_none(rng):
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    one, other = (connected(BatchNormal(axis=2), 4, 5) for _ in range(2))
    np.testing.assert_array_equal(one.forward(x), other.forward(x, mask=np.ones((3, 4))))


def test_masked_everywhere():
    layer, x = connected(BatchNormal(axis=2), 4, 5), np.ones((3, 4, 5), np.float32)
    assert not layer.forward(x, mask=np.zeros((3, 4))).any()
    assert not layer.backward(x).any() and not layer.dgamma.any()
    assert not layer.running_mean.any() and (layer.running_var == 1).all()


@pytest.mark.parametrize("axis", [1, -1])
def test_other_axes_have_any_size(axis, rng):
    layer = connected(BatchNormal(axis=axis), *((4, 6, 6) if axis == 1 else (6, 4)))
    sizes = [(2, 4, 6, 6), (3, 4, 9, 2)] if axis == 1 else [(2, 6, 4), (3, 11, 4)]
    for shape in sizes:
        for train in (True, False):
            assert layer.forward(rng.normal(size=shape), train=train).shape == shape
    with pytest.raises(ValueError, match=r"must have shape \(N, .*4.*\)"):
        layer.forward(np.ones((2, 5, 6, 6) if axis == 1 else (2, 6, 5)))


def test_sequences_of_different_lengths_and_images_of_different_sizes(rng):
    seqs = [rng.normal(size=(t, 3)).astype("f4") for t in rng.integers(3, 9, 40)]
    model = npdl.Model(
        [LSTM(n_out=4, return_sequence=True), BatchNormal(axis=2), LSTM(n_out=4), Softmax(2)]
    )
    model.compile()
    batches = Buckets(seqs, np.arange(40) % 2, batch_size=8, masks=True)
    history = model.fit(batches, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model = npdl.Model([Convolution(4, 3), BatchNormal(axis=1)])
    model.compile("mse")
    for size in (12, 16):
        assert model.predict(np.zeros((1, 1, size, size))).shape == (1, 4, size - 2, size - 2)


@pytest.mark.parametrize(
    "shape, axis", [((1, 3), 0), ((1, 3), 1), ((1, 3, 1, 1), 1), ((1, 2, 3), 0)], ids=str
)
def test_one_value_in_each_channel_changes_no_running_statistics(shape, axis):
    layer = connected(BatchNormal(axis=axis), *shape[1:])
    layer.running_mean, layer.running_var = 2 * layer.gamma, 3 * layer.gamma
    y = layer.forward(np.full(shape, 7.0))
    np.testing.assert_array_equal(y, 0)
    assert (layer.running_mean == 2).all() and (layer.running_var == 3).all()


def test_a_last_batch_of_one_sample_leaves_the_running_variance(rng):
    x = rng.normal(3, 2, (193, 4)).astype("f4")
    set_seed(0)
    model = npdl.Model([BatchNormal(), Softmax(2)])
    model.compile()
    model.fit(x, (x[:, 0] > 3).astype(int), epochs=20, batch_size=64, verbose=0)
    np.testing.assert_allclose(model.layers[0].running_var / x.var(axis=0), 1, atol=0.15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape, axis", [((257, 3), 0), ((3, 4, 700), 1), ((33, 4, 5), 2)])
def test_constant_features_give_zero(shape, axis, dtype):
    layer = connected(BatchNormal(axis=axis), *shape[1:])
    for value in (12345.678, -1e-3, 1e8 / 3):
        y = layer.forward(np.full(shape, value, dtype))
        np.testing.assert_array_equal(y, 0)


def test_frozen(rng):
    x, dy = rng.normal(2, 3, size=(2, 6, 4)).astype(np.float32)
    layer = connected(BatchNormal(axis=1), 4)
    layer.forward(x)
    layer.trainable = False
    before = [p.value.copy() for p in layer.parameters]
    y = layer.forward(x, train=True)
    np.testing.assert_array_equal(y, layer.forward(x, train=False))
    factor = layer.gamma / np.sqrt(layer.running_var + layer.epsilon)
    np.testing.assert_allclose(layer.backward(dy), dy * factor, rtol=1e-6)
    assert layer.dgamma is None and layer.dbeta is None
    for parameter, old in zip(layer.parameters, before):
        np.testing.assert_array_equal(parameter.value, old)
    layer.trainable = True
    assert not np.array_equal(layer.forward(x), y)


def test_defaults_and_names_of_keras():
    layer = BatchNormalization()
    assert (layer.axis, layer.momentum, layer.epsilon) == (1, 0.99, 1e-3)
    layer = BatchNormalization(-1, gamma_initializer="zero")
    assert layer.axis == -1 and type(layer.gamma_init).__name__ == "Zero"
    check_layer((BatchNormalization, {"epsilon": 0.01}), (4, 3))
    assert (LayerNormalization().epsilon, GroupNormalization(2).epsilon) == (1e-5, 1e-3)
    assert RMSNormalization().epsilon == 1e-6


@pytest.mark.parametrize("cls", [BatchNormal, LayerNormalization, RMSNormalization])
@pytest.mark.parametrize("axis", [0, 1, -1, np.int64(2)])
def test_an_axis_in_the_place_of_epsilon(cls, axis):
    with pytest.raises(ValueError, match=r"an axis is given by name, `axis=1`. Received: epsilon="):
        cls(axis)


# ------------------------------------------------------------------------ of rows


@pytest.mark.parametrize("cls", [LayerNormalization, RMSNormalization])
@pytest.mark.parametrize("axis", [-1, 1, (1, 2), (-1, 1), (2,)], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 2, 4)], ids=["3d", "4d"])
def test_layer_normalization(cls, axis, shape):
    check_layer((cls, {"axis": axis, "epsilon": 1e-3}), shape)


@pytest.mark.parametrize("cls", [LayerNormalization, RMSNormalization])
@pytest.mark.parametrize("trainable", [True, False])
def test_layer_normalization_of_features(cls, trainable):
    check_layer((cls, {"trainable": trainable}), (4, 5))


@pytest.mark.parametrize("groups", [1, 2, 6, -1])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 3), (2, 6, 2, 3)], ids=["2d", "3d", "4d"])
def test_group_normalization(groups, shape):
    if len(shape) > 2 or groups in (1, 2):  # of one number nothing is left
        check_layer((GroupNormalization, {"groups": groups}), shape)


def test_group_normalization_along_the_last_axis():
    check_layer((GroupNormalization, {"groups": 2, "axis": -1, "epsilon": 1e-5}), (2, 3, 6))


def test_rows_are_normalized(rng):
    x = rng.normal(3, 2, size=(4, 6, 5, 5))
    y = connected(GroupNormalization(3, epsilon=1e-9), 6, 5, 5).forward(x).reshape(4, 3, 50)
    np.testing.assert_allclose([y.mean(axis=2), y.std(axis=2) - 1], 0, atol=1e-5)
    y = connected(LayerNormalization(1e-9), 6, 5, 5).forward(x)
    np.testing.assert_allclose([y.mean(axis=-1), y.std(axis=-1) - 1], 0, atol=1e-5)
    y = connected(RMSNormalization(1e-9), 6, 5, 5).forward(x)
    np.testing.assert_allclose((y**2).mean(axis=-1), 1, rtol=1e-5)


def test_one_channel_is_a_group():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    by_channel, whole = (connected(GroupNormalization(n), 4, 3, 3) for n in (-1, 4))
    np.testing.assert_array_equal(by_channel.forward(x), whole.forward(x))


@pytest.mark.parametrize("value", [12345.678, -1e-3])
def test_constant_rows_give_zero(value):
    x = np.full((3, 70), value, np.float32)
    assert not connected(LayerNormalization(), 70).forward(x).any()
    x = np.full((3, 6, 41, 43), value, np.float32)
    assert not connected(GroupNormalization(2), 6, 41, 43).forward(x).any()


@pytest.mark.parametrize(
    "layer, shape",
    [(LayerNormalization(), (37,)), (RMSNormalization(), (5, 37)), (GroupNormalization(2), (4, 7))],
)
def test_a_sample_has_the_same_bits_in_any_batch(layer, shape, rng):
    connected(layer, *shape)
    x = rng.normal(size=(300, *shape)).astype(np.float32)
    whole = layer.forward(x, train=False)
    for n in (1, 2, 77):
        np.testing.assert_array_equal(layer.forward(x[-n:], train=False), whole[-n:])
    np.testing.assert_array_equal(layer.forward(x), whole)


def test_of_one_number_the_shift_is_left(rng):
    layer, x = connected(LayerNormalization(beta_init="normal"), 4, 1), rng.normal(size=(3, 4, 1))
    np.testing.assert_array_equal(layer.forward(x), np.broadcast_to(layer.beta, x.shape))
    np.testing.assert_allclose(layer.backward(x), 0, atol=1e-4)  # 1e-7 / sqrt(epsilon)


def test_sizes_that_are_free(rng):
    layer = connected(LayerNormalization(), None, 5)
    for steps in (2, 7):
        assert layer.forward(rng.normal(size=(3, steps, 5))).shape == (3, steps, 5)
        assert layer.backward(np.ones((3, steps, 5))).shape == (3, steps, 5)
    layer = connected(GroupNormalization(2), 4, None, None)
    for size in (2, 7):
        assert layer.forward(rng.normal(size=(3, 4, size, size))).shape == (3, 4, size, size)


def test_wrong_arguments():
    for layer, shape, message in [
        (GroupNormalization(4), (6, 2, 2), "`groups` must divide the number of channels, 6"),
        (LayerNormalization(axis=3), (6, 2), r"`axis` must lie in \[1, 2\]"),
        (LayerNormalization(axis=0), (6, 2), r"`axis` must lie in \[1, 2\]"),
        (LayerNormalization(axis=(1, -2)), (6, 2), "The numbers of `axis` must differ"),
        (LayerNormalization(), (None,), "input's axis 1 must be known"),
    ]:
        with pytest.raises(ValueError, match=message):
            connected(layer, *shape)
    with pytest.raises(ValueError, match="`groups` must be an integer >= 1"):
        GroupNormalization(0)
    with pytest.raises(ValueError, match="`axis` must hold at least one axis"):
        LayerNormalization(axis=())
    with pytest.raises(ValueError, match=r"must have shape \(N, S1, 5\)"):
        connected(LayerNormalization(), 4, 5).forward(np.ones((2, 4, 6)))
    with pytest.raises(ValueError, match=r"`mask` must have shape \(2, 4\)"):
        connected(BatchNormal(axis=2), 4, 5).forward(np.ones((2, 4, 5)), mask=np.ones((2, 3)))
