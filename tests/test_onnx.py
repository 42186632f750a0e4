"""ONNX: what npdl writes is judged by ONNX Runtime, and comes back as it was."""

from functools import partial

import numpy as np
import pytest

import npdl
from npdl import layers as L

onnx = pytest.importorskip("onnx", reason="needs npdl[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

SEQ, IMAGE, FLAT = (None, 5), (3, 9, 8), (7,)


def chain(*layers):
    return lambda x: _chained(layers, x)


def _chained(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def lstm(units=4, **options):
    return L.LSTM(units, return_sequence=True, **options)


def rnn_cases():
    for kind in (L.LSTM, L.GRU, L.SimpleRNN, L.BatchLSTM):
        for options in (
            {},
            {"return_sequence": True},
            {"return_sequence": True, "go_backwards": True, "use_bias": False},
            {"activation": "relu", "dropout": 0.5, "return_sequence": True},
        ):
            name = f"{kind.__name__}-{'-'.join(options)}"
            yield name, SEQ, chain(kind(n_out=4, **options))
            yield name + "-masked", SEQ, chain(L.Masking(), kind(n_out=4, **options))
    yield "GRU-reset_after", SEQ, chain(L.GRU(n_out=4, reset_after=True))
    gates = {"gate_activation": "hard_sigmoid", "activation": "soft_sign"}
    yield "LSTM-gates", SEQ, chain(L.LSTM(n_out=4, **gates))
    yield (
        "RNN-leaky",
        SEQ,
        chain(L.SimpleRNN(n_out=4, activation={"name": "leaky_relu", "slope": 0.3})),
    )
    yield "RNN-elu", SEQ, chain(L.SimpleRNN(n_out=4, activation="elu"))
    yield "RNN-linear", SEQ, chain(L.SimpleRNN(n_out=4, activation="linear"))
    for mode in ("concat", "sum", "mul", "ave"):
        for sequence in (True, False):
            for before in ([], [L.Masking()]):
                layer = L.Bidirectional(L.GRU(n_out=3, return_sequence=sequence), mode)
                name = f"Bidirectional-{mode}-{sequence}-{len(before)}"
                yield name, SEQ, chain(*before, layer)


def image_cases():
    for k, (padding, stride, dilation) in enumerate(
        [
            ("valid", 1, 1), ("same", 1, 1), ("same", 2, 1), ("same", (3, 2), 1), ("same", 1, 2),
            (1, 2, 1), (((0, 1), (2, 1)), 1, (1, 2)),
        ]
    ):  # fmt: skip
        options = {"padding": padding, "stride": stride}
        yield (
            f"Convolution-{k}",
            IMAGE,
            chain(L.Convolution(6, (3, 2), groups=3, dilation=dilation, **options)),
        )
        yield (
            f"Separable-{k}",
            IMAGE,
            chain(L.SeparableConvolution(4, 3, dilation=dilation, **options)),
        )
        yield (
            f"Depthwise-{k}",
            IMAGE,
            chain(L.DepthwiseConvolution(3, 2, dilation=dilation, **options)),
        )
        yield (
            f"Transposed-{k}",
            IMAGE,
            chain(L.TransposedConvolution(4, 3, dilation=dilation, **options)),
        )
        yield f"MaxPooling-{k}", IMAGE, chain(L.MaxPooling(3, stride=stride, padding=padding))
        yield f"MeanPooling-{k}", (9, 8), chain(L.MeanPooling(3, stride=stride, padding=padding))
    yield (
        "Transposed-more",
        IMAGE,
        chain(L.TransposedConvolution(4, 3, stride=3, output_padding=(1, 2))),
    )
    yield "Transposed-wide", IMAGE, chain(L.TransposedConvolution(4, 2, stride=3, padding="same"))
    yield (
        "Convolution-softmax",
        IMAGE,
        chain(L.Convolution(4, 3, activation="softmax", use_bias=False)),
    )
    yield "CNN", IMAGE, chain(
        L.Convolution(4, 3, activation="linear"), L.BatchNormal(axis=1), L.ReLU(), L.MaxPooling(2),
        L.Dropout(0.5), L.SpatialDropout(0.5), L.Flatten(), L.Dense(5), L.Softmax(3),
    )  # fmt: skip
    for axis in (0, 1, 2, -1):
        yield f"BatchNormal-{axis}", IMAGE, chain(L.BatchNormal(axis=axis))
    for axis in (-1, 1, (1, 3), (2, 3), (1, 2, 3)):
        yield f"LayerNormalization-{axis}", IMAGE, chain(L.LayerNormalization(axis=axis))
        yield f"RMS-{axis}", IMAGE, chain(L.RMSNormalization(axis=axis))
    for groups, axis in ((1, 1), (3, 1), (-1, 1), (2, 3)):
        yield f"Group-{groups}-{axis}", IMAGE, chain(L.GroupNormalization(groups, axis))
    for method in ("nearest", "bilinear"):
        yield f"UpSampling-{method}", IMAGE, chain(L.UpSampling((2, 3), interpolation=method))
        yield f"UpSampling3-{method}", (9, 8), chain(L.UpSampling((2, 3), interpolation=method))
    yield "ZeroPadding", IMAGE, chain(L.ZeroPadding(((1, 2), (0, 3))))
    yield "Cropping", IMAGE, chain(L.Cropping(((1, 2), (0, 3))))
    yield "GlobalMax", IMAGE, chain(L.GlobalMaxPooling())
    yield "GlobalMean", IMAGE, chain(L.GlobalMeanPooling())
    yield "PReLU", IMAGE, chain(L.PReLU(shared_axes=(2, 3)))
    yield "Reshape", IMAGE, chain(L.Reshape((8, -1)), L.Permute((2, 1)), L.Flatten(2))
    yield "DimShuffle", FLAT, chain(L.DimShuffle(-1), L.Flatten(2), L.RepeatVector(3))
    yield (
        "Residual",
        IMAGE,
        chain(L.Residual([L.Convolution(3, 3, padding="same")], activation="relu")),
    )
    yield "Parallel", IMAGE, chain(L.Parallel([[L.Convolution(3, 1)], []], axis=1))
    yield (
        "Sequence",
        IMAGE,
        chain(L.Sequence([L.Convolution(3, 3, padding="same", stride=2), L.Flatten()])),
    )


def sequence_cases():
    masked = L.Masking
    for k, (padding, stride, dilation) in enumerate(
        [
            ("valid", 1, 1),
            ("same", 1, 2),
            ("same", 2, 1),
            ("causal", 1, 2),
            ("causal", 2, 1),
            ((2, 1), 1, 1),
        ]
    ):
        options = {"padding": padding, "stride": stride, "dilation": dilation}
        yield f"Convolution1D-{k}", SEQ, chain(L.Convolution1D(4, 3, **options))
        yield f"Separable1D-{k}", SEQ, chain(L.SeparableConvolution1D(4, 3, **options))
        yield f"Depthwise1D-{k}", SEQ, chain(L.DepthwiseConvolution1D(3, 2, **options))
        if padding != "causal":
            yield f"Transposed1D-{k}", SEQ, chain(L.TransposedConvolution1D(4, 3, **options))
            pool = {"stride": stride, "padding": padding}
            for kind in (L.MaxPooling1D, L.MeanPooling1D):
                yield f"{kind.__name__}-{k}", SEQ, chain(kind(3, **pool))
                yield f"{kind.__name__}-{k}-masked", SEQ, chain(masked(), kind(3, **pool), lstm())
    for kind in (L.GlobalMaxPooling, L.GlobalMeanPooling):
        yield kind.__name__, SEQ, chain(kind())
        yield kind.__name__ + "-masked", SEQ, chain(masked(), kind())
    yield (
        "Frames",
        SEQ,
        chain(masked(), L.ZeroPadding1D((1, 2)), lstm(), L.Cropping1D((1, 0)), lstm()),
    )
    yield "UpSampling1D", SEQ, chain(masked(), L.UpSampling1D(2), lstm())
    yield "Causal-masked", SEQ, chain(masked(), L.Convolution1D(4, 2, padding="causal"), lstm())
    yield "BatchNormal-masked", SEQ, chain(masked(), L.BatchNormalization(axis=-1))
    yield "BatchNormal-steps", SEQ, chain(L.BatchNormal(axis=-1))
    yield (
        "Steps",
        SEQ,
        chain(L.TimeDistributed(L.Sequence([L.Dense(4), L.Linear(2)])), L.Softmax(3)),
    )
    yield (
        "Images",
        (None, 2, 6, 5),
        chain(L.TimeDistributed(L.Convolution(3, 3)), L.TimeDistributed(L.Flatten()), lstm()),
    )
    yield "Masking-nan", SEQ, chain(L.Masking(float("nan")), lstm())
    yield "GaussianNoise", SEQ, chain(L.GaussianNoise(0.1), L.Dense((2, 3)))
    yield "PReLU1", SEQ, chain(L.PReLU(shared_axes=1), lstm(), L.LayerNormalization())


def attention_cases():
    yield "PositionEmbedding", SEQ, chain(L.PositionEmbedding(12), L.Masking(), L.Dense(3))
    for causal in (False, True):
        sizes = {"value_size": 2, "n_out": 5, "use_bias": False}
        for name, make in {
            **{score: partial(L.Attention, score, causal=causal) for score in SCORES},
            "heads": partial(L.MultiHeadAttention, 2, 3, causal=causal),
            "sizes": partial(L.MultiHeadAttention, 3, 2, causal=causal, **sizes),
        }.items():
            yield f"{name}-{causal}", SEQ, chain(L.Dense(4), make())
            yield f"{name}-{causal}-masked", SEQ, chain(L.Masking(), make(), L.GRU(n_out=3))
            yield f"{name}-{causal}-two", SEQ, two_sides(make)


SCORES = "dot", "scaled_dot", "additive"


def two_sides(make):
    """Query and value of their own, each with or without a mask, and with a key too."""

    def build(x):
        a, b, masked = L.Dense(4)(x), L.ZeroPadding1D((1, 0))(L.Dense(4)(x)), L.Masking()(x)
        c = L.Cropping1D((2, 0))(L.Dense(4)(masked))
        d = L.Dense(4)(L.Masking()(x))
        calls = (a, c), (c, b), (a, c, c), (c, b, b), (d, d, a)
        return [make()(*inputs) for inputs in calls]

    return build


def graph_cases():
    yield "merges", FLAT, lambda x: L.Concatenate(-1)([
        kind()([L.Dense(4)(x), L.Dense(4)(x)])
        for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
    ])  # fmt: skip
    yield "dot", SEQ, lambda x: L.Dot(2, normalize=True)([L.Dense(4)(x), L.Dense(4)(x)])
    yield "dot-2", FLAT, lambda x: L.Dot(1)([L.Dense(4)(x), L.Dense(4)(x)])

    def encoder(x):
        x = L.Masking()(x)
        y, h, c = L.LSTM(n_out=4, return_sequence=True, return_state=True)(x)
        return L.LSTM(n_out=4, return_sequence=True)(y, initial_state=(h, c))

    def backwards(x):
        _, h = L.GRU(n_out=4, return_state=True)(x)
        x = L.Masking()(x)
        return L.GRU(n_out=4, return_sequence=True, go_backwards=True)(x, initial_state=(h,))

    def shared(x):
        dense = L.Dense(5)
        return L.Add()([dense(dense(x)), x])

    def both(x):
        ys = L.Bidirectional(L.LSTM(n_out=3, return_sequence=True, return_state=True), None)(x)
        return L.Concatenate(-1)([*ys[:2]])

    def union(x):
        a = L.Masking()(x)
        return lstm()(L.Concatenate(1)([L.Add()([a, L.Dense(5)(a)]), L.Dense(5)(x)]))

    yield from ((f.__name__, SEQ, f) for f in (encoder, backwards, shared, both, union))


CASES = [*rnn_cases(), *image_cases(), *sequence_cases(), *attention_cases(), *graph_cases()]
ACTIVATIONS = [
    *(
        "sigmoid",
        "tanh",
        "relu",
        "linear",
        "soft_plus",
        "soft_sign",
        "selu",
        "gelu",
        "silu",
        "mish",
    ),
    *("hard_sigmoid", "hard_tanh", "exponential", "softmax", "log_softmax", "elu", "leaky_relu"),
    *({"name": name, "steepness": 1.7} for name in ("elliot", "symmetric_elliot")),
    {"name": "softmax", "axis": 1},
]


def test_every_layer_is_in_the_table():
    from npdl.onnx._layers import WRITERS

    bases = {L.Layer, L.Merge, L.Recurrent}
    functions = {L.AutoLayer, L.Lambda}  # of Python, which ONNX can't hold
    every = {one for one in vars(L).values() if isinstance(one, type) and issubclass(one, L.Layer)}
    assert every - WRITERS.keys() == bases | functions


def data(shape, rng, n=3, steps=6):
    x = rng.normal(size=(n, *(steps if size is None else size for size in shape)))
    x = x.astype(np.float32)
    if len(shape) > 1 and shape[0] is None:
        x[0, 4:] = x[1, :2] = x[2, 1] = 0  # right, left and inner padding
        if n > 3:
            x[3] = 0
    return x


def randomized(model, rng):
    """Weights, scales and running statistics that are no longer 0 and 1."""
    for name, array in model.weights.items():
        if "W" not in name.rpartition("/")[2]:
            array[...] = rng.uniform(0.3, 1.5, array.shape)
        else:
            array[...] = rng.normal(size=array.shape) / np.sqrt(array.shape[0] + 1)
    for layer in model.layers:
        if getattr(layer, "use_bias", True) is False and hasattr(layer, "AllW"):
            layer.AllW[: layer._n_biases] = 0
    return model


def agrees(model, path, *inputs):
    """The largest difference to ONNX Runtime, as a part of the largest value."""
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    found = session.run(None, feeds)
    wanted = model.forward(inputs[0] if len(inputs) == 1 else [*inputs], train=False)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    for y, want in zip(found, wanted, strict=True):
        assert y.shape == want.shape
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5 * max(1, np.abs(want).max()))


def round_trip(model, path):
    npdl.export_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    again = npdl.import_onnx(path)
    assert repr(again.to_json()["layers"]) == repr(model.to_json()["layers"])  # nan is nan
    assert again.weights.keys() == model.weights.keys()
    for name, array in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)
    return again


