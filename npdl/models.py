"""Well-known models, ready to compile.

Each function returns a new `Model`; compile it, and train it::

    model = npdl.models.lenet5()
    model.compile("scce", "adam")

They are written to be read, and to be copied for networks of your own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from npdl.layers import (
    GRU,
    LSTM,
    Attention,
    BatchNormal,
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
    Input,
    Layer,
    LayerNormalization,
    MaxPooling,
    MeanPooling,
    MultiHeadAttention,
    Parallel,
    PositionEmbedding,
    ReLU,
    Reshape,
    Residual,
    Softmax,
    TransposedConvolution,
    UpSampling,
)
from npdl.layers.node import Value
from npdl.model import Model

__all__ = [
    "autoencoder",
    "char_rnn",
    "lenet5",
    "mlp",
    "resnet",
    "seq2seq",
    "tagger",
    "text_cnn",
    "transformer_encoder",
    "unet",
    "vgg",
]


def mlp(
    n_in: int, n_classes: int, hidden: Sequence[int] = (128, 64), *, dropout: float = 0.0
) -> Model:
    """Multilayer perceptron: a chain of fully connected layers.

    Parameters
    ----------
    n_in : int
        Numbers of a sample; the input has shape (N, n_in).
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    hidden : sequence of int
        Units of each hidden layer.
    dropout : float, keyword-only
        Behind each hidden layer.
    """
    model = Model()
    for units in hidden:
        model.add(Dense(units, n_in, init="he_uniform", activation="relu"))
        model.add(Dropout(dropout))
        n_in = units
    model.add(Softmax(n_classes, n_in))
    return model


def lenet5(input_shape: tuple[int, int, int] = (1, 28, 28), n_classes: int = 10) -> Model:
    """LeNet-5 (LeCun et al. 1998), with a softmax at its end.

    Parameters
    ----------
    input_shape : tuple
        Channels, height and width; the images have shape ``(N, *input_shape)``.
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    """
    return Model(
        [
            Convolution(6, 5, input_shape=(None, *input_shape), padding="same", activation="tanh"),
            MeanPooling(2),
            Convolution(16, 5, activation="tanh"),
            MeanPooling(2),
            Flatten(),
            Dense(120, activation="tanh"),
            Dense(84, activation="tanh"),
            Softmax(n_classes),
        ]
    )


def vgg(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    n_classes: int = 10,
    widths: Sequence[int] = (32, 64, 128),
    *,
    dropout: float = 0.5,
) -> Model:
    """Pairs of 3 x 3 convolutions, each pair pooled (Simonyan and Zisserman 2015).

    Parameters
    ----------
    input_shape : tuple
        Channels, height and width; the images have shape ``(N, *input_shape)``.
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    widths : sequence of int
        Filters of each pair; each halves height and width.
    dropout : float, keyword-only
        Before the last layer.
    """
    value = image = Input(input_shape)
    for width in widths:
        for _ in range(2):
            value = Convolution(width, 3, padding="same", init="he_normal")(value)
        value = MaxPooling(2)(value)
    value = Dense(4 * widths[-1], init="he_normal", activation="relu")(Flatten()(value))
    return Model(image, Softmax(n_classes)(Dropout(dropout)(value)))


def resnet(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    n_classes: int = 10,
    widths: Sequence[int] = (16, 32, 64),
    *,
    blocks: int = 1,
) -> Model:
    """Residual network (He et al. 2016): with ``blocks=1`` ResNet-8, with 3 ResNet-20.

    Parameters
    ----------
    input_shape : tuple
        Channels, height and width; the images have shape ``(N, *input_shape)``.
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    widths : sequence of int
        Filters of each stage; each but the first halves height and width.
    blocks : int, keyword-only
        Number of blocks in a stage, each with two convolutions.
    """

    def convolved(width: int, size: int, stride: int = 1) -> list[Layer]:
        options: dict[str, Any] = {"padding": "same", "activation": "linear", "use_bias": False}
        return [
            Convolution(width, size, stride=stride, init="he_normal", **options),
            BatchNormal(axis=1),
        ]

    layers = [*convolved(widths[0], 3), ReLU()]
    for i, width in enumerate(widths):
        for j in range(blocks):
            stride = 2 if i and not j else 1
            body = [*convolved(width, 3, stride), ReLU(), *convolved(width, 3)]
            shortcut = convolved(width, 1, stride) if stride > 1 else None
            layers.append(Residual(body, shortcut, "relu"))
    value = image = Input(input_shape)
    for layer in [*layers, GlobalMeanPooling(), Softmax(n_classes)]:
        value = layer(value)
    return Model(image, value)


def text_cnn(
    n_words: int,
    n_classes: int,
    *,
    width: int = 100,
    filters: int = 100,
    sizes: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
) -> Model:
    """Convolutions over sentences, of which the largest value counts (Kim 2014).

    Parameters
    ----------
    n_words : int
        Size of the vocabulary. The input holds word numbers, shape (N, T), with T at least the
        largest of `sizes`.
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    width : int, keyword-only
        Size of the word vectors.
    filters : int, keyword-only
        For each size.
    sizes : sequence of int, keyword-only
        How many words a filter sees.
    dropout : float, keyword-only
        Before the last layer.
    """
    branches = [[Convolution1D(filters, size), GlobalMaxPooling()] for size in sizes]
    words = Input((None,))
    found = Parallel(branches)(Embedding(input_size=n_words, n_out=width)(words))
    return Model(words, Softmax(n_classes)(Dropout(dropout)(found)))


def char_rnn(n_chars: int, *, width: int = 32, units: int = 128, layers: int = 1) -> Model:
    """Language model of characters: at each step the probabilities of the next one.

    Parameters
    ----------
    n_chars : int
        Size of the alphabet. The input holds character numbers, shape (N, T); the output has
        shape (N, T, n_chars).
    width : int, keyword-only
        Size of the character vectors.
    units, layers : int, keyword-only
        Size and number of the LSTM layers.
    """
    model = Model([Embedding(input_size=n_chars, n_out=width)])
    for _ in range(layers):
        model.add(LSTM(units, return_sequence=True))
    model.add(Softmax(n_chars))
    return model


def tagger(
    n_words: int, n_tags: int, *, width: int = 64, units: int = 64, layers: int = 1
) -> Model:
    """Tags for the words of sentences, by LSTMs in both directions.

    Parameters
    ----------
    n_words : int
        Size of the vocabulary. The input holds word numbers, shape (N, T), 0 for padding.
    n_tags : int
        The output is their probabilities, shape (N, T, n_tags).
    width : int, keyword-only
        Size of the word vectors.
    units, layers : int, keyword-only
        Size of each direction, and number of the layers.
    """
    model = Model([Embedding(input_size=n_words, n_out=width, mask_zero=True)])
    for _ in range(layers):
        model.add(Bidirectional(LSTM(units, return_sequence=True)))
    model.add(Softmax(n_tags))
    return model


def seq2seq(n_source: int, n_target: int, *, width: int = 64, units: int = 128) -> Model:
    """Encoder and decoder with additive attention (Bahdanau et al. 2015).

    It has two inputs, ``source`` and ``target``: word numbers, shapes (N, TS) and (N, TT), 0 for
    padding. For each step of the target it gives the probabilities of the next word, shape
    (N, TT, n_target); so the target begins with a word that stands for the start.

    Parameters
    ----------
    n_source, n_target : int
        Sizes of the vocabularies.
    width : int, keyword-only
        Size of the word vectors.
    units : int, keyword-only
        Number of units of encoder and decoder.
    """
    source, target = Input((None,), name="source"), Input((None,), name="target")
    read = Embedding(input_size=n_source, n_out=width, mask_zero=True)(source)
    read, state = GRU(units, return_sequence=True, return_state=True)(read)
    written = Embedding(input_size=n_target, n_out=width, mask_zero=True)(target)
    written = GRU(units, return_sequence=True)(written, initial_state=state)
    looked_up = Attention("additive")(written, read)
    both = Dense(units)(Concatenate(axis=2)(written, looked_up))
    return Model([source, target], Softmax(n_target)(both))


def autoencoder(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    code: int = 32,
    widths: Sequence[int] = (16, 32),
) -> Model:
    """Convolutions down to a short code, and transposed ones back to the image.

    Parameters
    ----------
    input_shape : tuple
        Channels, height and width, these divisible by ``2 ** len(widths)``. The images have shape
        ``(N, *input_shape)`` and values in [0, 1], and so has the output.
    code : int
        Numbers that an image becomes.
    widths : sequence of int
        Filters of each convolution; each halves height and width.
    """
    value = image = Input(input_shape)
    for width in widths:
        value = Convolution(width, 3, stride=2, padding="same")(value)
    small: Any = value.shape[1:]
    value = Dense(code, activation="linear")(Flatten()(value))
    value = Reshape(small)(Dense(math.prod(small), activation="relu")(value))
    for width in widths[-2::-1]:
        value = TransposedConvolution(width, 3, stride=2, padding="same")(value)
    last: dict[str, Any] = {"stride": 2, "padding": "same", "activation": "sigmoid"}
    value = TransposedConvolution(input_shape[0], 3, **last)(value)
    return Model(image, value)


def unet(
    input_shape: tuple[int, int, int] = (1, 64, 64),
    n_classes: int = 2,
    widths: Sequence[int] = (16, 32, 64),
) -> Model:
    """U-Net: a class for each pixel (Ronneberger et al. 2015).

    Parameters
    ----------
    input_shape : tuple
        Channels, height and width, these divisible by ``2 ** (len(widths) - 1)``.
    n_classes : int
        The output is their probabilities, shape (N, n_classes, height, width).
    widths : sequence of int
        Filters on the way down; each but the last is pooled.
    """

    def twice(width: int, value: Value) -> Value:
        for _ in range(2):
            value = Convolution(width, 3, padding="same", init="he_normal")(value)
        return value

    image = Input(input_shape)
    value, kept = twice(widths[0], image), []
    for width in widths[1:]:
        kept.append(value)
        value = twice(width, MaxPooling(2)(value))
    for width in widths[-2::-1]:
        value = twice(width, Concatenate(axis=1)(UpSampling(2)(value), kept.pop()))
    softmax = {"name": "softmax", "axis": 1}
    return Model(image, Convolution(n_classes, 1, activation=softmax)(value))


def transformer_encoder(
    n_words: int,
    n_classes: int,
    length: int,
    *,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    dropout: float = 0.1,
) -> Model:
    """Encoder of a transformer (Vaswani et al. 2017), normalized before each part.

    Parameters
    ----------
    n_words : int
        Size of the vocabulary. The input holds word numbers, shape (N, T), 0 for padding.
    n_classes : int
        The output is their probabilities, shape (N, n_classes).
    length : int
        The most words that a sample may have.
    width : int, keyword-only
        Size of the word vectors, a multiple of `heads`.
    heads, blocks : int, keyword-only
        Heads of each attention, and number of blocks.
    dropout : float, keyword-only
        Behind each part.
    """
    words = Input((None,))
    value = PositionEmbedding(length)(
        Embedding(input_size=n_words, n_out=width, mask_zero=True)(words)
    )
    for _ in range(blocks):
        attend = [LayerNormalization(), MultiHeadAttention(heads, width // heads)]
        feed = [
            LayerNormalization(),
            Dense(4 * width, activation="gelu"),
            Dense(width, activation="linear"),
        ]
        value = Residual([*attend, Dropout(dropout)])(value)
        value = Residual([*feed, Dropout(dropout)])(value)
    value = GlobalMeanPooling()(LayerNormalization()(value))
    return Model(words, Softmax(n_classes)(value))
