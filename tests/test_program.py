"""Programs: steps of any graph, composites included, as one call with the bits of the layers."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

import npdl
from npdl import Input, Model, activations, layers
from npdl._ext import kernels, use_backend
from npdl.layers import (
    GRU,
    LSTM,
    Activation,
    Attention,
    BatchNormal,
    Bidirectional,
    Concatenate,
    Convolution,
    Convolution1D,
    Dense,
    DepthwiseConvolution,
    Embedding,
    Flatten,
    GlobalMaxPooling,
    GlobalMeanPooling,
    LayerNormalization,
    MultiHeadAttention,
    Multiply,
    Parallel,
    PositionEmbedding,
    Residual,
    Softmax,
)
from npdl.layers.plan import Step
from npdl.program import Program

compiled = pytest.mark.skipif(not kernels().ready, reason="the twins are not compiled")


def normalized(filters, stride=1, act="relu"):
    conv = Convolution(filters, 3, stride=stride, padding=1, activation="linear", use_bias=False)
    return [conv, BatchNormal(axis=1), *([Activation(act)] if act else [])]


def resnet():
    x = Input((3, 9, 8))
    y = x
    for layer in [
        *normalized(4),
        Residual([*normalized(4), *normalized(4, act=None)], activation="relu"),
        Residual(
            [*normalized(6, 2), *normalized(6, act=None)],
            [Convolution(6, 1, stride=2, activation="linear"), BatchNormal(axis=1)],
            activation="relu",
        ),
        *(GlobalMeanPooling(), Softmax(3)),
    ]:
        y = layer(y)
    return Model(x, y)


def mobile():
    x = Input((3, 10, 9))
    y = Convolution(8, 3, padding=1)(x)
    for stride in (1, 2):
        y = DepthwiseConvolution(3, stride=stride, padding="same", activation="linear")(y)
        y = Convolution(16, 1, activation="linear")(Activation("relu")(BatchNormal(axis=1)(y)))
    return Model(x, Dense(4)(GlobalMaxPooling()(y)))


def autoencoder():
    x = Input((1, 8, 8))
    y = Convolution(5, 4, stride=2, padding="same")(x)
    y = layers.TransposedConvolution(3, 4, stride=2, padding="same")(y)
    return Model(x, layers.TransposedConvolution(1, 3, padding="same", activation="sigmoid")(y))


def branches():
    x = Input((9, 6))
    convs = [[Convolution1D(7, size), GlobalMaxPooling()] for size in (2, 3)]
    y = Parallel([*convs, [Dense(5), GlobalMeanPooling()]], axis=-1)(x)
    return Model(x, Softmax(3)(y))


def transformer():
    x = Input((6,))
    y = PositionEmbedding(6)(Embedding(input_size=11, n_out=8)(x))
    y = Residual([LayerNormalization(), MultiHeadAttention(2, 4)])(y)
    y = Residual([LayerNormalization(), Dense(12, activation="gelu"), Dense(8)])(y)
    return Model(x, Softmax(3)(GlobalMeanPooling()(LayerNormalization()(y))))


def translator():
    source, target = Input((5,), name="source"), Input((4,), name="target")
    table = Embedding(input_size=11, n_out=6)
    states, last = GRU(8, return_sequence=True, return_state=True, reset_after=True)(table(source))
    d = GRU(8, return_sequence=True)(table(target), initial_state=last)
    read = Attention("additive")(Dense(8, use_bias=False)(d), states, Dense(8)(states))
    return Model([source, target], Softmax(11)(Concatenate(-1)(d, read)))


def states():
    x = Input((7, 5))
    both = Bidirectional(LSTM(6, return_sequence=True, return_state=True))(x)
    more = LSTM(6, go_backwards=True, return_state=True)(both[0], initial_state=both[1:3])
    return Model(x, {"both": both[0], "state": both[4], "more": more[0], "cell": more[2]})


def outputs():
    """An output that is read again, one that is a view of another, and an input."""
    x = Input((4, 3))
    h = Dense(5, activation="relu")(x)
    return Model(x, [h, Flatten()(h), Dense(2, activation="softmax")(h), Flatten()(x)])


GRAPHS = {
    graph.__name__: graph
    for graph in (resnet, mobile, autoencoder, branches, transformer, translator, states, outputs)
}


def made(graph, n=2, dtype=None):
    model = graph()
    rng = np.random.default_rng(5)
    for name, array in model.weights.items():  # variances stay above 0
        array += rng.uniform(0.01, 0.2, array.shape).astype(array.dtype)
        assert name
    xs = []
    for shape in [model.input_shape] if len(model.input_names) == 1 else model.input_shape:
        size = (n, *shape[1:])
        words = len(shape) == 2
        xs.append(rng.integers(0, 11, size) if words else rng.normal(size=size))
        if not words:
            xs[-1] = xs[-1].astype(dtype or np.float32)
    return model, xs[0] if len(xs) == 1 else xs


def flat(outputs):
    found = outputs.values() if isinstance(outputs, dict) else outputs
    return [*found] if isinstance(outputs, dict | list) else [outputs]


def same(one, other):
    pairs = [*zip(flat(one), flat(other), strict=True)]
    return all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs) and all(
        a.tobytes() == b.tobytes() for a, b in pairs
    )


def alike(one, other):
    """The same bits; NumPy's own products, of the twins, give them only for one batch."""
    if kernels().ready:
        return same(one, other)
    return all(np.allclose(a, b, 1e-5, 1e-6) for a, b in zip(flat(one), flat(other)))


