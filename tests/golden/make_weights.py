"""Write small models and weights of Keras and PyTorch, with their outputs for an input.

    KERAS_BACKEND=torch python tests/golden/make_weights.py keras
    python tests/golden/make_weights.py torch

Each needs its library, the second safetensors too, at the versions in ``weights/versions.json``.
The suite only reads the files: ``weights/*.keras``, ``*.weights.h5``, ``*.safetensors``, and for
each an ``.npz`` with inputs and outputs, images as (N, C, H, W). The sizes differ from axis to
axis, so that no two of them can be mixed up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "weights"
VERSIONS = FOLDER / "versions.json"


def keras_models():
    import keras
    from keras import layers as L

    image = L.Input((7, 6, 2))
    yield (
        "cnn",
        keras.Sequential(
            [
                image,
                L.Conv2D(3, (3, 2), padding="same", strides=2, activation="relu", name="first"),
                L.BatchNormalization(),
                L.MaxPooling2D(2, padding="same"),
                L.Flatten(),
                L.BatchNormalization(scale=False),
                L.Dropout(0.5),
                L.Dense(4, activation="softmax"),
            ]
        ),
    )
    yield (
        "images",
        keras.Sequential(
            [
                L.Input((6, 5, 4)),
                L.ZeroPadding2D(((1, 0), (0, 2))),
                L.Conv2D(4, 3, groups=2, dilation_rate=2, use_bias=False),
                L.PReLU(shared_axes=[1, 2]),
                L.DepthwiseConv2D(2, depth_multiplier=2, padding="same"),
                L.SeparableConv2D(3, 2, padding="same", activation="gelu"),
                L.UpSampling2D(2, interpolation="bilinear"),
                L.Conv2DTranspose(2, (3, 2), strides=2, padding="same", activation="elu"),
                L.Conv2DTranspose(4, 1, strides=2),
                L.GroupNormalization(2),
                L.Cropping2D(((1, 0), (0, 1))),
                L.LayerNormalization(),
                L.AveragePooling2D((2, 1)),
                L.Softmax(),
            ]
        ),
    )
    yield (
        "steps",
        keras.Sequential(
            [
                L.Input((8, 3)),
                L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="silu"),
                L.Conv1DTranspose(3, 2, strides=2, activation="leaky_relu"),
                L.SeparableConv1D(5, 3, padding="same", activation="mish"),
                L.DepthwiseConv1D(2, activation="hard_sigmoid"),
                L.MaxPooling1D(2),
                L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum"),
                L.LSTM(3, return_sequences=True, go_backwards=True),
                L.GRU(2, reset_after=False, return_sequences=True, use_bias=False),
                L.TimeDistributed(L.Dense(3, activation="selu")),
                L.RMSNormalization(),
                L.GlobalAveragePooling1D(),
                L.Dense(2, kernel_regularizer="l2"),
            ]
        ),
    )
    ids = L.Input((6,), dtype="int32", name="ids")
    rows = L.Embedding(9, 4, mask_zero=True)(ids)
    walked = L.Bidirectional(L.LSTM(3, return_sequences=True))(rows)
    yield "words", keras.Model(ids, L.Dense(2)(L.SimpleRNN(3)(L.LayerNormalization()(walked))))
    inner = keras.Sequential([L.Input((5,)), L.Dense(4, activation="tanh"), L.Dense(3)], name="in")
    a, b = L.Input((5,), name="a"), L.Input((5,), name="b")
    shared, picture = L.Dense(5, name="shared"), L.Input((4, 3, 2), name="picture")
    p, q = inner(shared(a)), inner(shared(shared(b)))
    conv = L.Conv2D(2, 2, padding="same", name="conv")(picture)
    both = L.Concatenate()([picture, conv])
    flat = L.Flatten()(L.Add()([both, both]))
    joined = L.Concatenate()([p - q, flat])
    reshaped = L.Conv2D(3, 2, name="again")(L.Reshape((3, 2, 8))(flat))
    yield "graph", keras.Model([a, b, picture], [L.Dense(2, name="last")(joined), reshaped, flat])
    start = L.Input((4, 5, 2))
    step = L.Conv2D(2, 3, padding="same", activation="relu")
    block = keras.Model(start, L.ReLU()(L.BatchNormalization()(start + step(step(start)))))
    turned = L.Permute((2, 1, 3))
    head = [L.GlobalMaxPooling2D(), L.RepeatVector(2), L.Flatten(), L.Dense(3, "sigmoid")]
    yield "nested", keras.Sequential([L.Input((4, 5, 2)), block, turned, L.ReLU(), *head])
    source, target = L.Input((5, 2), name="source"), L.Input((4, 3), name="target")
    _, h, c = L.LSTM(3, return_state=True, name="encoder")(source)
    decoded = L.LSTM(3, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    yield "translation", keras.Model([source, target], decoded)
    words, asked = L.Input((6,), dtype="int32", name="words"), L.Input((4, 3), name="asked")
    x = L.Embedding(9, 4, mask_zero=True)(words)
    mean = L.GlobalAveragePooling1D()(x + x)  # `+` drops the mask; a layer would keep it
    # On the torch backend, MultiHeadAttention removes the masks of its inputs.
    x = L.MultiHeadAttention(2, 3, value_dim=2, name="own")(x, x, use_causal_mask=True)
    x = L.LayerNormalization()(x)
    read = L.MultiHeadAttention(3, 2, output_shape=5, use_bias=False)
    parts = [read(query=asked, value=x, key=x), read(asked, L.Dense(4)(asked))]
    thin = L.Dense(3)(x)
    parts += [L.Attention()([asked, thin]), L.AdditiveAttention()([asked, thin])]
    parts += [L.Attention()([asked, asked], use_causal_mask=True)]
    yield "attention", keras.Model([words, asked], [L.Concatenate()(parts), mean])


def randomized(array, rng):
    """Weights of any sign, statistics above 0."""
    return rng.uniform(0.2, 1.0, array.shape) * np.where(rng.random(array.shape) < 0.4, -1, 1)


def channels_first(array):
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def write_keras():
    import h5py
    import keras

    for name, model in keras_models():
        rng = np.random.default_rng(len(name))
        for variable in model.weights:
            values = randomized(variable, rng)
            values = abs(values) if "variance" in variable.path else values
            variable.assign(values)
        inputs = []
        for value in model.inputs:
            shape = (3, *value.shape[1:])
            if "int" in str(value.dtype):
                x = rng.integers(1, 9, shape)
                x[1, 4:] = 0
            else:
                x = rng.normal(size=shape).astype(np.float32)
            inputs.append(x)
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        if name == "cnn":
            model.compile("adam", "categorical_crossentropy")
        model.save(FOLDER / f"{name}.keras")
        if name in ("cnn", "steps"):
            model.save_weights(FOLDER / f"{name}.weights.h5")
        save(name, inputs, outputs)
    note("keras", {"keras": keras.__version__, "h5py": h5py.__version__})


def save(name, inputs, outputs):
    arrays = {f"x{i}": channels_first(np.asarray(x)) for i, x in enumerate(inputs)}
    arrays.update({f"y{i}": channels_first(np.asarray(y)) for i, y in enumerate(outputs)})
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def note(library, versions):
    known = json.loads(VERSIONS.read_text()) if VERSIONS.exists() else {}
    VERSIONS.write_text(json.dumps({**known, library: versions}, indent=1, sort_keys=True) + "\n")


def write_torch():
    import safetensors
    import torch
    from safetensors.torch import save_file
    from torch import nn

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)
            self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
            self.gru = nn.GRU(6, 3, batch_first=True)
            self.rnn = nn.RNN(3, 2, batch_first=True)
            self.norm = nn.LayerNorm(2)
            self.z_first = nn.Linear(2, 2)
            self.a_last = nn.Linear(2, 2)

        def forward(self, x):
            y = self.rnn(self.gru(self.lstm(self.table(x))[0])[0])[0]
            return self.a_last(torch.tanh(self.z_first(self.norm(y))))

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(6, 2, 5, batch_first=True, activation="gelu")
            self.reads = nn.MultiheadAttention(6, 3, kdim=4, vdim=3, batch_first=True)
            self.plain = nn.MultiheadAttention(6, 1, bias=False, batch_first=True)

        def forward(self, x):
            y = self.encoder(x)
            y = self.reads(y, x[..., :4], x[..., :3])[0]
            return self.plain(y, y, y)[0]

    cnn = nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.PReLU(3),
        nn.Conv2d(3, 3, 1, groups=3),
        nn.ConvTranspose2d(3, 3, 2),
        nn.GroupNorm(3, 3),
        nn.Flatten(),
        nn.Linear(3 * 8 * 8, 4),
        nn.ReLU(),
        nn.Linear(4, 4),
        nn.Linear(4, 4),
    )
    rng = np.random.default_rng(3)
    images = rng.normal(size=(3, 2, 7, 6)).astype(np.float32)
    ids = rng.integers(0, 9, (3, 5))
    steps = np.random.default_rng(4).normal(size=(3, 5, 6)).astype(np.float32)
    for name, model, x in [
        ("torch_cnn", cnn, images),
        ("torch_words", Words(), ids),
        ("torch_attention", Reads(), steps),
    ]:
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = randomized(tensor, rng)
                tensor.copy_(torch.tensor(abs(values) if "var" in key else values))
        model.eval()
        with torch.no_grad():
            y = model(torch.tensor(x)).numpy()
        save_file(model.state_dict(), FOLDER / f"{name}.safetensors")
        np.savez_compressed(FOLDER / f"{name}.npz", x0=x, y0=y)
    versions = {"torch": torch.__version__, "safetensors": safetensors.__version__}
    note("torch", versions)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    {"keras": write_keras, "torch": write_torch}[sys.argv[1]]()
