"""A predictor returns the bits of its model, for every layer, and is then independent of it."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import npdl
from npdl import Input, Model, layers
from npdl.layers import (
    GRU,
    LSTM,
    Activation,
    BatchNormal,
    Bidirectional,
    Convolution,
    Convolution1D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    MaxPooling,
    MeanPooling,
    SimpleRNN,
    Softmax,
)

IMAGES, STEPS, WORDS = (3, 12, 10), (7, 5), (6,)


class Doubled(Layer):
    """A user's layer whose forward takes neither `train` nor `mask`."""

    def forward(self, input):
        return 2 * np.asarray(input)

    def backward(self, pre_grad):
        return 2 * pre_grad


CHAINS = {
    "mlp": (lambda: [Dense(9, activation="relu"), Dropout(0.5), Dense(4), Softmax(3)], (8,)),
    "one row of few columns": (lambda: [Dense(3, activation="sigmoid")], (700,)),
    "no bias": (lambda: [Dense(70, use_bias=False), layers.Linear((2, 3))], (5,)),
    "steps": (lambda: [Dense(6, activation="gelu"), Dense(4, activation="softmax")], (7, 5)),
    "cnn": (
        lambda: [
            Convolution(6, 5, padding="same", activation="tanh"),
            MeanPooling(2),
            Convolution(8, 3, stride=2),
            Flatten(),
            Softmax(3),
        ],
        IMAGES,
    ),
    "winograd": (
        lambda: [
            Convolution(17, 3, padding="same"),
            Convolution(40, 3, padding="same"),
            MaxPooling(2),
            BatchNormal(axis=1),
            Convolution(16, 3, activation="softmax"),
            Flatten(),
            Dense(3),
        ],
        (16, 13, 14),
    ),
    "groups": (
        lambda: [Convolution(6, 3, groups=3, dilation=2), layers.DepthwiseConvolution(3)],
        IMAGES,
    ),
    "whole image": (lambda: [Convolution(5, (12, 10)), Flatten()], IMAGES),
    "transposed": (lambda: [layers.TransposedConvolution(4, 3, stride=2)], IMAGES),
    "separable": (lambda: [layers.SeparableConvolution(4, 3), layers.GlobalMeanPooling()], IMAGES),
    "sequences": (
        lambda: [Convolution1D(6, 3, padding="causal"), layers.MaxPooling1D(2), LSTM(8)],
        STEPS,
    ),
    "lstm": (lambda: [LSTM(19, return_sequence=True), LSTM(33), Softmax(3)], STEPS),
    "gru": (lambda: [GRU(20, return_sequence=True), GRU(7, reset_after=True)], STEPS),
    "simple": (lambda: [SimpleRNN(20, return_sequence=True), SimpleRNN(7)], STEPS),
    "backwards": (lambda: [LSTM(20, go_backwards=True, return_sequence=True)], STEPS),
    "bidirectional": (lambda: [Bidirectional(GRU(9)), Dense(3)], STEPS),
    "words": (lambda: [Embedding(input_size=9, n_out=6), GRU(11), Softmax(4)], WORDS),
    "padded words": (
        lambda: [Embedding(input_size=9, n_out=6, mask_zero=True), LSTM(11), Softmax(4)],
        WORDS,
    ),
    "norms": (
        lambda: [
            BatchNormal(),
            Activation("elu"),
            layers.LayerNormalization(),
            layers.PReLU(),
            layers.RMSNormalization(),
        ],
        (9,),
    ),
    "shapes": (
        lambda: [
            layers.ZeroPadding(1),
            layers.Permute((2, 1, 3)),
            layers.Reshape((-1, 3)),
            layers.GaussianNoise(0.3),
        ],
        IMAGES,
    ),
    "attention": (
        lambda: [layers.PositionEmbedding(7), layers.MultiHeadAttention(2, 4), Dense(3)],
        STEPS,
    ),
    "only views": (lambda: [Flatten(), Dropout(0.1)], IMAGES),
    "a layer of ones own": (lambda: [Dense(4), Doubled(), Dense(3)], (8,)),
    "distributed": (lambda: [layers.TimeDistributed(Dense(4)), layers.Residual([Dense(4)])], STEPS),
}


