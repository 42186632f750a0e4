"""Every backward kernel against central differences of its forward one, in float64."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from case_values import ACTIVATIONS, ELEMENTWISE, EXPONENTIAL
from kernel_calls import TWINS, Call, Maker, run

from npdl._ext.activation_np import FROM_INPUT, LINEAR, RELU, SIGMOID, TANH
from npdl.testing import numeric_gradient


def check_gradients(kernels, forward: Call, backward: Call, results, states=()):
    """Compare each gradient with the derivative of Σ weight ∘ result, by central differences.

    `results` pairs an output of the forward pass with the argument of the backward pass that holds
    its gradient, or with None for an output that is a function of others; `states` pairs the last
    step of an output, of the walk, with such an argument.
    """
    end = 0 if forward.args.get("reverse") else -1

    def loss():
        getattr(kernels, forward.function)(*forward.args.values())
        total = 0.0
        for name, gradient in results.items():
            if backward.args[gradient] is not None:
                total += (forward.args[name] * backward.args[gradient]).sum()
        for name, gradient in dict(states).items():
            if backward.args[gradient] is not None:
                total += (forward.args[name][:, end] * backward.args[gradient]).sum()
        return float(total)

    for name in results:
        forward.args[name][...] = np.nan
    loss()  # fills what the backward pass reads
    for name in backward.args.keys() & forward.args.keys():
        backward.args[name] = forward.args[name]
    found = kernels.run(backward)
    for name, value in found.items():
        array = forward.args[name[1:]]
        masked = np.isnan(array)  # x in masked steps
        array[masked] = 0
        wanted = numeric_gradient(loss, array)
        array[masked] = np.nan
        np.testing.assert_allclose(value, wanted, rtol=1e-7, atol=1e-8, err_msg=name)


@pytest.fixture
def kernels(backend):
    """The active kernels, with `kernel_calls.run`."""
    return SimpleNamespace(
        **vars(backend), run=lambda call: run(getattr(backend, call.function), call)
    )


KINKED = ("relu", "selu", "hard", "elu-1.7")
SMOOTH = {name: a for name, a in ACTIVATIONS.items() if not any(k in name for k in KINKED)}


@pytest.mark.parametrize("act", (SMOOTH | EXPONENTIAL).values(), ids=SMOOTH | EXPONENTIAL)
def test_dense_gradients(kernels, act):
    check_gradients(kernels, *Maker("float64").dense(3, 5, 4, act), {"y": "dy"})


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("masks", [(None, None), ("some", "some"), (None, "late")], ids=str)
@pytest.mark.parametrize("additive", [False, True], ids=["dot", "additive"])
def test_attention_gradients(kernels, additive, masks, causal):
    calls = Maker("float64").attention(2, 4, 5, 2, 3, 2, *masks, causal, additive)
    calls[1].args["dy"][np.isnan(calls[1].args["dy"])] = 0.5  # y is 0 there
    check_gradients(kernels, *calls, {"y": "dy"})


@pytest.mark.parametrize("act", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_activation_gradients(kernels, act):
    """At points that are not near the kinks at 0, 1 and 3."""
    x = np.array(
        [-17.1, -6.3, -3.2, -2.9, -1.1, -0.9, -0.2, -1e-2, 1e-2, 0.3, 0.9, 1.1, 2.9, 3.2, 9.6]
    )
    y, dy = np.empty_like(x), np.cos(x)
    kernels.activation_forward(x, y, act)

    def loss():
        z = np.empty_like(x)
        kernels.activation_forward(x, z, act)
        return float((z * dy).sum())

    dx = np.empty_like(x)
    kernels.activation_backward(x if act[0] in FROM_INPUT else y, dy, dx, act)
    scale = max(1, np.abs(dx).max())
    np.testing.assert_allclose(dx, numeric_gradient(loss, x), rtol=1e-7, atol=1e-9 * scale)


def test_log_softmax_gradients(kernels):
    check_gradients(kernels, *Maker("float64").log_softmax(3, 5, scale=1.0), {"y": "dy"})


@pytest.mark.parametrize("dx", [True, False], ids=["dx", "no-dx"])
@pytest.mark.parametrize("shape", [(5, 3, 1), (3, 2, 4), (2, 1, 515)], ids=str)
@pytest.mark.parametrize("act", [LINEAR, RELU])
def test_norm_gradients(kernels, act, shape, dx):
    forward, backward, _ = Maker("float64").norm(shape, dx, act=(act, 1.0))
    check_gradients(kernels, forward, backward, {"y": "dy"})


@pytest.mark.parametrize("without", [(), ("dx",), ("beta", "dbeta"), ("beta", "mean", "dbeta")])
@pytest.mark.parametrize(
    "shape, groups", [((5, 4, 1), 1), ((3, 2, 4), 1), ((3, 2, 3), 2), ((2, 3, 1), 3)]
)
def test_layernorm_gradients(kernels, shape, groups, without):
    forward, backward = Maker("float64").layernorm(shape, groups, without)
    check_gradients(kernels, forward, backward, {"y": "dy"})


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_dropout_gradients(kernels, p):
    check_gradients(kernels, *Maker("float64").dropout(17, p), {"y": "dy"})


@pytest.mark.parametrize(
    "stride, pad, out, more",
    [
        ((1, 1), (0, 0), None, {}),
        ((2, 1), (1, 2), None, {}),
        ((3, 4), (0, 0), None, {}),
        ((1, 2), (3, 3), None, {}),
        ((2, 2), (0, 1), (4, 3), {}),
        ((1, 1), (0, 0), (2, 1), {"last": 1}),
        ((1, 1), (1, 2), None, {"dilation": (2, 3)}),
        ((2, 1), (0, 1), None, {"groups": 2}),
    ],
)
@pytest.mark.parametrize("without", [(), ("dx",), ("dw", "db"), ("b",)], ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
def test_convolution_gradients(kernels, stride, pad, out, more, without, transposed):
    calls = Maker("float64").conv(
        (2, 2, 5, 4), (4, 2, 3), stride, pad, out, (TANH, 1.0), without=without,
        transposed=transposed, **more,
    )  # fmt: skip
    if "b" in without:  # there is no derivative in it
        calls[1].args["db"] = None
    check_gradients(kernels, *calls, {"y": "dy"})


@pytest.mark.parametrize(
    "window, stride, pad",
    [
        ((2, 3), (1, 2), (0, 0)),
        ((2, 2), (2, 2), (0, 0)),
        ((1, 2), (3, 3), (0, 0)),
        ((3, 4), (2, 1), (2, 1)),
        ((5, 17), (2, 4), (1, 16)),
    ],
)
def test_pooling_gradients(kernels, window, stride, pad):
    make = Maker("float64")
    largest, mean, mean_back, largest_back = make.pool((2, 2, 5, 6), window, stride, pad)
    values = make.rng.permutation(largest.args["x"].size).reshape(2, 2, 5, 6)
    largest.args["x"][...] = values  # all apart
    check_gradients(kernels, mean, mean_back, {"y": "dy"})
    check_gradients(kernels, largest, largest_back, {"y": "dy"})


@pytest.mark.parametrize("linear", [False, True], ids=["nearest", "linear"])
@pytest.mark.parametrize("down, right", [(1, 2), (2, 3), (4, 1)])
def test_enlarging_gradients(kernels, down, right, linear):
    calls = Maker("float64").resize((2, 2, 3, 4), down, right, linear)
    check_gradients(kernels, *calls, {"y": "dy"})


@pytest.mark.parametrize("dense", [False, True], ids=["labels", "dense"])
def test_softmax_gradients(kernels, dense):
    calls = Maker("float64").softmax(3, 4, scale=1.0, dense=dense)
    check_gradients(kernels, *calls[:2], {"loss": "dloss"})
    if not dense:
        check_gradients(kernels, *calls[2:4], {"p": "dp"})


@pytest.mark.parametrize("mask", [None, "nonzero"])
@pytest.mark.parametrize("normalize", [True, False], ids=["logits", "log-probabilities"])
def test_ctc_gradients(kernels, normalize, mask):
    for blank, length in itertools.product((0, 2), (0, 1, 3)):
        calls = Maker("float64").ctc(3, 11, 4, length, blank, normalize, mask)
        check_gradients(kernels, *calls, {"loss": "dloss"})


RECURRENT = {
    "rnn": ({"h": "dh"}, {"h": "dhn"}),
    "lstm": ({"h": "dh"}, {"h": "dhn", "c": "dcn"}),
    "gru": ({"h": "dh"}, {"h": "dhn"}),
}
PAIRS_OF_ACTIVATIONS = {
    **{f"act-{name}": (act, (SIGMOID, 1.0)) for name, act in SMOOTH.items()},
    **{f"gate-{name}": ((TANH, 1.0), act) for name, act in SMOOTH.items()},
}


@pytest.mark.parametrize("acts", PAIRS_OF_ACTIVATIONS.values(), ids=PAIRS_OF_ACTIVATIONS)
@pytest.mark.parametrize("cell", RECURRENT)
def test_recurrent_gradients_of_activations(kernels, cell, acts):
    act, gate_act = acts
    make = Maker("float64")
    calls = make.recurrent(cell, 2, 3, 2, 3, "some", act=act, gate_act=gate_act)
    check_gradients(kernels, *calls, *RECURRENT[cell])


@pytest.mark.parametrize("mask", [None, "none", "lengths", "late"])
@pytest.mark.parametrize("cell", RECURRENT)
def test_recurrent_gradients_of_masks_and_what_is_left_out(kernels, cell, mask):
    optional = ("dh", "dhn", "dx", "dw") + ("dcn",) * (cell == "lstm")
    for count in (0, 1):
        for without in itertools.combinations(optional, count):
            calls = Maker("float64").recurrent(cell, 2, 4, 2, 2, mask, without)
            check_gradients(kernels, *calls, *RECURRENT[cell])


@pytest.mark.parametrize("mask", [None, "lengths", "late"])
@pytest.mark.parametrize(
    "options", [{}, {"drop": "xh"}, {"after": True}, {"drop": "xh", "after": True}], ids=str
)
@pytest.mark.parametrize("cell", RECURRENT)
def test_recurrent_gradients_of_options(kernels, cell, options, mask):
    for reverse in (False, True):
        if cell == "gru" or not options.get("after"):
            calls = Maker("float64").recurrent(cell, 2, 4, 2, 3, mask, reverse=reverse, **options)
            check_gradients(kernels, *calls, *RECURRENT[cell])


# ------------------------------------------------------ an activation object


class Cubic:
    """x - x³/10, whose derivative needs the input."""

    def forward(self, x):
        return x - x**3 / 10

    def backward(self, x, y, dy):
        step = dy != 0  # where a mask is 0, y is the kept state
        np.testing.assert_allclose(y[step], self.forward(x[step]), atol=1e-12)
        return dy * (1 - 0.3 * x**2)


class RowSoftmax:
    """Not elementwise: couples all units of a row."""

    def forward(self, x):
        e = np.exp(x)
        return e / e.sum(axis=-1, keepdims=True)

    def backward(self, x, y, dy):
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


class TanhObject:
    """TANH as an object."""

    def forward(self, x):
        return np.tanh(x)

    def backward(self, x, y, dy):
        return dy * (1 - y * y)


@pytest.fixture
def twins():
    functions = {name: thing for name, thing in vars(TWINS["rnn"]).items() if callable(thing)}
    return SimpleNamespace(**functions, run=lambda call: run(functions[call.function], call))


@pytest.mark.parametrize("mask", [None, "some"])
@pytest.mark.parametrize("where", ["act", "gate_act"])
@pytest.mark.parametrize("kind", [Cubic, RowSoftmax])
@pytest.mark.parametrize("cell", RECURRENT)
def test_twins_take_objects(twins, cell, kind, where, mask):
    for options in [{}, {"reverse": True, "drop": "xh"}, {"after": True, "drop": "xh"}]:
        if cell == "gru" or not options.get("after"):
            calls = Maker("float64").recurrent(cell, 2, 4, 2, 3, mask, **{where: kind()}, **options)
            check_gradients(twins, *calls, *RECURRENT[cell])


@pytest.mark.parametrize("cell", RECURRENT)
def test_an_object_is_as_good_as_the_code(twins, cell):
    for one, other in zip(
        Maker("float64").recurrent(cell, 3, 5, 2, 4, "some", act=(TANH, 1.0)),
        Maker("float64").recurrent(cell, 3, 5, 2, 4, "some", act=TanhObject()),
    ):
        wanted, found = twins.run(one), twins.run(other)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-13, atol=1e-15)
