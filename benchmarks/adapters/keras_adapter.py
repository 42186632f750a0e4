"""Keras on TensorFlow: its layers, the step as one ``tf.function`` (less than ``fit`` costs)."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, Arrays, reorder

ORDER = GATE_ORDER["keras"]
RECURRENT = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}


class Position(keras.layers.Layer):
    """A learned vector is added to each step."""

    def build(self, shape):
        self.positions = self.add_weight(shape=shape[1:])

    def call(self, x):
        return x + self.positions


class SelfAttention(keras.layers.Layer):
    """Keras's attention of one sequence."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(heads, size)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


class Network:
    """Builds the model by calls of layers, and keeps those of each leaf.

    Images are N H W C, which is all that runs on a CPU.
    """

    def __init__(self, workload: wl.Workload, shape: tuple[int, ...]) -> None:
        self._leaves = workload.leaves()
        self.parts: list[list[keras.layers.Layer]] = []
        dtype = "int32" if workload.tokens else "float32"
        x = keras.Input(shape, dtype=dtype)
        self.model = keras.Model(x, self._chain(workload.layers, x))

    def _chain(self, chain: tuple[wl.Layer, ...], x):
        for layer in chain:
            match layer:
                case wl.Residual(body, shortcut, act):
                    y = self._chain(body, x)
                    x = keras.layers.Add()([y, self._chain(shortcut, x)])
                    x = x if act == "linear" else keras.layers.Activation(act)(x)
                case wl.Parallel(branches):
                    x = keras.layers.Concatenate()([self._chain(one, x) for one in branches])
                case wl.Translator():
                    next(self._leaves)
                    x = self._translated(layer, x)
                case _:
                    made = build(layer, next(self._leaves)[1])
                    self.parts.append(made)
                    for one in made:
                        x = one(x)
        return x

    def _translated(self, layer: wl.Translator, x):
        tables = [keras.layers.Embedding(layer.vocabulary, layer.width) for _ in "st"]
        encoder = keras.layers.GRU(layer.units, return_sequences=True, return_state=True)
        decoder = keras.layers.GRU(layer.units, return_sequences=True)
        maps = [keras.layers.Dense(layer.units, use_bias=False) for _ in "qk"]
        attention = keras.layers.AdditiveAttention()
        encoded, last = encoder(tables[0](x[:, 0]))
        decoded = decoder(tables[1](x[:, 1]), initial_state=last)
        read = attention([maps[0](decoded), encoded, maps[1](encoded)])
        self.parts.append([*tables, encoder, decoder, *maps, attention])
        return keras.layers.Concatenate()([decoded, read])