def data(shape, n=5, words=False):
    rng = np.random.default_rng(7)
    if words:
        return rng.integers(0, 9, (n, *shape))
    return rng.normal(size=(n, *shape)).astype(np.float32)


def chain(label, n=5):
    make, shape = CHAINS[label]
    x = data(shape, n, shape is WORDS)
    model = Model(make())
    model.build((None, *shape))
    rng = np.random.default_rng(1)
    for array in model.weights.values():  # biases and running means that are not zero
        array += rng.uniform(0.01, 0.2, array.shape).astype(array.dtype)
    return model, x


def same(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    return one.tobytes() == other.tobytes()


def alike(found, wanted):
    """The same bits in any batch; NumPy's own products, of the twins, give them to rounding."""
    if npdl._ext.kernels().ready:
        return same(found, wanted)
    return found.dtype == wanted.dtype and np.allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", CHAINS)
def test_bits_of_every_layer(label):
    model, x = chain(label)
    predictor = model.predictor()
    for batch in (x, x[:1], x[1:3], x[::2]):
        wanted = model.predict(batch)
        for _ in range(2):  # another call may take another way
            assert same(predictor(batch), wanted)
    assert not np.may_share_memory(predictor(x), x)


@pytest.mark.parametrize("label", ["cnn", "winograd", "lstm", "gru"])
def test_bits_in_float64_and_for_every_number_of_threads(label, float64):
    model, x = chain(label)
    x, before = x.astype(np.float64), npdl.get_num_threads()
    try:
        for threads in (1, 2, 3):
            npdl.set_num_threads(threads)
            predictor = model.predictor()
            assert same(predictor(x[:1]), model.predict(x[:1]))
            npdl.set_num_threads(4 - threads)
            assert same(predictor(x), model.predict(x))
    finally:
        npdl.set_num_threads(before)


@pytest.mark.parametrize("label", ["mlp", "cnn", "lstm"])
def test_bits_of_both_backends(label):
    model, x = chain(label)
    predictor = model.predictor()
    for backend in npdl._ext.available_backends():
        with npdl.use_backend(backend):
            assert same(predictor(x), model.predict(x))


@pytest.mark.skipif(not npdl._ext.kernels().ready, reason="needs compiled kernels")
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("label", CHAINS)
def test_layers_of_npdl_become_one_program(label, n):
    model, x = chain(label, n)
    predictor = model.predictor()
    wanted = predictor(x)
    routes = [*predictor._routes.by_shape().values()]
    if label in ("norms", "shapes", "only views", "a layer of ones own"):
        assert all(route.whole is None for route in routes)
    else:
        assert same(routes[0].whole([x])[0], wanted) and same(model.predict(x), wanted)


def test_more_shapes_than_a_predictor_makes_itself_ready_for():
    model, x = chain("mlp", 20)
    predictor = model.predictor()
    for _ in range(2):
        for n in range(1, 20):
            assert same(predictor(x[:n]), model.predict(x[:n]))


def test_another_order_of_bytes():
    model, x = chain("mlp")
    predictor = model.predictor()
    for array in (x, x.astype(x.dtype.newbyteorder()), x.astype(np.float64), x):
        assert same(predictor(array), model.predict(array))


def test_precision_may_change_later():
    model, x = chain("winograd")
    predictor = model.predictor()
    fast = predictor(x)
    try:
        npdl.set_precision("exact")
        assert same(predictor(x), model.predict(x))
    finally:
        npdl.set_precision("fast")
    assert same(predictor(x), fast)


@pytest.mark.skipif(not npdl._ext.kernels().ready, reason="needs compiled kernels")
def test_a_shortcut_takes_only_what_it_was_made_for():
    model, x = chain("winograd")
    predictor = model.predictor()
    wanted = [predictor(x) for _ in range(3)]
    assert predictor._shortcut(x) is not None and all(same(y, wanted[0]) for y in wanted)
    assert same(predictor._shortcut(-x), model.predict(-x)) and same(wanted[2], model.predict(x))
    others = (
        x[:1],
        x[:0],
        x[..., ::-1],
        x.astype(np.float64),
        x.astype(x.dtype.newbyteorder()),
        x.reshape(-1),
        np.asfortranarray(x),
        x.view(np.int32),
        x.tolist(),
    )
    for array in others:
        assert predictor._shortcut(array) is None
    assert same(predictor(x[..., ::-1]), model.predict(x[..., ::-1]))
    with npdl.use_dtype("float64"):
        assert predictor._shortcut(x) is None
    with npdl.use_backend("numpy"):
        assert predictor._shortcut(x) is None
    try:
        npdl.set_precision("exact")
        for _ in range(4):
            assert same(predictor(x), model.predict(x))
    finally:
        npdl.set_precision("fast")
    for one in (predictor, pickle.loads(pickle.dumps(predictor))):
        for _ in range(4):
            assert same(one(x), wanted[0])


def test_a_snapshot_does_not_change():
    model, x = chain("mlp", 60)
    model.compile("scce", "sgd")
    before = model.predict(x)
    predictor = model.predictor()
    model.fit(x, np.arange(60) % 3, epochs=2, verbose=0)
    assert not same(model.predict(x), before)
    assert same(predictor(x), before)
    predictor(x)[...] = 0  # what it returned belongs to the caller
    assert same(predictor(x), before)


def test_batches_and_other_inputs():
    model, x = chain("cnn", 11)
    wanted = model.predict(x)
    for predictor in (model.predictor(), model.predictor(batch_size=4), model.predictor(1)):
        assert alike(predictor(x), wanted)
        assert alike(predictor({"input": x}), wanted)
        assert alike(predictor(x.tolist()), wanted)
        assert alike(predictor(np.asfortranarray(x)), wanted)
        assert alike(predictor(x.astype(np.float64)), wanted)


def test_integers_and_flags_are_numbers():
    model, _ = chain("mlp")
    predictor, x = model.predictor(), np.eye(8)
    for array in (x, x.astype(int), x.astype(bool), x.astype(np.uint8)):
        assert same(predictor(array), model.predict(array))


def test_masks():
    model, x = chain("lstm")
    mask = np.ones(x.shape[:2], int)
    mask[1, 3:] = mask[2, 0] = 0
    predictor = model.predictor(batch_size=2)
    wanted = model.predict((x, mask))
    assert alike(predictor(x, mask), wanted) and alike(predictor((x, mask)), wanted)
    assert alike(predictor(x, mask=mask.astype(bool)), wanted)
    assert not alike(predictor(x), wanted)


def graph():
    one, two = Input((6,), name="one"), Input(STEPS, name="two")
    shared = Dense(5, activation="relu")
    h = shared(Dense(6)(one))
    seen = LSTM(6)(two)
    both = layers.Concatenate()(h, shared(seen), seen)
    inner = Model([Dense(4, n_in=16), Dense(3)])
    first = inner(both)
    model = Model(
        {"one": one, "two": two}, {"sum": layers.Add()(first, first), "side": Dense(2)(h)}
    )
    return model, {"one": data((6,)), "two": data(STEPS)}


def test_graphs():
    model, x = graph()
    predictor = model.predictor(batch_size=3)
    mask = np.ones((5, 7), int)
    mask[:, 5:] = 0
    masked = {"one": x["one"], "two": (x["two"], mask)}
    for given, wanted in [
        (predictor(x), model.predict(x)),
        (predictor([x["one"], x["two"]]), model.predict(x)),
        (predictor(masked), model.predict(masked)),
        (predictor(x, mask={"one": None, "two": mask}), model.predict(masked)),
    ]:
        assert given.keys() == {"sum", "side"}
        assert all(alike(given[key], wanted[key]) for key in wanted)
    assert "one" in repr(predictor._model) and "(None, 6)" in repr(predictor)


def test_a_first_state_is_an_input_too():
    x, state = Input((4, 3)), Input((5,))
    read = GRU(5, return_sequence=True)(x, initial_state=state)
    model = Model([x, state], Dense(2)(read))
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4, 3), (6, 5))]
    assert np.array_equal(model.predictor()(inputs), model.predict(inputs))


