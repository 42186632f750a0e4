"""Networks of well-known public training scripts, a few lines each: they train, save and load."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import (
    GRU,
    LSTM,
    Activation,
    BatchNormalization,
    Bidirectional,
    Concatenate,
    Convolution,
    Convolution1D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalMaxPooling,
    GlobalMeanPooling,
    Linear,
    MaxPooling,
    Permute,
    ReLU,
    RepeatVector,
    Reshape,
    Residual,
    SeparableConvolution,
    Sequence,
    Softmax,
    TimeDistributed,
    TransposedConvolution,
    TransposedConvolution1D,
    UpSampling,
)

R = np.random.default_rng(0)


def images(*shape):
    return R.normal(size=shape).astype("f4")


def words(n, steps, k=20):
    return R.integers(1, k, (n, steps))


LABELS = np.arange(8) % 2


def bidirectional_lstm():  # keras.io: nlp/bidirectional_lstm_imdb
    layers = [Embedding(20, 8), Bidirectional(LSTM(6, return_sequences=True))]
    return (
        Model([*layers, Bidirectional(LSTM(6)), Dense(1, activation="sigmoid")]),
        "bce",
        (
            words(8, 7),
            LABELS,
        ),
    )


def addition():  # keras.io: nlp/addition_rnn
    x = np.eye(12)[words(8, 7, 12)]
    layers = [LSTM(16), RepeatVector(4), LSTM(16, return_sequences=True), Softmax(12)]
    return Model(layers), "scce", (x, words(8, 4, 12))


def seq2seq():  # keras.io: nlp/lstm_seq2seq
    source, target = Input((None, 6), name="source"), Input((None, 5), name="target")
    _, h, c = LSTM(8, return_state=True)(source)
    y = LSTM(8, return_sequences=True)(target, initial_state=(h, c))
    model = Model([source, target], Softmax(5)(y))
    t = words(8, 4, 5)
    return model, "scce", ([images(8, 6, 6), np.eye(5)[t]], t)


def series_classification():  # keras.io: timeseries/timeseries_classification_from_scratch
    body = []
    for _ in range(3):
        body += [Convolution1D(8, 3, padding="same", activation=None), BatchNormalization(), ReLU()]
    body[1::3] = [BatchNormalization(axis=2) for _ in range(3)]
    return Model([*body, GlobalMeanPooling(), Softmax(2)]), "scce", (images(8, 20, 1), LABELS)


def series_anomalies():  # keras.io: timeseries/timeseries_anomaly_detection
    x = np.sin(np.arange(16) + np.arange(8)[:, None])[..., None]
    layers = [
        Convolution1D(8, 7, stride=2, padding="same"),
        Convolution1D(4, 7, stride=2, padding="same"),
        TransposedConvolution1D(4, 7, stride=2, padding="same"),
        TransposedConvolution1D(8, 7, stride=2, padding="same"),
        TransposedConvolution1D(1, 7, padding="same", activation="linear"),
    ]
    return Model(layers), "mse", (x, x)


def word_embeddings():  # keras.io: nlp/pretrained_word_embeddings
    layers = [Embedding(images(20, 8)), Convolution1D(8, 3), GlobalMaxPooling()]
    return Model([*layers, Dense(8, activation="relu"), Softmax(2)]), "scce", (words(8, 9), LABELS)


def image_autoencoder():  # keras.io: vision/autoencoder
    x = R.uniform(size=(8, 1, 8, 8))
    layers = [
        Convolution(8, 3, padding="same"),
        MaxPooling(2, padding="same"),
        Convolution(4, 3, padding="same"),
        TransposedConvolution(8, 3, stride=2, padding="same"),
        Convolution(1, 3, padding="same", activation="sigmoid"),
    ]
    return Model(layers), "bce", (x, x)


def xception():  # keras.io: vision/image_classification_from_scratch
    x = Input((3, 12, 12))
    h = Convolution(8, 3, stride=2, padding="same")(x)
    for filters in (8, 12):
        body = [
            SeparableConvolution(filters, 3, padding="same", activation=None),
            BatchNormalization(),
            MaxPooling(3, stride=2, padding="same"),
        ]
        shortcut = Convolution(filters, 1, stride=2, padding="same", activation=None)
        h = Residual(body, shortcut=shortcut)(h)
    y = Softmax(2)(Dropout(0.1)(GlobalMeanPooling()(h)))
    return Model(x, y), "scce", (images(8, 3, 12, 12), LABELS)


def captcha():  # keras.io: vision/captcha_ocr
    layers = [
        Convolution(8, 3, padding="same"),
        MaxPooling(2),
        Permute((3, 1, 2)),
        Reshape((8, -1)),
        Bidirectional(LSTM(8, return_sequences=True)),
        Softmax(6),
    ]
    return Model(layers), npdl.objectives.CTC(), (images(8, 1, 8, 16), words(8, 3, 5))


def unet():  # keras.io: vision/oxford_pets_image_segmentation
    x = Input((1, 8, 8))
    top = Convolution(4, 3, padding="same")(x)
    low = Convolution(8, 3, padding="same")(MaxPooling(2)(top))
    up = Concatenate(axis=1)(UpSampling(2)(low), top)
    y = Convolution(2, 1, activation="linear")(Convolution(4, 3, padding="same")(up))
    loss = npdl.objectives.SoftmaxCategoricalCrossEntropy(from_logits=True, axis=1)
    pixels = images(8, 1, 8, 8)
    return Model(x, y), loss, (pixels, (pixels[:, 0] > 0).astype(int))


def residual_network():  # kuangliu/pytorch-cifar: resnet
    def block(filters):
        return Residual(
            [
                Convolution(filters, 3, padding="same", activation=None, use_bias=False),
                BatchNormalization(),
                ReLU(),
                Convolution(filters, 3, padding="same", activation=None, use_bias=False),
                BatchNormalization(),
            ],
            activation="relu",
        )

    layers = [Convolution(8, 3, padding="same"), block(8), block(8), GlobalMeanPooling()]
    return Model([*layers, Softmax(2)]), "scce", (images(8, 3, 8, 8), LABELS)


def kim():  # Kim (2014), Shawn1993/cnn-text-classification-pytorch
    x = Input((9,))
    table = Embedding(20, 8)(x)
    towers = [GlobalMaxPooling()(Convolution1D(4, k)(table)) for k in (2, 3, 4)]
    return Model(x, Softmax(2)(Dropout(0.2)(Concatenate()(towers)))), "scce", (words(8, 9), LABELS)


def temporal():  # locuslab/TCN
    layers = [
        Residual(
            [Convolution1D(8, 3, padding="causal", dilation=2**k) for _ in range(2)],
            shortcut=None if k else Convolution1D(8, 1, activation=None),
            activation="relu",
        )
        for k in range(3)
    ]
    x = images(8, 16, 2)
    return Model([*layers, Linear(1)]), "mse", (x, x.cumsum(1)[..., :1])


def siamese():  # pytorch/examples: siamese_network
    a, b = Input((1, 8, 8)), Input((1, 8, 8))
    tower = Sequence([Convolution(4, 3), MaxPooling(2), Flatten(), Dense(8)])
    y = Dense(1, activation="sigmoid")(Concatenate()(tower(a), tower(b)))
    return Model([a, b], y), "bce", ([images(8, 1, 8, 8), images(8, 1, 8, 8)], LABELS)


def conv_then_rnn():  # SeanNaren/deepspeech.pytorch
    layers = [
        Convolution(4, (5, 3), stride=(2, 2), padding="same", activation=None),
        BatchNormalization(),
        Activation("hard_tanh"),
        Permute((3, 1, 2)),
        Reshape((8, -1)),
        Bidirectional(GRU(6, return_sequences=True), merge_mode="sum"),
        TimeDistributed(Softmax(6)),
    ]
    return Model(layers), npdl.objectives.CTC(), (images(8, 1, 8, 16), words(8, 3, 5))


SCRIPTS = [
    *(bidirectional_lstm, addition, seq2seq, series_classification, series_anomalies),
    *(word_embeddings, image_autoencoder, xception, captcha, unet, residual_network, kim),
    *(temporal, siamese, conv_then_rnn),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_learns_and_comes_back_from_a_file(script, tmp_path):
    npdl.utils.set_seed(0)
    model, loss, (x, y) = script()
    model.compile(loss, npdl.optimizers.Adam(lr=0.01), metrics=[])
    before = model.evaluate(x, y).loss
    model.fit(x, y, epochs=15, batch_size=8, verbose=0)
    assert model.evaluate(x, y).loss < before
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(npdl.load_model(tmp_path / "m").predict(x), model.predict(x))


def test_a_stateful_network_carries_its_state_from_batch_to_batch():  # keras: lstm_stateful
    npdl.utils.set_seed(0)
    whole = Model([LSTM(4, n_in=2, return_sequences=True)])
    parts = Model([LSTM(4, n_in=2, return_sequences=True, stateful=True)])
    for model in (whole, parts):
        model.compile("mse")
    parts.set_weights(whole.get_weights())
    x = images(3, 10, 2)
    want = whole.predict(x)
    for _ in range(2):
        np.testing.assert_array_equal(parts.predict(x[:, :4]), want[:, :4])
        np.testing.assert_array_equal(parts.predict(x[:, 4:]), want[:, 4:])
        parts.reset_states()


def test_a_frozen_base_under_a_new_head():  # keras 2: mnist_transfer_cnn
    x, y = images(8, 1, 8, 8), np.arange(8) % 4
    base = Model([Convolution(4, 3), MaxPooling(2), Flatten()], name="base")
    first = Model([base, Dense(8), Softmax(4)])
    first.compile("scce", "adam")
    first.fit(x, y, epochs=1, verbose=0)
    base.trainable = False
    weights = base.get_weights()
    second = Model([base, Dense(8), Softmax(2)])
    second.compile("scce", "adam")
    second.fit(x, y % 2, epochs=2, verbose=0)
    np.testing.assert_equal(base.get_weights(), weights)
    assert second.predict(x).shape == (8, 2)