def build(layer: wl.Layer, shape: tuple[int, ...]) -> list[keras.layers.Layer]:
    """The layers of Keras for a leaf that is not a `Translator`."""
    k, act = keras.layers, getattr(layer, "act", None)
    if act in ("softmax", "sigmoid"):  # the loss takes the logits
        act = None
    match layer:
        case wl.Dense(units):
            return [k.Dense(units, act)]
        case wl.Conv(filters, size, _, same, stride, groups, bias):
            # "same" has its zeros elsewhere where there is a stride and an odd window
            padded = same and stride > 1 and size % 2 == 1 and size > 1
            how = {"strides": stride, "use_bias": bias, "activation": act}
            how["padding"] = "same" if same and not padded else "valid"
            if groups == shape[0] == filters > 1:
                conv = k.DepthwiseConv2D(size, **how)
            else:
                conv = k.Conv2D(filters, size, groups=groups, **how)
            return [k.ZeroPadding2D(layer.pad), conv] if padded else [conv]
        case wl.Conv1(filters, size, _, causal, dilation):
            padding = "causal" if causal else "valid"
            how = {"padding": padding, "dilation_rate": dilation, "activation": act}
            return [k.Conv1D(filters, size, **how)]
        case wl.Deconv(filters, size, _, stride):
            return [k.Conv2DTranspose(filters, size, stride, padding="same", activation=act)]
        case wl.Pool(kind, size):
            return [{"max": k.MaxPooling2D, "mean": k.AveragePooling2D}[kind](size)]
        case wl.GlobalPool(kind):
            name = "Max" if kind == "max" else "Average"
            axes = "2D" if len(shape) == 3 else "1D"
            return [getattr(k, f"Global{name}Pooling{axes}")()]
        case wl.Flatten():
            return [k.Permute((3, 1, 2)), k.Flatten()]
        case wl.Rnn(kind, units, every):
            more = {"reset_after": False} if kind == "gru" else {}
            return [RECURRENT[kind](units, return_sequences=every, **more)]
        case wl.BiLstm(units, depth):
            halves = (k.LSTM(units, return_sequences=True) for _ in range(depth))
            return [k.Bidirectional(half) for half in halves]
        case wl.Embedding(vocabulary, width, masks):
            return [k.Embedding(vocabulary, width, mask_zero=masks)]
        case wl.Position():
            return [Position()]
        case wl.SelfAttention(heads):
            return [SelfAttention(heads, shape[-1] // heads)]
        case wl.LayerNorm():
            return [k.LayerNormalization(epsilon=layer.epsilon)]
        case wl.BatchNorm():
            norm = k.BatchNormalization(momentum=0.9, epsilon=layer.epsilon)
            return [norm] if act == "linear" else [norm, k.Activation(act)]
    raise TypeError(layer)


def converted(layer: wl.Layer, arrays: Arrays, n_in: int) -> list[np.ndarray]:
    """The weights of a leaf in Keras's layout."""

    def cell(w: np.ndarray, kind: str, n_in: int, n_biases: int = 1) -> list[np.ndarray]:
        w = reorder(w, ORDER[kind])
        bias = w[0] if n_biases == 1 else w[:n_biases]
        return [w[n_biases : n_biases + n_in], w[n_biases + n_in :], bias]

    match layer:
        case wl.Conv(groups=groups):
            order = (2, 3, 1, 0) if groups == 1 else (2, 3, 0, 1)
            return [arrays[0].transpose(order), *arrays[1:]]
        case wl.Conv1():
            return [arrays[0].transpose(2, 1, 0), arrays[1]]
        case wl.Deconv():
            return [arrays[0].transpose(2, 3, 1, 0), arrays[1]]
        case wl.Rnn(kind):
            return cell(arrays[0], kind, n_in)
        case wl.BiLstm(units):
            return [a for w in arrays for a in cell(w, "lstm", len(w) - 1 - units)]
        case wl.Translator(_, width):
            source, target, *cells, query, key, scale = arrays
            parts = [a for w in cells for a in cell(w, "gru", width, 2)]
            return [source, target, *parts, query, key, scale]
        case wl.SelfAttention(heads):
            *inputs, output, biases = arrays
            pairs = zip(inputs, biases)
            found = [a.reshape(*a.shape[:-1], heads, -1) for pair in pairs for a in pair]
            return [*found, output.reshape(heads, -1, output.shape[1]), biases[3]]
    return list(arrays)


class KerasAdapter(Adapter):
    def version(self) -> str:
        return f"Keras {keras.__version__} on TensorFlow {tf.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        keras.backend.clear_session()
        x, y = workload.data()
        self.x = tf.constant(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
        self.y = tf.constant(y)
        network = Network(workload, self.x.shape[1:])
        net = network.model
        for part, (spec, shape, *_), arrays in zip(
            network.parts, workload.leaves(), workload.weights(), strict=True
        ):
            values = iter(converted(spec, arrays, shape[-1]))
            for layer in part:
                layer.set_weights([next(values) for _ in layer.weights])
        criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if workload.autoencoder:
            criterion, self.y = keras.losses.BinaryCrossentropy(from_logits=True), self.x
        self.images = workload.autoencoder
        to_probabilities = tf.nn.sigmoid if workload.autoencoder else tf.nn.softmax
        optimizer = keras.optimizers.SGD(wl.LEARNING_RATE)
        optimizer.build(net.trainable_variables)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = criterion(y, net(x, training=True))  # a mask comes with the output
            grads = tape.gradient(loss, net.trainable_variables)
            optimizer.apply(grads, net.trainable_variables)
            return loss

        self._step = step
        self._predict = tf.function(lambda x: to_probabilities(net(x, training=False)))

    def step(self) -> float:
        return float(self._step(self.x, self.y))

    def predict(self) -> np.ndarray:
        return self._predict(self.x).numpy()

    def outputs(self) -> np.ndarray:
        y = self.predict()
        return y.transpose(0, 3, 1, 2) if self.images else y


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter, once TensorFlow is told its threads."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return KerasAdapter(options, threads)