def test_stateful_layers_continue():
    model = Model([LSTM(6, n_in=5, stateful=True)])
    model.build((None, *STEPS))
    x = data(STEPS)
    model.predict(x)
    predictor = model.predictor()  # from the state that the model has
    assert same(predictor(x), model.predict(x))
    assert same(predictor(x), model.predict(x))
    predictor.reset_states(), model.reset_states()
    assert same(predictor(x), model.predict(x))


@pytest.mark.parametrize("label", ["cnn", "winograd", "gru"])
def test_many_threads(label):
    model, x = chain(label)
    predictor, wanted, wrong = model.predictor(), model.predict(x), []
    start = threading.Barrier(4)

    def run(i):
        start.wait()
        for _ in range(15):
            if not alike(predictor(x[i : i + 1]), wanted[i : i + 1]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_copies_and_files(tmp_path):
    model, x = chain("cnn")
    model.compile("scce", "adam")
    model.fit(x, np.arange(5) % 3, epochs=1, verbose=0)
    predictor, wanted = model.predictor(batch_size=2), model.predict(x)
    predictor(x)
    others = [copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))]
    predictor.save(tmp_path / "p.safetensors")
    loaded = npdl.load_model(tmp_path / "p.safetensors")
    assert not loaded.compiled
    for other in (*others, loaded.predictor()):
        assert alike(other(x), wanted) and alike(other(x[:1]), wanted[:1])


