"""Keras on TensorFlow: its layers, the step as one ``tf.function`` (less than ``fit`` costs)."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, reorder

ORDER = GATE_ORDER["keras"]
RECURRENT = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}


def build(workload: wl.Workload) -> list[keras.layers.Layer]:
    """One layer for each of the workload; images are N H W C, which is all that runs on a CPU."""
    layers: list[keras.layers.Layer] = []
    for layer in workload.layers:
        match layer:
            case wl.Dense(units, act):
                linear = act == "softmax"  # the loss takes the logits
                layers.append(keras.layers.Dense(units, None if linear else act))
            case wl.Conv(filters, size, act, same):
                padding = "same" if same else "valid"
                layers.append(keras.layers.Conv2D(filters, size, padding=padding, activation=act))
            case wl.Pool(kind, size):
                form = {"max": keras.layers.MaxPooling2D, "mean": keras.layers.AveragePooling2D}
                layers.append(form[kind](size))
            case wl.Flatten():
                layers.append(
                    keras.Sequential([keras.layers.Permute((3, 1, 2)), keras.layers.Flatten()])
                )
            case wl.Rnn(kind, units, every):
                more = {"reset_after": False} if kind == "gru" else {}
                layers.append(RECURRENT[kind](units, return_sequences=every, **more))
    return layers


def converted(layer: wl.Layer, arrays: tuple[np.ndarray, ...], n_in: int) -> list[np.ndarray]:
    """The weights of a layer in Keras's layout."""
    match layer:
        case wl.Conv():
            return [arrays[0].transpose(2, 3, 1, 0), arrays[1]]
        case wl.Rnn(kind):
            w = reorder(arrays[0], ORDER[kind])
            return [w[1 : 1 + n_in], w[1 + n_in :], w[0]]
    return list(arrays)


class KerasAdapter(Adapter):
    def version(self) -> str:
        return f"Keras {keras.__version__} on TensorFlow {tf.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        keras.backend.clear_session()
        x, y = workload.data()
        self.x = tf.constant(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
        self.y = tf.constant(y)
        layers = build(workload)
        net = keras.Sequential([keras.Input(self.x.shape[1:]), *layers])
        for layer, (spec, shape, _), arrays in zip(layers, workload.shapes(), workload.weights()):
            if arrays:
                layer.set_weights(converted(spec, arrays, shape[-1]))
        criterion = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.SGD(wl.LEARNING_RATE)
        optimizer.build(net.trainable_variables)

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = criterion(y, net(x, training=True))
            grads = tape.gradient(loss, net.trainable_variables)
            optimizer.apply(grads, net.trainable_variables)
            return loss

        self._step = step
        self._predict = tf.function(lambda x: tf.nn.softmax(net(x, training=False)))

    def step(self) -> float:
        return float(self._step(self.x, self.y))

    def predict(self) -> np.ndarray:
        return self._predict(self.x).numpy()


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter, once TensorFlow is told its threads."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return KerasAdapter(options, threads)
