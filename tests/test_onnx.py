"""ONNX files of npdl give the same results in ONNX Runtime, and can be read back."""

import numpy as np
import pytest
from onnx_cases import ACTIVATIONS, CASES, IMAGE, SEQ, agrees, data, lstm, randomized, through

import npdl
from npdl import layers as L

onnx = pytest.importorskip("onnx", reason="needs npdl[onnx]")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def round_trip(model, path):
    npdl.export_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    again = npdl.import_onnx(path)
    assert repr(again.to_json()["layers"]) == repr(model.to_json()["layers"])  # nan is nan
    assert again.weights.keys() == model.weights.keys()
    for name, array in model.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)
    return again


def test_every_layer_is_in_the_table():
    from npdl.onnx._layers import WRITERS

    bases = {L.Layer, L.Merge, L.Recurrent}
    functions = {L.AutoLayer, L.Lambda}  # of Python, which ONNX can't hold
    every = {one for one in vars(L).values() if isinstance(one, type) and issubclass(one, L.Layer)}
    assert every - WRITERS.keys() == bases | functions


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
    model = randomized(npdl.Model(x, through(layers, x)), rng)
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
    model = npdl.Model(x, through(layers, x))
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


def test_the_extra_is_named(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] == "onnx" or n.startswith("npdl.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("export_onnx", "import_onnx", "onnx"):
        monkeypatch.delitem(vars(npdl), name, raising=False)
    with pytest.raises(ImportError, match=r"pip install 'npdl\[onnx\]'"):
        _ = npdl.export_onnx


@pytest.mark.parametrize("where", ["before", "after", "within"])
def test_masks_that_come_with_the_data(where, tmp_path):
    rng = np.random.default_rng(0)
    a, ids = npdl.Input((None, 3), name="a"), npdl.Input((None,), name="ids")
    words = L.Embedding(9, 3)(ids)
    y = L.Bidirectional(L.GRU(n_out=3, return_sequence=True))(a)
    read = L.MultiHeadAttention(2, 3)(words, y)
    model = npdl.Model([a, ids], L.Softmax(2)(L.GlobalMeanPooling()(read)))
    path = tmp_path / "m.onnx"
    npdl.export_onnx(model, path, masks=True)
    names = [i.name for i in runtime.InferenceSession(path).get_inputs()]
    assert names == ["a", "ids", "a_mask", "ids_mask"]
    x, words = data((None, 3), rng, 4, steps=6), rng.integers(0, 9, (4, 5))
    masks = [np.ones((4, t), np.float32) for t in (6, 5)]
    for mask in masks:
        mask[0, {"before": slice(2), "after": slice(3, None), "within": slice(1, 3)}[where]] = 0
    feeds = dict(zip(names, (x, words, *masks)))
    (found,) = runtime.InferenceSession(path).run(None, feeds)
    wanted = model.predict({"a": (x, masks[0]), "ids": (words, masks[1])})
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert npdl.import_onnx(path).input_names == ["a", "ids"]
    npdl.export_onnx(model, path, masks=["a"])
    assert len(runtime.InferenceSession(path).get_inputs()) == 3
    with pytest.raises(ValueError, match="names of inputs that are sequences: a, ids"):
        npdl.export_onnx(model, path, masks=["b"])