def parts(predictor):
    (route,) = predictor._routes.by_shape().values()
    return [type(part) for part in route._parts]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_graphs_become_one_program(graph, n):
    model, x = made(graph, n)
    predictor, wanted = model.predictor(), model.predict(x)
    for _ in range(3):
        found = predictor(x)
        assert same(found, wanted)
        for y in flat(found):  # it belongs to the caller
            assert not np.may_share_memory(y, x if isinstance(x, np.ndarray) else x[0])
            y[...] = 7
    if kernels().ready:
        assert parts(predictor) == [Program]


@pytest.mark.parametrize("graph", [resnet, mobile, autoencoder, branches, states])
def test_float64(graph, float64):
    model, x = made(graph, dtype=np.float64)
    predictor = model.predictor()
    assert same(predictor(x), model.predict(x))
    assert not kernels().ready or parts(predictor) == [Program]
    single = x.astype(np.float32)
    assert same(predictor(single), model.predict(single))


def tagger(n=11, t=9):
    x = Input((t,))
    y = Embedding(input_size=11, n_out=5, mask_zero=True)(x)
    for _ in range(2):
        y = Bidirectional(LSTM(6, return_sequence=True))(y)
    words = np.random.default_rng(2).integers(1, 11, (n, t))
    return Model(x, Dense(3)(y)), words


@pytest.mark.parametrize("n", [1, 11])
def test_masks_that_a_layer_makes_are_made_by_the_program(n):
    model, words = tagger(n)
    predictor = model.predictor()
    for end in (9, 4, 0):
        words[::2, end:] = 0
        for given in (words, words[:, ::-1], words.astype(np.int32)):
            assert same(predictor(given), model.predict(given))
    if kernels().ready:
        assert {type(part) for r in predictor._routes.by_shape().values() for part in r._parts} == {
            Program
        }


@compiled
def test_threads_take_sequences_of_their_own(monkeypatch):
    monkeypatch.setattr("npdl.predictor.OWN", 4000)
    model, x = made(transformer, 38)
    predictor = model.predictor()
    for n in (38, 37, 3):
        assert same(predictor(x[:n]), model.predict(x[:n]))
    if npdl.get_num_threads() < 10:
        assert any("parts" in key for key in predictor._routes.by_shape())


def masks_of(n, t):
    rng = np.random.default_rng(4)
    ends = rng.integers(0, t + 1, n)
    lengths = np.arange(t) < ends[:, None]
    return [lengths, lengths[:, ::-1], rng.integers(0, 2, (n, t)), np.zeros((n, t))]


@pytest.mark.parametrize(
    "between",
    [
        lambda: [Dense(6)],
        lambda: [Convolution1D(6, 3, stride=2, padding="same")],  # makes another mask
        lambda: [layers.LayerNormalization(), MultiHeadAttention(2, 3)],
    ],
    ids=["kept", "shorter", "attention"],
)
@pytest.mark.parametrize("cell", [LSTM, GRU, layers.SimpleRNN])
def test_masks_of_inputs(cell, between):
    model = Model([cell(10, n_in=4, return_sequence=True), *between(), cell(7), Dense(2)])
    model.build()
    x = np.random.default_rng(3).normal(size=(13, 8, 4)).astype(np.float32)
    predictor = model.predictor()
    for mask in [*masks_of(13, 8), None]:
        given = x.copy()
        if mask is not None:
            given[np.asarray(mask) == 0] = np.nan
        for _ in range(2):
            found = predictor(given, mask)
            assert np.isfinite(found).all() and alike(
                found, model.predict({"input": given, "mask": mask})
            )
    if kernels().ready and between()[0].__class__ is Dense:
        assert {type(part) for r in predictor._routes.by_shape().values() for part in r._parts} == {
            Program
        }


@compiled
def test_other_numbers_of_threads():
    model, x = made(resnet, 1)
    wanted, before = model.predict(x), npdl.get_num_threads()
    try:
        for threads in (1, 3):
            npdl.set_num_threads(threads)
            predictor = model.predictor()
            assert same(predictor(x), wanted)
            npdl.set_num_threads(4 - threads)
            assert same(predictor(x), wanted)
    finally:
        npdl.set_num_threads(before)


