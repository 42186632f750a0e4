"""Batch normalization in the weights of the layer before it, at prediction."""

import copy

import numpy as np
import pytest

import npdl
from npdl import layers
from npdl.layers._folding import Folded
from npdl.layers.tree import every_layer
from npdl.program import layers_of
from npdl.utils.random import use_dtype

IMAGE, STEPS = (4, 7, 6), (9, 4)
LINEAR = {"activation": "linear"}

CASES = {
    "conv": (IMAGE, lambda: layers.Convolution(6, 3, padding="same", **LINEAR), 1),
    "conv without bias": (IMAGE, lambda: layers.Convolution(6, 3, use_bias=False, **LINEAR), 1),
    "groups": (IMAGE, lambda: layers.Convolution(6, (3, 2), groups=2, stride=2, **LINEAR), -3),
    "depthwise": (IMAGE, lambda: layers.DepthwiseConvolution(3, 2, **LINEAR), 1),
    "separable": (IMAGE, lambda: layers.SeparableConvolution(5, 3, **LINEAR), 1),
    "transposed": (IMAGE, lambda: layers.TransposedConvolution(6, 3, stride=2, **LINEAR), 1),
    "transposed, groups": (
        IMAGE,
        lambda: layers.TransposedConvolution(6, 2, groups=2, use_bias=False, **LINEAR),
        1,
    ),
    "conv 1d": (STEPS, lambda: layers.Convolution1D(6, 3, padding="causal", **LINEAR), -1),
    "depthwise 1d": (STEPS, lambda: layers.DepthwiseConvolution1D(3, **LINEAR), 2),
    "separable 1d": (STEPS, lambda: layers.SeparableConvolution1D(5, 3, **LINEAR), -1),
    "transposed 1d": (STEPS, lambda: layers.TransposedConvolution1D(6, 3, stride=2, **LINEAR), -1),
    "dense": ((3,), lambda: layers.Dense(6, **LINEAR), 0),
    "linear": ((3,), lambda: layers.Linear(6, use_bias=False), 1),
    "dense over steps": (STEPS, lambda: layers.Dense(6, **LINEAR), -1),
}

#: Not foldable: other channels, an output of several axes, more weights than it is worth.
APART = {
    "each value": (IMAGE, lambda: layers.Convolution(6, 3, **LINEAR), 0),
    "each row": (IMAGE, lambda: layers.Convolution(6, 3, **LINEAR), 2),
    "several axes": ((3,), lambda: layers.Linear((3, 4)), 2),
    "many weights": ((19,), lambda: layers.Dense(6, **LINEAR), 1),
    "subclass": (IMAGE, lambda: Doubled(6, 3, **LINEAR), 1),
}


class Doubled(layers.Convolution):
    """A user's convolution."""

    def forward(self, input, train=True):
        """Twice the convolution."""
        return 2 * super().forward(input, train)


def model_of(*chain, shape, dtype="float64"):
    with use_dtype(dtype):
        x = out = npdl.Input(shape)
        for layer in chain:
            out = layer(out)
        model = npdl.Model(inputs=x, outputs=out)
        model.build()
    rng = np.random.default_rng(3)
    for layer in every_layer(model.layers):
        for parameter in layer.parameters:
            low = 0.3 if parameter.name == "running_var" else -1
            parameter.value[...] = rng.uniform(low, 1.5, parameter.value.shape)
    return model


def unfolded(model, x):
    *_, (_, y) = model.plan.trace([x])
    return y


def is_folded(model):
    return any(isinstance(layer, Folded) for layer in layers_of(model.plan))


def data(shape, dtype="float64", n=3):
    return np.random.default_rng(4).normal(size=(n, *shape)).astype(dtype)


@pytest.mark.parametrize("act", [(), (layers.ReLU,), (layers.ELU,)], ids=["", "relu", "elu"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-5)])
@pytest.mark.parametrize("name", CASES)
def test_folded_layers_compute_what_they_do_apart(name, dtype, tolerance, act):
    shape, make, axis = CASES[name]
    norm = layers.BatchNormal(axis=axis)
    model = model_of(make(), norm, *(one() for one in act), shape=shape, dtype=dtype)
    x = data(shape, dtype)
    y, apart = model.predict(x), unfolded(model, x)
    assert is_folded(model)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, apart, rtol=tolerance, atol=tolerance * np.abs(apart).max())
    np.testing.assert_array_equal(model.predictor()(x), y)


