"""Models to save, a small one and one with many kinds of layers, and their data."""

import numpy as np

import npdl
from npdl import Model
from npdl.layers import (
    GRU,
    BatchNormal,
    Convolution,
    Dense,
    DimShuffle,
    Dropout,
    Flatten,
    MaxPooling,
    Softmax,
)

X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(15, 4)
LABELS = np.arange(15) % 3


def make_model(optimizer="adam", **compile_args):
    """Images, convolution, normalization, dropout; a recurrent layer over the rows at the end."""
    model = npdl.Model(
        [
            Convolution(3, 2, input_shape=(1, 4, 5), padding="same", activation="elliot"),
            BatchNormal(axis=1),
            MaxPooling(2),
            Dropout(0.25),
            Flatten(),
            DimShuffle(1),
            GRU(n_out=4, gate_activation={"name": "SymmetricElliot", "steepness": 0.5}),
            Dense(6, activation="relu", init={"name": "Normal", "std": 0.2}),
            Softmax(3),
        ]
    )
    model.compile("scce", optimizer, **compile_args)
    return model


def small(*layers, **kwargs):
    model = Model([Dense(5, n_in=4), *layers, Softmax(3)])
    model.compile(**kwargs)
    return model


def make_data(n=20):
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 1, 4, 5)).astype(npdl.utils.get_dtype()), np.arange(n) % 3


def train(model, epochs=2, **kwargs):
    return model.fit(*make_data(), epochs=epochs, batch_size=8, verbose=False, **kwargs)


def through_file(model, tmp_path, *args, **kwargs):
    model.save(tmp_path / "model.safetensors")
    return npdl.load_model(tmp_path / "model.safetensors", *args, **kwargs)


def assert_same_weights(one, other):
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        assert array.dtype == other.weights[name].dtype, name
        np.testing.assert_array_equal(array, other.weights[name], err_msg=name)
