"""Random arguments by hypothesis: kernels against twins, layers on both backends, wrong calls.

A quick round of the same examples each time. ``make fuzz`` continues with new ones for
``NPDL_FUZZ_SECONDS`` in each test, and says how many there were.
"""

from __future__ import annotations

import functools
import inspect
import os
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_calls import FILLED, Call, Maker, built_isas, implementation, run, wider

import npdl
from npdl import graph, layers
from npdl._ext import activation_np

SECONDS = float(os.environ.get("NPDL_FUZZ_SECONDS") or 0)
QUICK = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(QUICK, derandomize=False, max_examples=400)
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}
REFUSALS = (ValueError, TypeError, BufferError, OverflowError)

pytestmark = pytest.mark.skipif(not built_isas(), reason="needs the Cython kernels")


def fuzzed(test):
    """Turn a function into a test: the default of each argument is its hypothesis strategy."""
    strategies = {name: p.default for name, p in inspect.signature(test).parameters.items()}

    def run_fuzzed(capsys):
        count = 0

        def counted(**drawn):
            nonlocal count
            count += 1
            test(**drawn)

        start = time.monotonic()
        (LONG if SECONDS else QUICK)(given(**strategies)(counted))()
        while time.monotonic() < start + SECONDS:
            LONG(given(**strategies)(counted))()
        if SECONDS:
            with capsys.disabled():
                print(f"\n{test.__name__}: {count} examples in {time.monotonic() - start:.0f} s")

    run_fuzzed.__name__, run_fuzzed.__doc__ = test.__name__, test.__doc__
    return run_fuzzed


# ------------------------------------------------------------ what to draw

dtypes = st.sampled_from(["float32", "float64"])
few = st.integers(1, 5)
size = st.one_of(st.integers(1, 9), st.integers(1, 70))
acts = st.tuples(
    st.integers(activation_np.LINEAR, activation_np.SYMMETRIC_ELLIOT),
    st.sampled_from([1.0, 0.5, 1.7]),
)
# Unbounded gates multiply the state with itself at every step, which soon overflows in all builds.
bounded_acts = acts.filter(
    lambda act: act[0] not in (activation_np.LINEAR, activation_np.RELU, activation_np.SOFT_PLUS)
)
names = st.sampled_from(["relu", "tanh", "sigmoid", "linear", "soft_plus", "elliot", "softmax"])
masks = st.sampled_from([None, "all", "none", "some", "lengths", "late", "nonzero"])


@st.composite
def good_calls(draw):
    """Calls of a family of kernels with matching arguments."""
    make = Maker(draw(dtypes))
    make.rng = np.random.default_rng(draw(st.integers(0, 99)))
    kinds = "activation", "dense", "dropout", "embedding", "norm", "softmax", "recurrent"
    kind = draw(st.sampled_from([*kinds, "attention", "conv", "pool"]))
    if kind == "attention":
        sizes = draw(few), draw(size), draw(size), draw(few), draw(few), draw(few)
        return make.attention(
            *sizes, draw(masks), draw(masks), *draw(st.tuples(*[st.booleans()] * 2))
        )
    if kind == "activation":
        return make.activation(draw(st.integers(0, 20_000)), draw(acts))
    if kind == "dense":
        without = tuple(draw(st.sets(st.sampled_from(["b", "dx", "dw", "db"]), max_size=2)))
        return make.dense(draw(size), draw(size), draw(size), draw(acts), without)
    if kind == "dropout":
        p, seed = draw(st.floats(0, 0.99)), draw(st.integers(0, 2**64 - 1))
        return make.dropout(draw(st.integers(0, 20_000)), p, seed)
    if kind == "embedding":
        return make.embedding(draw(size), draw(size), draw(st.integers(0, 300)))
    if kind == "norm":  # with two numbers, only rounding remains
        inner = st.one_of(st.integers(3, 70), st.integers(500, 1100))
        return make.norm((draw(few), draw(size), draw(inner)), draw(st.booleans()))
    if kind == "softmax":
        return make.softmax(draw(size), draw(size), draw(st.sampled_from([1, 5, 80])))
    if kind == "recurrent":
        cell = draw(st.sampled_from(["rnn", "lstm", "gru"]))
        without = "dx", "dw", "dh", "dhn", "dcn"
        steps = draw(few)
        return make.recurrent(
            cell,
            *(draw(size), steps, draw(size), draw(size), draw(masks)),
            without=tuple(draw(st.sets(st.sampled_from(without), max_size=2))),
            act=draw(acts),
            gate_act=draw(acts if steps == 1 else bounded_acts),
            reverse=draw(st.booleans()),
            drop=draw(st.sampled_from(["", "x", "h", "xh"])),
            after=cell == "gru" and draw(st.booleans()),
        )
    window, stride = draw(st.tuples(few, few)), draw(st.tuples(few, few))
    image = [k + draw(st.integers(0, 12)) for k in window]
    x = (draw(few), draw(few), *image)
    pad = tuple(draw(st.integers(0, k - 1)) for k in window)
    if kind == "pool":
        return make.pool(x, window, stride, pad, values=draw(st.sampled_from([None, 3])))
    w = (draw(size), *window)
    without = tuple(draw(st.sets(st.sampled_from(["b", "dx", "dw", "db"]), max_size=2)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    x, w = (x[0], x[1] * groups, *x[2:]), (w[0] * groups, *w[1:])
    more = {"groups": groups, "last": draw(st.integers(0, 1)), "transposed": draw(st.booleans())}
    return make.conv(x, w, stride, pad, act=draw(acts), without=without, **more)


junk = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 8),
    st.floats(),
    st.text(max_size=3),
    st.tuples(st.integers(-3, 12), st.floats()),
    st.builds(
        np.zeros,
        st.lists(st.integers(0, 9), max_size=5).map(tuple),
        st.sampled_from(["f4", "f8", ">f4", "i4", "i8", "u1", "c8", "O", "?"]),
        st.sampled_from("CF"),
    ),
)