@pytest.mark.parametrize("name", APART)
def test_other_layers_stay_apart(name):
    shape, make, axis = APART[name]
    model = model_of(make(), layers.BatchNormalization(axis=axis), shape=shape)
    x = data(shape)
    assert not is_folded(model)
    np.testing.assert_array_equal(model.predict(x), unfolded(model, x))


def test_a_value_that_is_read_elsewhere_is_not_folded_away():
    x = npdl.Input(IMAGE)
    z = layers.Convolution(4, 3, padding="same", **LINEAR)(x)
    y = layers.BatchNormal(axis=1)(z)
    for outputs in ([layers.Add()(y, z)], [y, z]):
        model = npdl.Model(inputs=x, outputs=outputs)
        model.build()
        assert not is_folded(model)


@pytest.mark.parametrize("is_chain", [True, False])
def test_a_value_that_a_term_of_the_loss_takes(is_chain):
    conv = layers.Convolution(4, 3, IMAGE, **LINEAR)
    chain = [conv, layers.BatchNormal(axis=1), layers.Flatten(), layers.Dense(2)]
    model = npdl.Model(chain) if is_chain else model_of(*chain, shape=IMAGE, dtype="float32")
    model.compile("mse", "sgd")
    x = data(IMAGE, "float32")
    for _ in range(12):
        model.predict(x)
    model.add_loss(lambda z: (float((z**2).sum()), 2 * z), conv)
    y = model.predict(x)
    np.testing.assert_array_equal(y, unfolded(model, x))
    model.evaluate(x, y)
    for same in (model, copy.deepcopy(model)):
        for _ in range(20):
            np.testing.assert_array_equal(same.predict(x), y)
    model.build()
    np.testing.assert_array_equal(model.predict(x), y)


