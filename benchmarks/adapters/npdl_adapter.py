"""npdl, on the backend that ``NPDL_BACKEND`` names: its layers, `Model` and the loop's own step."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks import workloads as wl
from benchmarks.adapters import Adapter, Weights
from npdl import _ext, layers
from npdl._version import __version__
from npdl.callbacks import LambdaCallback
from npdl.layers import Input
from npdl.model import Model
from npdl.objectives import BinaryCrossEntropy, SoftmaxCategoricalCrossEntropy
from npdl.optimizers import SGD
from npdl.training import train_step


def build(layer: wl.Layer, shape: tuple[int, ...]) -> list[Any]:
    """The layers of npdl for a leaf that is not a `Translator`."""
    match layer:
        case wl.Dense(units, act):
            return [layers.Dense(units, shape[-1], activation=act)]
        case wl.Conv(filters, size, act, _, stride, groups, bias):
            # for an even window with a stride, "same" would be the same zeros
            how = {"stride": stride, "activation": act, "padding": layer.pad, "use_bias": bias}
            if groups == shape[0] == filters > 1:
                return [layers.DepthwiseConvolution(size, input_shape=shape, **how)]
            return [layers.Convolution(filters, size, shape, groups=groups, **how)]
        case wl.Conv1(filters, size, act, causal, dilation):
            padding = "causal" if causal else "valid"
            form = layers.Convolution1D
            return [form(filters, size, activation=act, padding=padding, dilation=dilation)]
        case wl.Deconv(filters, size, act, stride):
            form = layers.TransposedConvolution
            return [form(filters, size, stride=stride, activation=act, padding="same")]
        case wl.Pool(kind, size):
            return [{"max": layers.MaxPooling, "mean": layers.MeanPooling}[kind](size)]
        case wl.GlobalPool(kind):
            form = {"max": layers.GlobalMaxPooling, "mean": layers.GlobalMeanPooling}[kind]
            return [form()]
        case wl.Rnn(kind, units, every):
            form = {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}[kind]
            return [form(n_out=units, n_in=shape[-1], return_sequence=every)]
        case wl.BiLstm(units, depth):
            halves = (layers.LSTM(units, return_sequence=True) for _ in range(depth))
            return [layers.Bidirectional(half) for half in halves]
        case wl.Embedding(vocabulary, width, masks):
            return [layers.Embedding(vocabulary, width, mask_zero=masks)]
        case wl.Position():
            return [layers.PositionEmbedding(shape[0])]
        case wl.SelfAttention(heads):
            return [layers.MultiHeadAttention(heads, shape[-1] // heads)]
        case wl.LayerNorm():
            return [layers.LayerNormalization(layer.epsilon)]
        case wl.BatchNorm(act):
            norm = layers.BatchNormal(layer.epsilon, axis=1)
            return [norm] if act == "linear" else [norm, layers.Activation(act)]
    return [layers.Flatten()]


class Network:
    """A workload in npdl: the model, and the layers of each leaf."""

    def __init__(self, workload: wl.Workload) -> None:
        self._leaves = workload.leaves()
        self.parts: list[list[Any]] = []
        shape, first, rest = workload.input_shape, workload.layers[0], workload.layers
        inputs = [Input(shape)]
        value = inputs[0]
        if isinstance(first, wl.Translator):
            inputs = [Input(shape[1:]), Input(shape[1:])]
            value, rest = self._translator(first, *inputs), rest[1:]
        for layer in self._chain(rest):
            value = layer(value)
        self.model = Model(inputs, value)

    def _chain(self, chain: tuple[wl.Layer, ...]) -> list[Any]:
        made: list[Any] = []
        for layer in chain:
            match layer:
                case wl.Residual(body, shortcut, act):
                    parts = self._chain(body), self._chain(shortcut) or None
                    made.append(layers.Residual(*parts, act))
                case wl.Parallel(branches):
                    parts = [self._chain(branch) for branch in branches]
                    made.append(layers.Parallel(parts, axis=-1))
                case _:
                    self.parts.append(build(*next(self._leaves)[:2]))
                    made += self.parts[-1]
        return made

    def _translator(self, layer: wl.Translator, source: Any, target: Any) -> Any:
        next(self._leaves)
        units = layer.units
        tables = [layers.Embedding(layer.vocabulary, layer.width) for _ in "st"]
        how = {"return_sequence": True, "reset_after": True}
        cells = [layers.GRU(units, return_state=True, **how), layers.GRU(units, **how)]
        maps = [layers.Linear(units, use_bias=False) for _ in "qk"]
        attention = layers.Attention("additive")
        encoded, last = cells[0](tables[0](source))
        decoded = cells[1](tables[1](target), initial_state=last)
        read = attention(maps[0](decoded), encoded, maps[1](encoded))
        self.parts.append([*tables, *cells, *maps, attention])
        return layers.Concatenate(-1)(decoded, read)

    def load(self, weights: Weights) -> None:
        """Fill the parameters of each leaf, and the statistics of batch normalizations."""
        for part, arrays in zip(self.parts, weights, strict=True):
            places = [parameter for layer in part for parameter in layer.params]
            places += [
                statistic
                for layer in part
                if isinstance(layer, layers.BatchNormal)
                for statistic in (layer.running_mean, layer.running_var)
            ]
            if isinstance(part[0], layers.MultiHeadAttention):  # each bias behind its matrix
                places, arrays = places[0::2] + places[1::2], (*arrays[:4], *arrays[4])
            for place, array in zip(places, arrays, strict=True):
                place[...] = array


class NpdlAdapter(Adapter):
    def version(self) -> str:
        kernels = _ext.kernels()
        isa = f", {kernels.isa}" if kernels.isa else ""
        return f"npdl {__version__} ({kernels.backend}{isa}), NumPy {np.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        network = Network(workload)
        self.model, self.parts = network.model, network.parts
        loss: Any = SoftmaxCategoricalCrossEntropy()
        if workload.autoencoder:
            loss = BinaryCrossEntropy()
        self.model.compile(loss, SGD(lr=wl.LEARNING_RATE))
        network.load(workload.weights())
        x, self.y = workload.data()
        self.x: Any = (x[:, 0], x[:, 1]) if len(self.model.input_names) > 1 else x
        self._predict = self.model.predict
        if self.options.get("predictor"):
            self._predict = self.model.predictor()
        self._in_training = ExitStack()
        if mode == "train":  # as inside `fit`: the layers keep their buffers
            self._in_training.enter_context(self.model.training())

    def step(self) -> float:
        loss, _ = train_step(self.model, self.x, self.y)
        return loss

    def gradients(self) -> Weights:
        _, _, cache = self.model.loss_forward(self.x, self.y)
        self.model.loss_backward(cache)
        found = []
        for part in self.parts:
            grads = [grad for layer in part for grad in layer.grads]
            if isinstance(part[0], layers.MultiHeadAttention):
                grads = [*grads[0::2], np.stack(grads[1::2])]
            found.append(tuple(grads))
        return found

    def fit_overhead(self, seconds: float) -> dict[str, float]:
        """Time of a step, bare and in `fit` with its shuffling and accuracy; ms, minimum.

        A step of `fit` is an epoch divided by its steps. The bare steps take the same data from
        memory, batch by batch as it lies there. `start` is what a call of `fit` takes before its
        first epoch and after its last one.
        """
        clock = time.perf_counter
        rounds: list[tuple[float, float, float]] = []
        for _ in range(2):  # the first warms up
            start = clock()
            self.step()
            steps = max(2, int(0.1 * seconds / (clock() - start)))
        inputs = self.x if isinstance(self.x, tuple) else (self.x,)
        *x, y = (np.concatenate([a] * steps) for a in (*inputs, self.y))
        size = len(self.y)
        cuts = [slice(first, first + size) for first in range(0, len(y), size)]
        marks: list[float] = []

        def note(epoch: int, logs: Any) -> None:
            marks.append(clock())

        watch = LambdaCallback(on_epoch_begin=note, on_epoch_end=note)
        options: dict[str, Any] = {"batch_size": size, "max_iter": 3, "verbose": False}
        for _ in range(5):
            start = clock()
            for cut in cuts:
                part = [a[cut] for a in x]
                train_step(self.model, part[0] if len(part) == 1 else tuple(part), y[cut])
            bare = clock() - start
            self._in_training.close()
            marks.clear()
            start = clock()
            self.model.fit(x, y, callbacks=[watch], **options)
            outside = marks[0] - start + clock() - marks[-1]
            rounds.append((bare, np.diff(marks[::2]).min(), outside))
            self._in_training.enter_context(self.model.training())
        bare, fitted, begun = (1e3 * min(times) for times in zip(*rounds))
        return {"step": bare / steps, "fit": fitted / steps, "start": begun, "steps": steps}

    def neighbour(self, seconds: float) -> dict[str, float]:
        """Median time of a step, of NumPy's product and of both in turns, ms."""
        a = np.ones((300, 300), np.float32)
        out = np.empty_like(a)
        found = {}
        for name, calls in {
            "step": (self.step,),
            "matmul": (lambda: np.matmul(a, a, out=out),),
            "both": (self.step, lambda: np.matmul(a, a, out=out)),
        }.items():
            time.sleep(0.5)  # until the threads of the previous one sleep
            times: list[float] = []
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                for call in calls:
                    call()
                times.append(time.perf_counter() - start)
            found[name] = 1e3 * statistics.median(times)
        return found

    def predict(self) -> np.ndarray:
        return self._predict(self.x)


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter, once npdl is told its threads, where it has any."""
    if hasattr(_ext, "set_num_threads"):
        _ext.set_num_threads(threads)
    return NpdlAdapter(options, threads)