def test_a_snapshot_holds_no_gradients_and_no_optimizer():
    model, x = chain("mlp", 60)
    model.compile("scce", "adam")
    model.fit(x, np.arange(60) % 3, epochs=1, verbose=0)
    weights = sum(array.nbytes for array in model.weights.values())
    assert len(pickle.dumps(model.predictor())) < weights + 6000


def test_a_predictor_of_a_model_in_training():
    class Look(npdl.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.predictor()(x)

    model, x = chain("mlp", 60)
    model.compile("scce", "sgd")
    model.fit(x, np.arange(60) % 3, epochs=1, callbacks=[Look()], verbose=0)


def test_layers_of_another_network_are_left_behind():
    first = Dense(400, n_in=8)
    first.connect_to()
    second = Dense(3)
    second.connect_to(first)
    model = Model([second])
    model.build((None, 400))
    assert len(pickle.dumps(model.predictor())) < second.W.nbytes + 6000


def test_bad_input():
    model, x = chain("cnn")
    predictor = model.predictor()
    predictor(x)
    for bad, message in [
        (x[:0], "`X` must hold at least one sample"),
        (x[:, :2], r"`input` must have shape \(N, 3, H, W\)"),
        (x[0], r"`input` must have shape \(N, 3, H, W\)"),
        (np.float32(1), "at least one sample"),
    ]:
        with pytest.raises(ValueError, match=message):
            predictor(bad)
    with pytest.raises(TypeError, match="takes arrays; call it for each batch"):
        predictor(iter([x]))
    with pytest.raises(ValueError, match=r"`mask` must be numbers of shape \(5, 3\)"):
        predictor(x, mask=np.ones(3))
    with pytest.raises((TypeError, ValueError), match="X"):
        predictor(np.array(["a"]))
    with pytest.raises(ValueError, match="batch_size"):
        model.predictor(0)
    with pytest.raises(RuntimeError, match="compile"):
        Model([Dense(3)]).predictor()
