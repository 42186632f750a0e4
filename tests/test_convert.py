"""Models and weights of Keras and PyTorch: ``golden/make_weights.py`` wrote the files."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl import layers
from npdl._safetensors import read, write

h5py = pytest.importorskip("h5py")

FOLDER = Path(__file__).parent / "golden" / "weights"
KERAS = ("cnn", "images", "steps", "words", "graph", "nested", "translation", "attention")


def golden(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        inputs, outputs = ([file[k] for k in file if k[0] == letter] for letter in "xy")
    return inputs, outputs


def check_outputs(model, name, tolerance=1e-5):
    inputs, outputs = golden(name)
    found = model.predict(inputs if len(inputs) > 1 else inputs[0])
    for y, want in zip(found if isinstance(found, list) else [found], outputs, strict=True):
        assert y.shape == want.shape
        np.testing.assert_allclose(y, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", KERAS)
def test_a_model_of_keras_gives_what_it_gave_there(name):
    check_outputs(npdl.load_keras(FOLDER / f"{name}.keras"), name)


@pytest.mark.parametrize("name", KERAS)
def test_it_can_be_saved_and_trained(name, tmp_path):
    model = npdl.load_keras(FOLDER / f"{name}.keras")
    model.save(tmp_path / "model.safetensors")
    check_outputs(npdl.load_model(tmp_path / "model.safetensors"), name)
    inputs, outputs = golden(name)
    model.compile(loss="mse", optimizer="sgd")
    x, y = (a if len(a) > 1 else a[0] for a in (inputs, outputs))
    assert np.isfinite(model.train_on_batch(x, y)[0])


def test_names_frozen_parameters_and_the_form_of_the_model():
    model = npdl.load_keras(FOLDER / "cnn.keras")
    assert [layer.name for layer in model.layers][:2] == ["first", "batch_normalization"]
    assert not model.layers[4].parameters[0].trainable  # a batch normalization without gamma
    assert model.input_shape == (None, 2, 7, 6)
    graph = npdl.load_keras(FOLDER / "graph.keras")
    assert graph.input_names == ["a", "b", "picture"]


def chain():
    return npdl.Model(
        [
            layers.Convolution(3, (3, 2), stride=2, padding="same", input_shape=(2, 7, 6)),
            layers.BatchNormalization(),
            layers.MaxPooling(2, padding="same"),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Softmax(4),
        ]
    )


def steps():
    gru = {"n_out": 3, "reset_after": True, "return_sequence": True}
    return npdl.Model(
        [
            layers.Convolution1D(
                4, 3, (8, 3), padding="causal", dilation=2, activation="silu", name="conv"
            ),
            layers.TransposedConvolution1D(3, 2, stride=2, activation="leaky_relu"),
            layers.SeparableConvolution1D(5, 3, padding="same", activation="mish"),
            layers.DepthwiseConvolution1D(2, activation="hard_sigmoid"),
            layers.MaxPooling1D(2),
            layers.Bidirectional(layers.GRU(**gru), "sum"),
            layers.LSTM(3, return_sequence=True, go_backwards=True),
            layers.GRU(2, return_sequence=True, use_bias=False),
            layers.TimeDistributed(layers.Dense(3, activation="selu")),
            layers.RMSNormalization(),
            layers.GlobalMeanPooling(),
            layers.Linear(2),
        ]
    )


@pytest.mark.parametrize("suffix", ["weights.h5", "keras"])
def test_weights_of_keras_go_into_a_model_of_npdl(suffix):
    model = steps()
    model.build()
    npdl.load_keras_weights(model, FOLDER / f"steps.{suffix}", names={"conv": "conv1d"})
    check_outputs(model, "steps")


def test_rows_of_a_dense_layer_behind_a_flattened_image():
    model = chain()
    model.build()
    model.layers[4].parameters[0].learns = False  # there is no gamma in the file
    npdl.load_keras_weights(model, FOLDER / "cnn.weights.h5")
    check_outputs(model, "cnn")


def test_weights_that_do_not_fit_change_nothing():
    model = chain()
    model.build()
    before = model.get_weights()
    with pytest.raises(ValueError, match="has no layers 'nobody'"):
        npdl.load_keras_weights(model, FOLDER / "cnn.keras", names={"nobody": "first"})
    with pytest.raises(ValueError, match="must have 4 arrays for layer 'batch_normalization_2'"):
        npdl.load_keras_weights(model, FOLDER / "cnn.weights.h5")
    with pytest.raises(ValueError, match="has no layer 'nothing', but: "):
        npdl.load_keras_weights(model, FOLDER / "cnn.keras", names={"softmax_1": "nothing"})
    with pytest.raises(ValueError, match="must have 2 arrays for layer 'conv"):
        npdl.load_keras_weights(model, FOLDER / "images.keras")
    with pytest.raises(ValueError, match="no layer of the model takes layers/batch"):
        pooling = layers.MaxPooling(2, padding="same")
        small = npdl.Model([chain().layers[0], pooling, layers.Flatten(), layers.Softmax(4)])
        small.build()
        npdl.load_keras_weights(small, FOLDER / "cnn.keras")
    for array, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, old)


# ------------------------------------------------------------------------------- damaged files


def changed(tmp_path, name, change, **members):
    """A file of Keras with another configuration, or other members."""
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(FOLDER / f"{name}.keras") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "config.json" and change is not None:
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(info.filename, members.get(info.filename, data))
    return path


def option(index, key, value):
    def change(config):
        config["config"]["layers"][index]["config"][key] = value

    return change


def rename(index, value):
    def change(config):
        config["config"]["layers"][index]["class_name"] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (rename(1, "Lambda"), "no counterpart of Keras's layer Lambda (layer 'first')"),
        (rename(1, "Conv3D"), "no counterpart of Keras's layer Conv3D (layer 'first')"),
        (option(1, "data_format", "channels_first"), "data_format='channels_first'"),
        (option(1, "activation", {"class_name": "function"}), "this `activation`. Received"),
        (option(1, "activation", "mine"), "Received: activation='mine' (layer 'first')"),
        (option(1, "kernel_constraint", {"class_name": "MaxNorm"}), "this `kernel_constraint`"),
        (option(1, "of_tomorrow", 3), "Received: of_tomorrow=3 (layer 'first')"),
        (option(1, "dtype", "int8"), "this `dtype`"),
        (option(1, "filters", 2**40), "fewer values than"),
        (option(1, "filters", -1), "filter=-1 (layer 'convolution') (Conv2D 'first' of Keras)"),
        (option(0, "batch_shape", [None, "a"]), "shape"),
        (option(6, "rate", "x"), "`p` must be a number"),
        (option(6, "rate", 10**400), "`p` must be a number"),
        (option(7, "units", {}), "n_out={} (layer 'dense')"),
        (lambda c: c["config"]["layers"][1].pop("config"), "a class and a configuration"),
        (lambda c: c["config"]["layers"].insert(0, "x"), "a name of its own"),
        (option(7, "units", 5), "must have the shapes"),
        (lambda c: c.update(class_name="Mine"), "Only Sequential and functional models"),
        (lambda c: c["config"].update(layers=7), "must have a list of layers"),
        (lambda c: c["config"]["layers"].append(c["config"]["layers"][1]), "a name of its own"),
        (lambda c: c["config"]["layers"].pop(0), "was never built"),
        (lambda c: c["config"]["layers"].pop(), "no layer of the model takes layers/dense"),
    ],
)
def test_unknown_layers_and_options_are_named(change, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        npdl.load_keras(changed(tmp_path, "cnn", change))
    assert message in str(caught.value) and "changed.keras" in str(caught.value)


def mask_of_another_value(config):
    for entry in config["config"]["layers"]:
        if entry["class_name"] == "Embedding":
            entry["config"]["mask_zero"] = False


def circle(config):
    for entry in config["config"]["layers"]:
        for node in entry["inbound_nodes"]:
            node["args"][0]["config"]["keras_history"] = [entry["name"], 0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        (mask_of_another_value, "can't call Keras's Bidirectional with `mask`"),
        (circle, "must lead from the inputs to the outputs"),
        (lambda c: c["config"].update(output_layers=[["ids", 0]]), "A reference must be"),
    ],
)
def test_graphs_that_can_not_be_built(change, message, tmp_path):
    with pytest.raises(ValueError, match="(?s)" + message):
        npdl.load_keras(changed(tmp_path, "words", change))


def hdf5(fill):
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        with zipfile.ZipFile(FOLDER / "cnn.keras") as archive:
            old = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
            for key in old:
                old.copy(key, file)
        fill(file)
    return data.getvalue()


DENSE = "layers/dense/vars/0"


def replaced(make):
    def fill(file):
        del file[DENSE]
        make(file)

    return fill


@pytest.mark.parametrize(
    "fill, message",
    [
        (replaced(lambda f: f.update({DENSE: h5py.ExternalLink("/etc/passwd", "/x")})), "a link"),
        (replaced(lambda f: f.update({DENSE: h5py.SoftLink("/layers")})), "a link"),
        (replaced(lambda f: f.create_dataset(DENSE, (2**40,), "f4")), "not in the file"),
        (
            replaced(lambda f: f.create_dataset(DENSE, (2**20,), "f4", compression="gzip")),
            "a plain array",
        ),
        (
            replaced(lambda f: f.create_dataset(DENSE, (4,), "f4", external=[("x", 0, 16)])),
            "a plain array",
        ),
        (replaced(lambda f: f.create_dataset(DENSE, data=np.zeros(3, int))), "no float"),
        (replaced(lambda f: None), "must have 2 arrays"),
        (lambda f: f.create_dataset("layers/more/vars/0", data=np.zeros(3)), "layers/more"),
        (lambda f: f["layers"].update({"again": f["layers"]}), "too many groups"),
    ],
)
def test_weights_of_a_hostile_file(fill, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where an external array would lie
    path = changed(tmp_path, "cnn", None, **{"model.weights.h5": hdf5(fill)})
    with pytest.raises(ValueError, match=message):
        npdl.load_keras(path)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "model.keras"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        npdl.load_keras(path)
    with pytest.raises(ValueError, match="not a regular file"):
        npdl.load_keras(tmp_path)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no zip archive"):
        npdl.load_keras(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../config.json", "{}")
    with pytest.raises(ValueError, match=r"'config\.json' is in it 0 times"):
        npdl.load_keras(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(2**22))
    with pytest.raises(ValueError, match=r"'model\.weights\.h5' has 4,194,304 bytes, more than"):
        npdl.load_keras(path)
    for text in ("[" * 10**5, "{", '{"a": NaN}', "3"):
        with pytest.raises(ValueError, match=r"config\.json"):
            npdl.load_keras(changed(tmp_path, "cnn", None, **{"config.json": text.encode()}))


@pytest.mark.parametrize("step", [7, 31])
def test_broken_bytes_are_value_errors(step, tmp_path):
    data = (FOLDER / "words.keras").read_bytes()
    path = tmp_path / "broken.keras"
    rng = np.random.default_rng(step)
    for _ in range(40):
        wrong = bytearray(data)
        for place in rng.integers(0, len(data), step):
            wrong[place] = rng.integers(256)
        path.write_bytes(bytes(wrong))
        try:
            npdl.load_keras(path)
        except ValueError as error:
            assert "broken.keras" in str(error)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'npdl\[keras\]'"):
        npdl.load_keras(FOLDER / "cnn.keras")


def test_weights_of_attention_go_into_a_model_of_npdl():
    words, asked = npdl.Input((6,)), npdl.Input((4, 3))
    rows = layers.Embedding(9, 4, mask_zero=True)(words)
    own = layers.MultiHeadAttention(2, 3, value_size=2, causal=True)(rows)
    x = layers.LayerNormalization(epsilon=1e-3)(own)
    shared = layers.MultiHeadAttention(3, 2, n_out=5, use_bias=False)
    parts = [shared(asked, x), shared(asked, layers.Linear(4, name="four")(asked))]
    thin = layers.Linear(3, name="three")(x)
    parts += [layers.Attention()(asked, thin), layers.Attention("additive")(asked, thin)]
    parts += [layers.Attention(causal=True)(asked, asked)]
    model = npdl.Model([words, asked], layers.Concatenate(-1)(parts))
    loaded = npdl.load_keras(FOLDER / "attention.keras")
    names = dict(zip(("four", "three"), sorted(n for n in loaded.layer_names if "dense" in n)))
    npdl.load_keras_weights(model, FOLDER / "attention.keras", names=names)
    inputs, outputs = golden("attention")
    np.testing.assert_allclose(model.predict(inputs), outputs[0], rtol=1e-5, atol=1e-5)


def edited(path, tmp_path, name, **options):
    """A file of Keras with other options of a layer."""
    out = tmp_path / "edited.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "config.json":
                config = json.loads(data)
                entries = config["config"]["layers"]
                next(e for e in entries if e["name"] == name)["config"].update(options)
                data = json.dumps(config)
            new.writestr(member, data)
    return out


@pytest.mark.parametrize("name, options, message", [
    ("own", {"attention_axes": [1, 2]}, "attention_axes="), ("own", {"use_gate": True}, "use_gate"),
    ("own", {"sliding_window": 3}, "sliding_window=3"), ("own", {"num_heads": 4}, "shapes"),
    ("attention", {"score_mode": "concat"}, "score_mode='concat'"),
    ("attention", {"use_scale": True}, "use_scale=True"),
    ("additive_attention", {"use_scale": False}, "use_scale=False"),
])  # fmt: skip
def test_attention_that_npdl_does_not_have(name, options, message, tmp_path):
    path = FOLDER / "attention.keras"
    with zipfile.ZipFile(path) as file:
        entries = json.loads(file.read("config.json"))["config"]["layers"]
    name = next(e["name"] for e in entries if e["name"].startswith(name))
    with pytest.raises(ValueError, match=message):
        npdl.load_keras(edited(path, tmp_path, name, **options))


def test_dropout_of_attention_is_left_out_with_a_warning(tmp_path):
    with pytest.warns(RuntimeWarning, match="has no dropout: layer 'own'"):
        npdl.load_keras(edited(FOLDER / "attention.keras", tmp_path, "own", dropout=0.1))


# ------------------------------------------------------------------------------------- PyTorch


def torch_cnn():
    return npdl.Model(
        [
            layers.Convolution(
                3, (3, 2), (2, 7, 6), activation="linear", padding=1, use_bias=False
            ),
            layers.BatchNormalization(epsilon=1e-5),
            layers.PReLU(shared_axes=(2, 3)),
            layers.Convolution(3, 1, activation="linear", groups=3),
            layers.TransposedConvolution(3, 2, activation="linear"),
            layers.GroupNormalization(3, epsilon=1e-5),
            layers.Flatten(),
            layers.Dense(4, activation="relu"),
            layers.Linear(4),
            layers.Linear(4),
        ]
    )


def torch_words(reset_after=True):
    both = {"n_out": 3, "return_sequence": True}
    return npdl.Model(
        [
            layers.Embedding(9, 4, nb_seq=5),
            layers.Bidirectional(layers.LSTM(**both), name="first"),
            layers.Bidirectional(layers.LSTM(**both), name="second"),
            layers.GRU(**both, reset_after=reset_after),
            layers.SimpleRNN(n_out=2, return_sequence=True),
            layers.LayerNormalization(epsilon=1e-5),
            layers.Dense(2, activation="tanh", name="hidden"),
            layers.Linear(2, name="out"),
        ]
    )


def test_attention_of_pytorch():
    x, key, value = (npdl.Input((None, size)) for size in (6, 4, 3))
    y = layers.Add()([x, layers.MultiHeadAttention(2, 3)(x)])
    y = layers.LayerNormalization(epsilon=1e-5)(y)
    inner = layers.Linear(6)(layers.Dense(5, activation="gelu")(y))
    y = layers.LayerNormalization(epsilon=1e-5)(layers.Add()([y, inner]))
    y = layers.MultiHeadAttention(3, 2)(y, value, key)
    model = npdl.Model([x, key, value], layers.MultiHeadAttention(1, 6, use_bias=False)(y))
    npdl.load_torch_weights(model, FOLDER / "torch_attention.safetensors")
    (given,), (wanted,) = golden("torch_attention")
    found = model.predict([given, given[..., :4], given[..., :3]])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_modules_in_their_order():
    model = torch_cnn()
    model.build()
    npdl.load_torch_weights(model, FOLDER / "torch_cnn.safetensors")
    check_outputs(model, "torch_cnn")


def test_modules_by_name():
    model = torch_words()
    model.build()
    names = {"hidden": "z_first", "out": "a_last"}
    npdl.load_torch_weights(model, FOLDER / "torch_words.safetensors", names=names)
    check_outputs(model, "torch_words")
    more = {**names, "first": "lstm", "second": "lstm.l1", "gru_1": "gru"}
    npdl.load_torch_weights(model, FOLDER / "torch_words.safetensors", names=more)
    check_outputs(model, "torch_words")


def test_what_is_not_clear_or_does_not_fit_changes_nothing(tmp_path):
    path = FOLDER / "torch_words.safetensors"
    model = torch_words()
    model.build()
    before = model.get_weights()
    with pytest.raises(ValueError, match="not clear which of the modules a_last, z_first"):
        npdl.load_torch_weights(model, path)
    with pytest.raises(ValueError, match="must have 1 modules for layer 'out'"):
        npdl.load_torch_weights(model, path, names={"out": "nothing"})
    with pytest.raises(ValueError, match="has no layer 'nothing'"):
        npdl.load_torch_weights(model, path, names={"nothing": "z_first"})
    with pytest.raises(ValueError, match="Layer 'out' can't take module 'norm': The weight"):
        npdl.load_torch_weights(model, path, names={"out": "norm", "hidden": "a_last"})
    tensors = read(path)[0]
    names = {"hidden": "z_first", "out": "a_last"}
    other = tmp_path / "other.safetensors"
    write(other, {**tensors, "head.weight": np.zeros((7, 7), np.float32)}, {})
    with pytest.raises(ValueError, match="No layer of the model takes module 'head'"):
        npdl.load_torch_weights(model, other, names=names)
    write(other, {k: v for k, v in tensors.items() if not k.startswith("norm")}, {})
    with pytest.raises(ValueError, match="There must be modules for layer_normalization_1"):
        npdl.load_torch_weights(model, other, names=names)
    write(other, {**tensors, "norm.weight": np.zeros(2, np.int64)}, {})
    with pytest.raises(ValueError, match=r"'norm\.weight' must hold floats"):
        npdl.load_torch_weights(model, other, names=names)
    for array, old in zip(model.get_weights(), before):
        np.testing.assert_array_equal(array, old)
    model = torch_words(reset_after=False)
    model.build()
    with pytest.raises(ValueError, match=r"PyTorch's GRU is GRU\(reset_after=True\)"):
        npdl.load_torch_weights(model, path, names={"gru_1": "gru"})
    with pytest.raises(ValueError, match="takes module 'gru\\.l0'"):
        npdl.load_torch_weights(model, path, names=names)


@pytest.mark.parametrize("first", [b"PK\3\4data.pkl", b"\x80\x02ctorch\n"])
def test_pickles_are_not_read(first, tmp_path):
    model = torch_cnn()
    model.build()
    (tmp_path / "model.pt").write_bytes(first)
    with pytest.raises(ValueError, match="a pickle of torch"):
        npdl.load_torch_weights(model, tmp_path / "model.pt")


def test_the_files_say_who_made_them():
    versions = json.loads((FOLDER / "versions.json").read_text())
    assert versions["keras"]["keras"].startswith("3.15")
    assert versions["torch"]["torch"].startswith("2.13")