@pytest.mark.parametrize("shape, build", [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_onnx_runtime_agrees(shape, build, tmp_path):
    rng = np.random.default_rng(0)
    x = npdl.Input(shape)
    model = randomized(npdl.Model(x, build(x)), rng)
    path = tmp_path / "model.onnx"
    round_trip(model, path)
    agrees(model, path, data(shape, rng, 4))
    if shape[0] is None:
        agrees(model, path, data(shape, rng, 3, steps=9))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation, tmp_path):
    rng = np.random.default_rng(0)
    x = npdl.Input(SEQ)
    y = L.Activation(activation)(L.Dense(4, activation=activation)(x))
    model = randomized(npdl.Model(x, y), rng)
    round_trip(model, tmp_path / "a.onnx")
    agrees(model, tmp_path / "a.onnx", 3 * data(SEQ, rng))


@pytest.mark.parametrize("mask_zero", [False, True])
def test_numbers_of_words(mask_zero, tmp_path):
    rng = np.random.default_rng(0)
    model = npdl.Model([
        L.Embedding(11, 4, mask_zero=mask_zero), L.Bidirectional(lstm(3)), L.GRU(n_out=4),
        L.Softmax(3),
    ])  # fmt: skip
    model.build()
    path = tmp_path / "words.onnx"
    round_trip(model, path)
    ids = rng.integers(0, 11, (5, 7))
    ids[0, 4:] = ids[1, :2] = ids[2, 3] = ids[3] = 0
    agrees(model, path, ids)
    agrees(model, path, ids[:1, :1])


def test_several_inputs_and_outputs(tmp_path):
    rng = np.random.default_rng(0)
    words, image = npdl.Input((6,), name="words"), npdl.Input(IMAGE, name="image")
    a = L.GRU(n_out=4)(L.Embedding(9, 3)(L.Flatten(2)(words)))
    b = L.Dense(4)(L.Flatten()(image))
    both = L.Concatenate()([a, b, L.Dense(2)(words)])
    model = npdl.Model([words, image], {"class": L.Softmax(3)(both), "sum": L.Add()([a, b])})
    path = tmp_path / "two.onnx"
    round_trip(model, path)
    session = runtime.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == ["words", "image"]
    assert [o.name for o in session.get_outputs()] == ["class", "sum"]
    feeds = {"words": rng.integers(0, 9, (4, 6)), "image": data(IMAGE, rng, 4)}
    found, wanted = session.run(None, feeds), model.forward([*feeds.values()], train=False)
    for y, name in zip(found, ("class", "sum")):
        np.testing.assert_allclose(y, wanted[name], rtol=1e-5, atol=1e-5)


def random_chain(rng):
    """A few random layers that fit behind each other."""
    layers, kind = [], rng.choice(["image", "steps"])
    shape = IMAGE if kind == "image" else SEQ
    if kind == "steps" and rng.random() < 0.5:
        layers.append(L.Masking())
    for _ in range(rng.integers(1, 4)):
        if kind == "image":
            layers.append(rng.choice([
                L.Convolution(int(rng.integers(1, 5)), int(rng.integers(1, 4)), padding="same",
                              stride=int(rng.integers(1, 3)), activation="gelu"),
                L.BatchNormal(axis=1), L.MeanPooling(2, padding="same"), L.UpSampling(2),
                L.Residual([L.DepthwiseConvolution(3, padding="same")]),
                L.LayerNormalization(axis=1),
            ]))  # fmt: skip
        else:
            layers.append(rng.choice([
                lstm(int(rng.integers(1, 6)), go_backwards=bool(rng.integers(2))),
                L.Bidirectional(L.GRU(n_out=3, return_sequence=True)), L.BatchNormal(axis=-1),
                L.Convolution1D(4, 3, padding="causal"), L.Dense(4, activation="silu"),
                L.TimeDistributed(L.Dense(3)), L.MaxPooling1D(2, stride=1, padding="same"),
            ]))  # fmt: skip
    layers += [L.Flatten()] if kind == "image" else [L.GlobalMeanPooling()]
    return shape, [*layers, L.Softmax(3)]


@pytest.mark.parametrize("seed", range(30))
def test_random_models(seed, tmp_path):
    rng = np.random.default_rng(seed)
    shape, layers = random_chain(rng)
    x = npdl.Input(shape)
    model = randomized(npdl.Model(x, _chained(layers, x)), rng)
    round_trip(model, tmp_path / "m.onnx")
    agrees(model, tmp_path / "m.onnx", data(shape, rng, 4))


def test_any_number_of_samples_and_steps_is_declared(tmp_path):
    model = npdl.Model([L.LSTM(n_out=3, n_in=2, nb_seq=5), L.Dense(2)])
    model.build()
    npdl.export_onnx(model, tmp_path / "m.onnx")
    made = onnx.load(tmp_path / "m.onnx")
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["batch", "time", 2]
    assert made.opset_import[0].version == 17 and made.ir_version == 8


def test_float64_becomes_float32(tmp_path):
    with npdl.use_dtype("float64"):
        model = npdl.Model([L.Dense(4, n_in=3), L.Linear(2)])
        model.build()
    npdl.export_onnx(model, tmp_path / "m.onnx")
    again = npdl.import_onnx(tmp_path / "m.onnx")
    x = np.ones((2, 3))
    np.testing.assert_allclose(again.predict(x), model.predict(x), rtol=1e-5)
    assert {a.dtype.name for a in again.weights.values()} == {"float32"}


class Own(L.Layer):
    def forward(self, input, train=True):
        return input


@pytest.mark.parametrize(
    "layers, message",
    [
        ([Own()], "The layer has no form in ONNX.*class='Own' .layer 'own"),
        ([L.LSTM(n_out=2, stateful=True)], "stateful layer.*lstm_1"),
        ([L.LSTM(n_out=2, activation="gelu")], "activation='GELU' .layer 'lstm_1'"),
        ([L.Masking(), L.Convolution1D(2, 3), lstm()], "mask that.*made_by='convolution1d_1'"),
    ],
)
def test_what_has_no_form_is_named(layers, message, tmp_path):
    x = npdl.Input(SEQ)
    model = npdl.Model(x, _chained(layers, x))
    with pytest.raises(ValueError, match=message):
        npdl.export_onnx(model, tmp_path / "m.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_model_must_be_built(tmp_path):
    with pytest.raises(RuntimeError, match="must be built before export_onnx"):
        npdl.export_onnx(npdl.Model([L.Dense(3)]), tmp_path / "m.onnx")


def test_what_is_frozen_stays_frozen(tmp_path):
    model = npdl.Model([L.Dense(4, n_in=3), L.Linear(2)])
    model.layers[0].trainable = False
    model.build()
    model.compile(loss="mse", optimizer="sgd")
    npdl.export_onnx(model, tmp_path / "m.onnx")
    again = npdl.import_onnx(tmp_path / "m.onnx")
    assert not again.layers[0].trainable and again.layers[1].trainable and not again.compiled


def test_damaged_files_are_refused(tmp_path):
    model = npdl.Model([L.LSTM(n_out=4, n_in=3), L.Linear(2)])
    model.build()
    path = tmp_path / "m.onnx"
    npdl.export_onnx(model, path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        bad = bytearray(good[: rng.integers(len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.integers(1, 20) if bad else 0):
            bad[rng.integers(len(bad))] = rng.integers(256)
        path.write_bytes(bad)
        try:
            npdl.import_onnx(path)
        except ValueError:
            pass

    made = onnx.ModelProto.FromString(good)
    made.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry = made.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../secret"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="must lie in the file itself"):
        npdl.import_onnx(path)

    text = '{"layers":[{"class":"Linear","config":{"n_out":1000000000,"n_in":1000},"name":"a"}]}'
    onnx.helper.set_model_props(made, {"npdl.model": text.replace("]}", '],"frozen":[]}')})
    del made.graph.initializer[:]
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="holds no model that can be loaded"):
        npdl.import_onnx(path)


def test_a_file_of_another_program_is_refused(tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(n, 1, ["N", 3]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    with pytest.raises(ValueError, match=r"must be one that npdl\.export_onnx wrote"):
        npdl.import_onnx(path)


def test_the_extra_is_named(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "onnx" or n.startswith("npdl.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("export_onnx", "import_onnx", "onnx"):
        monkeypatch.delitem(vars(npdl), name, raising=False)
    with pytest.raises(ImportError, match=r"pip install 'npdl\[onnx\]'"):
        _ = npdl.export_onnx