@compiled
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("n_out", [40, 130, 300])
def test_dense_weights_read_from_either_end_in_turns(n_out, n):
    model = Model([Dense(n_out, n_in=2900, activation="relu"), Dense(3)])
    model.build()
    x = np.random.default_rng(5).normal(size=(n, 2900)).astype(np.float32)
    wanted, before = model.predict(x), npdl.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            npdl.set_num_threads(threads)
            predictor = model.predictor()
            assert all(same(predictor(x), wanted) for _ in range(5))
    finally:
        npdl.set_num_threads(before)


@pytest.mark.parametrize("graph", [resnet, translator])
def test_several_threads_at_once(graph):
    model, x = made(graph, 1)
    predictor, wanted, wrong = model.predictor(), model.predict(x), []
    start = threading.Barrier(4)

    def run():
        start.wait()
        wrong.extend(i for i in range(25) if not alike(predictor(x), wanted))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("graph", [resnet, translator])
def test_copies_and_the_other_backend(graph):
    model, x = made(graph)
    predictor, wanted = model.predictor(), model.predict(x)
    predictor(x)
    other = pickle.loads(pickle.dumps(predictor))
    assert alike(other(x), wanted)
    with use_backend("numpy"):
        assert same(other(x), model.predict(x))
    assert alike(other(x), wanted)


class Doubled(layers.Layer):
    def forward(self, input, train=True):
        return 2 * input

    def backward(self, pre_grad):
        return 2 * pre_grad


class Halved(activations.Activation):
    def forward(self, input):
        return input / 2


@compiled
@pytest.mark.parametrize("middle", [Doubled, layers.PReLU, lambda: Dense(6, activation=Halved())])
def test_other_layers_divide_a_program(middle):
    x = Input((5,))
    h = Dense(6)(x)
    side = Dense(6)(h)
    y = middle()(h)
    model = Model(x, Dense(3)(layers.Add()(y, side)))
    data = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    predictor = model.predictor()
    for _ in range(2):
        assert same(predictor(data), model.predict(data))
    assert parts(predictor) == [Program, Step, Program]


@compiled
def test_a_merge_by_numpy_divides_a_program():
    x = Input((5,))
    gate = Multiply()(Dense(6, activation="sigmoid")(x), Dense(6)(x))
    model = Model(x, Dense(3)(gate))
    data = np.ones((2, 5), np.float32)
    predictor = model.predictor()
    assert same(predictor(data), model.predict(data)) and same(predictor(data), model.predict(data))
    assert parts(predictor) == [Program, Step, Program]


def test_a_method_of_one_layer():
    x = Input((5,))
    dense = Dense(6)
    model = Model(x, Dense(3)(dense(x)))
    dense.forward = lambda input, train=True: (
        np.asarray(input, np.float32) @ np.eye(5, 6, dtype=np.float32)
    )
    data = np.ones((2, 5), np.float32)
    predictor = model.predictor()
    assert same(predictor(data), model.predict(data)) and same(predictor(data), model.predict(data))


def test_numbers_of_words():
    model, x = made(translator)
    predictor, wanted = model.predictor(), model.predict(x)
    for dtype in (np.int64, np.int32, np.uint8):
        for _ in range(2):
            assert same(predictor([a.astype(dtype) for a in x]), wanted)
    for bad in (11, -1):
        broken = [x[0], x[1].copy()]
        broken[1][1, 2] = bad
        with pytest.raises(ValueError, match=r"`input` must lie in \[0, 11\)"):
            predictor(broken)
    with pytest.raises(TypeError, match="must hold integers"):
        predictor([a.astype(np.float32) for a in x])
    assert same(predictor(x), wanted)


def test_one_array_as_both_inputs():
    one, two = Input((4,)), Input((4,))
    model = Model([one, two], layers.Add()(Dense(3)(one), Dense(3)(two)))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    predictor = model.predictor()
    for pair in ([x, x], [x, x[::-1]]):
        assert same(predictor(pair), model.predict(pair))


def test_activations_in_and_behind_a_model_that_is_a_layer():
    """The second one can't join the kernel that has the first."""
    inner = Model([Convolution(3, 3), layers.BatchNormalization(), layers.ReLU()])
    model = Model([inner, layers.ReLU(), Flatten(), Softmax(2)])
    model.build((None, 2, 6, 6))
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype(np.float32)
    assert model.predictor()(x).tobytes() == model.predict(x).tobytes()


@pytest.mark.parametrize("block", [False, True])
def test_layers_without_parameters_compute_in_the_dtype_of_the_input(block):
    x = Input((5,))
    h = x + layers.ReLU()(x)
    if block:
        h = Model(x, h)(x)
    model = Model(x, Softmax(2)(h))
    x = np.random.default_rng(0).normal(size=(50, 5))
    assert model.predictor()(x).tobytes() == model.predict(x).tobytes()