@st.composite
def odd_calls(draw):
    """A call with up to three arguments replaced by something else."""
    call = draw(st.sampled_from(Maker(draw(dtypes)).one_of_each()))
    args = dict(call.args)
    others = [value for value in args.values() if isinstance(value, np.ndarray)]
    for name in draw(st.sets(st.sampled_from(sorted(args)), min_size=1, max_size=3)):
        args[name] = draw(st.one_of(junk, st.sampled_from(others)) if others else junk)
    return Call(call.function, args)


@st.composite
def layer_and_input(draw):
    """A layer with arguments that may or may not suit its input."""
    geometry = st.one_of(few, st.tuples(few, few), st.integers(-1, 9))
    kind = draw(st.sampled_from(["dense", "conv", "pool", "recurrent"]))
    extent = st.integers(0, 9)
    if kind == "dense":
        shape = draw(st.lists(extent, min_size=2, max_size=3))
        make = functools.partial(layers.Dense, n_out=draw(few), activation=draw(names))
    elif kind == "conv":
        shape = draw(st.lists(extent, min_size=4, max_size=4))
        make = functools.partial(
            *(layers.Convolution, draw(few), draw(geometry)),
            stride=draw(geometry),
            padding=draw(st.one_of(st.sampled_from(["valid", "same"]), geometry)),
            activation=draw(names),
        )
    elif kind == "pool":
        shape = draw(st.lists(extent, min_size=3, max_size=4))
        cls = draw(st.sampled_from([layers.MaxPooling, layers.MeanPooling]))
        stride = draw(st.one_of(st.none(), geometry))
        make = functools.partial(cls, pool_size=draw(geometry), stride=stride)
    else:
        shape = draw(st.lists(extent, min_size=3, max_size=3))
        cls = draw(st.sampled_from([layers.SimpleRNN, layers.LSTM, layers.GRU, layers.BatchLSTM]))
        options = st.sets(
            st.sampled_from(["return_sequence", "go_backwards", "use_bias", "stateful"])
        )
        make = functools.partial(cls, n_out=draw(few), **dict.fromkeys(draw(options), True))
    x = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(shape)
    layout = draw(st.sampled_from(["C", "F", "gaps", "backwards", "swapped"]))
    if layout == "F":
        x = np.asfortranarray(x)
    elif layout == "gaps":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    elif layout == "backwards":
        x = x[::-1]
    elif layout == "swapped":
        x = x.astype(x.dtype.newbyteorder())
    x.flags.writeable = False
    return make, x


# ------------------------------------------------------------ the tests


def close(found, wanted, dtype, what):
    gap = np.abs(found.astype(np.longdouble) - wanted).max(initial=0)
    assert gap <= TOLERANCE[dtype] * max(1, np.abs(wanted).max(initial=0)), f"{what}: {gap}"


@fuzzed
def test_kernels_agree_with_their_twins(calls=good_calls(), isa=st.sampled_from(built_isas())):
    for call in calls:
        wanted = run(implementation("np", call.function), wider(call))
        found = run(implementation(isa, call.function), call)
        for name, array in found.items():
            if array.dtype.kind == "f":
                what = f"{call.function} {name} on {isa}"
                close(array, wanted[name], array.dtype.name, what)


@fuzzed
def test_kernels_survive_nonsense(call=odd_calls(), isa=st.sampled_from(built_isas())):
    kept = {
        name: value.copy()
        for name, value in call.args.items()
        if isinstance(value, np.ndarray) and name not in FILLED[call.function]
        # an argument that stands for an output too may change
        if all(value is not call.args[out] for out in FILLED[call.function])
    }
    try:
        implementation(isa, call.function)(*call.args.values())
    except REFUSALS as error:
        assert str(error)
    for name, value in kept.items():
        assert value.tobytes() == call.args[name].tobytes(), f"{name} was changed"


@fuzzed
def test_layers_agree_on_both_backends(case=layer_and_input(), dtype=dtypes):
    make, x = case
    npdl.utils.set_dtype(dtype)
    before, results = x.tobytes(), []
    for backend in ("cython", "numpy"):
        npdl.utils.set_seed(5)
        with npdl.use_backend(backend):
            try:
                layer = make()
                results.append(pass_through(layer, x.astype(dtype) if x.size % 2 else x))
            except (ValueError, TypeError) as error:
                assert str(error)
                results.append([type(error).__name__])
    assert x.tobytes() == before
    for found, wanted in zip(*results, strict=True):
        if isinstance(found, str) or isinstance(wanted, str):
            assert found == wanted
        else:
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            close(found, wanted, dtype, type(layer).__name__)


def pass_through(layer, x):
    """The output and all gradients of a layer."""
    layer.connect_to(graph.Input((None, *x.shape[1:])))
    y = layer.forward(x, train=True)
    dx = layer.backward(np.ones_like(y))
    return [y, dx, *layer.grads]