@pytest.mark.parametrize("act", [(), (layers.ReLU,), (layers.ELU,)])
def test_masked_steps(act):
    shape = STEPS
    conv = layers.Convolution1D(4, 3, padding="same", **LINEAR)
    chain = [conv, layers.BatchNormal(axis=-1), *(one() for one in act)]
    model = model_of(*chain, layers.Convolution1D(2, 3), layers.GlobalMeanPooling(), shape=shape)
    x, mask = data(shape), np.arange(9) < np.array([[9], [6], [4]])
    taken = {"input": x, "mask": mask.astype("float64")}
    assert is_folded(model)
    values, _ = model.plan.forward([x], False, [mask])
    plain = x * mask[:, :, None], mask
    for layer in model.layers:
        plain = layer.forward_masked((plain[0],), (plain[1],), False)
    np.testing.assert_allclose(values[0], plain[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(model.predict(taken), model.predictor()(x, mask=mask))
    for i in range(3):  # a sample is predicted as in a batch of its own
        alone = {"input": x[i : i + 1], "mask": mask[i : i + 1].astype("float64")}
        np.testing.assert_array_equal(model.predict(taken)[i : i + 1], model.predict(alone))


def test_prediction_follows_every_change():
    conv, norm, act = layers.Convolution(4, 3, **LINEAR), layers.BatchNormal(axis=1), layers.ReLU()
    model = model_of(conv, norm, act, shape=IMAGE)
    x = data(IMAGE)
    assert is_folded(model)

    def agree():
        np.testing.assert_allclose(model.predict(x), unfolded(model, x), rtol=1e-12, atol=1e-12)

    for array in (conv.W, conv.b, norm.gamma, norm.beta, norm.running_mean, norm.running_var):
        before = model.predict(x)
        array *= 1.25
        assert (model.predict(x) != before).any()
        agree()
    before = model.predict(x)
    norm.epsilon = 0.5
    assert (model.predict(x) != before).any()
    agree()
    for layer, name, other in [
        (conv, "activation", npdl.activations.Tanh()),
        (conv, "activation", npdl.activations.Linear()),
        (act, "activation", npdl.activations.Sigmoid()),
        (norm, "forward", lambda x, train=True: x + 7),
    ]:
        before = model.predict(x)
        setattr(layer, name, other)
        assert (model.predict(x) != before).any()
        np.testing.assert_array_equal(model.predictor()(x), model.predict(x))
        agree()


@pytest.mark.parametrize("kind", [layers.Convolution, layers.BatchNormal, layers.ReLU])
def test_a_replaced_method_of_a_class_is_called(kind, monkeypatch):
    model = model_of(
        layers.Convolution(4, 3, **LINEAR), layers.BatchNormal(axis=1), layers.ReLU(), shape=IMAGE
    )
    x, usual = data(IMAGE), kind.forward
    assert is_folded(model)
    before = model.predict(x)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", lambda self, x, train=True: usual(self, x, train) ** 2)
        assert (model.predict(x) != before).any()
        np.testing.assert_allclose(model.predict(x), unfolded(model, x), rtol=1e-12)
    np.testing.assert_array_equal(model.predict(x), before)


def test_parts_of_a_separable_convolution_may_be_replaced():
    layer = layers.SeparableConvolution(5, 3, **LINEAR)
    model, x = model_of(layer, layers.BatchNormal(axis=1), shape=IMAGE), data(IMAGE)
    assert is_folded(model)
    for part in (layer.depthwise, layer.pointwise):
        part.forward = lambda x, train=True, usual=part.forward: usual(x, train) + 1
        np.testing.assert_allclose(model.predict(x), unfolded(model, x), rtol=1e-11, atol=1e-12)


def test_dtype_and_errors_are_those_of_the_layers():
    norm = layers.BatchNormal(axis=-1)
    model = model_of(layers.Dense(6, **LINEAR), norm, shape=STEPS, dtype="float32")
    norm.epsilon = np.float64(0.25)
    assert is_folded(model)
    assert model.predict(data(STEPS, "float32")).dtype == np.float32
    for shape in ((4,), (2, 2, 4)):  # which a dense layer alone can take
        for predict in (model.predict, model.predictor()):
            with pytest.raises(ValueError, match=r"shape \(N, S1, 6\).*batch_normal"):
                predict(data(shape, "float32"))
    (dense, _), x = model.layers, data(STEPS)
    for parameter in dense.parameters:
        parameter.value = parameter.value.astype("float64")
    assert model.predict(x).dtype == unfolded(model, x).dtype == np.float32


def test_composites_and_snapshots():
    def conv(*args):
        return layers.DepthwiseConvolution(*args, padding="same", **LINEAR)

    def norm():
        return layers.BatchNormal(axis=1)

    body = [conv(3), norm(), layers.ReLU(), conv(3), norm()]
    block = layers.Residual(body, [conv(1), norm()], "relu")
    model = model_of(block, layers.Sequence([conv(3), norm()]), shape=IMAGE, dtype="float32")
    assert sum(isinstance(layer, Folded) for layer in layers_of(model.plan)) == 4
    x = data(IMAGE, "float32")
    y, predictor = model.predict(x), model.predictor()
    np.testing.assert_array_equal(predictor(x), y)
    for layer in every_layer(model.layers):
        for parameter in layer.parameters:
            parameter.value[...] += 1
    np.testing.assert_array_equal(predictor(x), y)
    assert (model.predict(x) != y).any()


def test_a_normalization_of_extreme_variance_is_as_exact_as_apart():
    conv, norm = layers.Convolution(4, 3, **LINEAR), layers.BatchNormal(axis=1)
    model = model_of(conv, norm, shape=IMAGE, dtype="float32")
    norm.running_var[...] = [1e-12, 1e12, 0, 1]
    norm.running_mean[...] = [1e3, -1e3, 0, 1e3]
    assert is_folded(model)
    x = data(IMAGE, "float32")
    wide = model_of(layers.Convolution(4, 3, **LINEAR), layers.BatchNormal(axis=1), shape=IMAGE)
    wide.set_weights([w.astype("float64") for w in model.get_weights()])
    wanted = unfolded(wide, x.astype("float64"))
    scale = np.abs(wanted).max(axis=(0, 2, 3), keepdims=True)
    folded, apart = (
        np.abs((y - wanted) / scale).max() for y in (model.predict(x), unfolded(model, x))
    )
    assert folded <= max(4 * apart, 1e-6)
