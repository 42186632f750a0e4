"""Networks of any shape: gradients, files, threads, names, masks, several inputs and outputs."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import (
    LSTM,
    Add,
    Concatenate,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Linear,
    Residual,
    Softmax,
)
from npdl.testing import check_gradients


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def residual():
    x = Input((6,))
    h = Dense(5)(x)
    y = h + Dense(5)(h)
    return Model(x, Softmax(3)(y)), [numbers(4, 6)], [np.arange(4) % 3]


def three_uses():
    x = Input((1, 6, 6))
    h = Convolution(2, 3, padding="same", activation="tanh")(x)
    y = Add()(h, Convolution(2, 3, padding="same", activation="tanh")(h), h)
    return (
        Model(x, Linear(2)(Flatten()(y))),
        [numbers(3, 1, 6, 6)],
        [numbers(3, 2)],
    )


def siamese():
    a, b = Input((5,), name="a"), Input((5,), name="b")
    tower = Dense(4)
    y = Linear(1)(Concatenate()(tower(a), tower(b)))
    return Model([a, b], y), [numbers(4, 5) for _ in "ab"], [numbers(4, 1)]


def applied_thrice():
    x = Input((4,))
    layer = Dense(4)
    return Model(x, layer(layer(layer(x)))), [numbers(3, 4)], [np.tanh(numbers(3, 4))]


def two_and_two():
    a, b = Input((4,), name="a"), Input((3, 2), name="b")
    h = Dense(5)(Concatenate()(a, Flatten()(b)))
    model = Model([a, b], {"kind": Softmax(3)(h), "size": Linear(1)(h)})
    xs = [numbers(5, 4), numbers(5, 3, 2)]
    return model, xs, [np.arange(5) % 3, numbers(5, 1)]


def nested():
    base = Model([Dense(4, n_in=6), Dropout(0.0)], name="base")
    x = Input((6,))
    h = base(x)
    inner = Model(x, h * h)
    y = Input((6,))
    return (
        Model(y, Linear(2)(inner(y) + base(y))),
        [numbers(4, 6)],
        [numbers(4, 2)],
    )


def recurrent_skip():
    x = Input((None, 3))
    h = LSTM(n_out=3, return_sequence=True)(x)
    return Model(x, Softmax(2)(h + x)), [numbers(4, 5, 3)], [(numbers(4, 5) > 0).astype(int)]


GRAPHS = [residual, three_uses, siamese, applied_thrice, two_and_two, nested, recurrent_skip]


def compiled(make, optimizer="adam"):
    npdl.utils.set_seed(3)
    model, xs, ys = make()
    kinds = ["scce" if y.dtype.kind == "i" else "mse" for y in ys]
    model.compile(kinds if len(kinds) > 1 else kinds[0], optimizer)
    xs = xs if len(xs) > 1 else xs[0]
    return model, xs, ys if len(ys) > 1 else ys[0]


@pytest.mark.parametrize("make", GRAPHS)
def test_gradients(make):
    with npdl.use_dtype("float64"):
        model, xs, ys = compiled(make)
        assert check_gradients(model, xs, targets=ys) < 1e-6


def test_gradients_with_masks_through_merges():
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    with npdl.use_dtype("float64"):
        model, xs, ys = compiled(recurrent_skip)
        check_gradients(model, xs, targets=ys, forward_args={"mask": mask})
        kept = model.evaluate((xs, mask), ys).loss
        ys[mask == 0] = 1 - ys[mask == 0]  # masked steps do not count
        assert model.evaluate((xs, mask), ys).loss == kept


@pytest.mark.parametrize("make", GRAPHS)
def test_files_and_copies(make, tmp_path):
    model, xs, ys = compiled(make)
    model.fit(xs, ys, epochs=2, verbose=0)
    want = model.predict(xs)
    model.save(tmp_path / "m.safetensors")
    for other in (
        npdl.load_model(tmp_path / "m.safetensors"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        assert other.to_json() == model.to_json()
        got = other.predict(xs)
        assert str(got) == str(want)
        np.testing.assert_equal(got, want)
        npdl.utils.set_seed(1)
        first = model_after_a_step(copy.deepcopy(model), xs, ys)
        npdl.utils.set_seed(1)
        np.testing.assert_equal(model_after_a_step(other, xs, ys), first)


def model_after_a_step(model, xs, ys):
    model.fit(xs, ys, epochs=1, batch_size=2, verbose=0)
    return {name: array.copy() for name, array in model.weights.items()}


@pytest.mark.parametrize("make", GRAPHS)
def test_the_same_bits_for_any_number_of_threads(make):
    found = []
    threads = npdl.get_num_threads()
    for n in (1, 2):
        npdl.set_num_threads(n)
        try:
            model, xs, ys = compiled(make)
            model.fit(xs, ys, epochs=2, verbose=0)
            found.append(model.get_weights())
        finally:
            npdl.set_num_threads(threads)
    np.testing.assert_equal(found[0], found[1])


def test_a_graph_that_is_a_chain_is_the_chain():
    found = []
    x = np.random.default_rng(1).normal(size=(8, 6)).astype("f4")
    for graph in (True, False):
        npdl.utils.set_seed(5)
        if graph:
            value = Input((6,))
            model = Model(value, Softmax(3)(Dropout(0.3)(Dense(4)(value))))
        else:
            model = Model([Dense(4, n_in=6), Dropout(0.3), Softmax(3)])
        model.compile("scce", "adam")
        model.fit(x, np.arange(8) % 3, epochs=3, verbose=0)
        found.append(model.get_weights())
    np.testing.assert_equal(found[0], found[1])


# ------------------------------------------------------------------- several inputs and outputs


def test_data_by_name_in_order_and_from_generators():
    results = []
    model, (a, b), (kind, size) = compiled(two_and_two)
    start = model.get_weights()
    x, y = {"a": a, "b": b}, {"kind": kind, "size": size}
    w = {"size": np.arange(5.0)}
    forms = [
        (([a, b], [kind, size], [None, w["size"]]), {}),
        ((x, y, w), {}),
        (((a, b), y, w), {}),
    ]
    for (X, Y, weight), _ in forms:
        model.set_weights(start)
        model.compile({"kind": "scce", "size": "mse"}, "sgd", loss_weights={"size": 0.5})
        model.fit(X, Y, epochs=1, batch_size=5, shuffle=False, sample_weight=weight, verbose=0)
        results.append(model.get_weights())
    model.set_weights(start)
    model.compile({"kind": "scce", "size": "mse"}, "sgd", loss_weights={"size": 0.5})
    model.fit(iter([(x, y, w)]), epochs=1, verbose=0)
    results.append(model.get_weights())
    for other in results[1:]:
        np.testing.assert_equal(other, results[0])


def test_metrics_by_output():
    model, (a, b), (kind, size) = compiled(two_and_two)
    model.compile(["scce", "mse"], "sgd", metrics={"size": ["mae"]}, loss_weights=[1, 0.25])
    history = model.fit(
        [a, b], [kind, size], epochs=2, verbose=0, validation_data=([a, b], [kind, size])
    )
    names = ["loss", "kind_loss", "size_loss", "kind_acc", "size_mae"]
    assert [*history.history] == [*names, *(f"val_{name}" for name in names)]
    found = model.evaluate([a, b], [kind, size], batch_size=2, return_dict=True)
    p = model.predict([a, b])
    assert [*p] == ["kind", "size"]
    scce = -np.log(p["kind"][np.arange(5), kind]).mean()
    mse = np.square(p["size"] - size).mean()
    assert found["kind_loss"] == pytest.approx(scce, rel=1e-5)
    assert found["size_loss"] == pytest.approx(mse, rel=1e-5)
    assert found["loss"] == pytest.approx(scce + 0.25 * mse, rel=1e-5)
    assert found["size_mae"] == pytest.approx(np.abs(p["size"] - size).mean(), rel=1e-5)
    assert found["kind_acc"] == (p["kind"].argmax(1) == kind).mean()


def test_an_output_without_a_loss_is_not_trained():
    x = Input((4,))
    h = Dense(3)(x)
    used, unused = Linear(1), Linear(2)
    model = Model(x, {"used": used(h), "unused": unused(h)})
    model.compile({"used": "mse"}, npdl.optimizers.Adam(weight_decay=0.1))
    before = unused.W.copy(), used.W.copy()
    X = numbers(4, 4)
    model.fit(X, {"used": X[:, :1]}, epochs=1, verbose=0)
    np.testing.assert_array_equal(unused.W, before[0])
    assert (used.W != before[1]).any()


@pytest.mark.parametrize(
    "X, message",
    [
        ([np.ones((2, 4))], "list of 2 arrays, or a dict by name .a, b."),
        ({"a": np.ones((2, 4))}, "list of 2 arrays.*keys=."),
        ([np.ones((2, 4)), np.ones((3, 3, 2))], "same number of samples. Received: 2 and 3 .'b'."),
        (np.ones((2, 4)), "list of 2 arrays.*received='ndarray'"),
    ],
)
def test_inputs_that_do_not_fit(X, message):
    model, _, _ = compiled(two_and_two)
    with pytest.raises(ValueError, match=message):
        model.predict(X)


@pytest.mark.parametrize("X", [(np.ones((4, 3), int), np.full((4, 3), 2)), ([1, 2], [3, 4])])
def test_two_arrays_for_one_input_are_no_mask(X):
    model = Model([Embedding(input_size=9, n_out=2), LSTM(n_out=2), Softmax(2)])
    model.compile()
    with pytest.raises((ValueError, TypeError), match=r"for (two|several) inputs|integers|real"):
        model.fit(tuple(map(np.asarray, X)), np.zeros(len(X[0]), int), epochs=1, verbose=0)


# ---------------------------------------------------------------------------------- masks


def test_the_mask_of_the_output_weighs_the_loss():
    npdl.utils.set_seed(0)
    model = Model([LSTM(n_out=4), Linear((5, 2))])
    model.compile("mse")
    x, y = numbers(8, 5, 3).astype("f4"), numbers(8, 5, 2).astype("f4")
    mask = np.ones((8, 5), "u1")
    mask[:, 2:] = 0
    p = model.predict((x, mask))
    assert model.evaluate((x, mask), y).loss == pytest.approx(np.square(p - y).mean(), rel=1e-5)


# ---------------------------------------------------------------------------------- errors


def test_errors_of_graphs():
    x, z = Input((4,)), Input((4,))
    h = Dense(3)(x)
    with pytest.raises(ValueError, match="`inputs` must hold all inputs of layer 'dense'"):
        Model(x, h + Dense(3)(z))
    with pytest.raises(TypeError, match=r"called on symbolic values.*use forward\(\).*ndarray"):
        Dense(3)(np.ones((2, 4)))
    with pytest.raises(TypeError, match="holds no numbers"):
        np.asarray(h)
    with pytest.raises(TypeError, match="joins two values"):
        h + 1
    with pytest.raises(ValueError, match="can't be added to a graph"):
        Model(x, h).add(Dense(2))
    with pytest.raises(ValueError, match=r"built for inputs of shape \(None, 4\)"):
        layer = Dense(3)
        layer(x)
        layer(Input((5,)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["calls"][0].__setitem__(0, "nothing"),
        lambda c: c["calls"][0].__setitem__(1, [["add_1", 0, 0]]),  # what comes later: a cycle
        lambda c: c["calls"][-1].__setitem__(1, [["dense_1", 7, 0]]),
        lambda c: c["calls"][-1].__setitem__(1, [["dense_1", 0, 9]]),
        lambda c: c["calls"][-1].__setitem__(1, [["dense_1", -1, 0]]),
        lambda c: c["calls"][-1].__setitem__(1, []),
        lambda c: c["outputs"].clear(),
        lambda c: c["outputs"][0].__setitem__(1, 5),
        lambda c: c["inputs"][0].__setitem__("shape", [None, -3]),
        lambda c: c["inputs"][0].__setitem__("name", 4),
        lambda c: c.__setitem__("calls", {}),
        lambda c: c.__setitem__("forms", ["one"]),
    ],
)
def test_hostile_graphs(spoil):
    model, _, _ = compiled(residual)
    config = copy.deepcopy(model.to_json())
    spoil(config)
    with pytest.raises((ValueError, TypeError, KeyError)):
        Model.from_json(config)


# ---------------------------------------------------------------------------------- show


def test_summary_and_drawing_of_a_graph():
    model, _, _ = compiled(two_and_two)
    text = io.StringIO()
    model.summary(text)
    lines = text.getvalue().splitlines()
    assert lines[0].split()[-2:] == ["connected", "to"]
    assert "a, flatten_1" in text.getvalue()
    drawing = npdl.plot_model(model, None)
    assert drawing.count("class='b'") == len(model.layers) and "b  (N, 3, 2)" in drawing


def test_shapes_names_and_counts():
    model, _, _ = compiled(two_and_two)
    assert model.input_shape == [(None, 4), (None, 3, 2)]
    assert model.output_shape == [(None, 3), (None, 1)]
    assert model.get_layer("dense_1").n_out == 5
    assert model.count_params() == sum(a.size for a in model.get_weights())
    with pytest.raises(ValueError, match="one of flatten_1, concatenate_1, dense_1"):
        model.get_layer("foo")
    chain = Model([Dense(3, n_in=2), Dense(4)])
    chain.compile("mse")
    assert chain.pop().n_out == 4 and len(chain.layers) == 1


def test_long_chains_and_deep_graphs():
    x = value = Input((2,))
    for _ in range(1000):
        value = value + Dropout(0.0)(value)
    model = Model(x, value)
    assert len(model.plan.steps) == 2000
    np.testing.assert_array_equal(model.predict(np.zeros((1, 2))), np.zeros((1, 2)))


def test_nan_in_masked_steps_reaches_no_layer():
    mask = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    results = []
    for padding in (np.nan, 0.0):
        npdl.utils.set_seed(0)
        x = numbers(2, 5, 3)
        x[mask == 0] = padding
        model = Model([Dense(4), LSTM(n_out=3, return_sequence=True), Softmax(2)])
        model.compile("scce", "adam")
        kept = x.copy()
        model.fit((x, mask), mask, epochs=2, verbose=0)
        np.testing.assert_array_equal(x, kept)
        results.append(model.get_weights())
    np.testing.assert_equal(results[0], results[1])
    assert all(np.isfinite(array).all() for array in results[0])


def test_parameters_lie_side_by_side():
    model, xs, ys = compiled(residual)
    params = model.params
    assert all(p.base is params[0].base for p in params)
    model.fit(xs, ys, epochs=1, verbose=0)
    assert len(model.optimizer._plan.units) == 1
    again = copy.deepcopy(model)
    again.fit(xs, ys, epochs=1, verbose=0)
    assert len(again.optimizer._plan.units) == 1
    slots = again.optimizer.get_state()["slots"]
    assert slots.keys() == {name for name, _, trained in again.named_arrays() if trained}


def test_the_forward_of_a_block_may_be_replaced():
    block, x = Residual([Dense(4)]), np.ones((2, 4), "float32")
    entry = Input((4,))
    chain = Model([block, Dense(2)])
    chain.build((None, 4))
    graph = Model(inputs=entry, outputs=Add()(block(entry), entry))
    graph.build()
    block.forward = lambda x, train=True: x * 3
    np.testing.assert_array_equal(graph.predict(x), x * 4)
    for model in (chain, graph):
        np.testing.assert_array_equal(model.predictor()(x), model.predict(x))


def test_a_copy_made_while_a_method_of_a_class_is_replaced(monkeypatch):
    usual, x = Dense.forward, np.ones((1, 3), "float32")
    with monkeypatch.context() as patch:
        patch.setattr(Dense, "forward", lambda self, x, train=True: usual(self, x, train))
        model = Model([Dense(2, n_in=3)])
        model.build()
        y = model.predict(x)
        data = pickle.dumps(model)
    np.testing.assert_array_equal(pickle.loads(data).predict(x), y)
