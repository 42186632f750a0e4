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
from npdl.model import Model
from npdl.objectives import SoftmaxCategoricalCrossEntropy
from npdl.optimizers import SGD
from npdl.training import train_step


def build(layer: wl.Layer, shape: tuple[int, ...]) -> Any:
    """The layer of npdl."""
    match layer:
        case wl.Dense(units, act):
            return layers.Dense(units, shape[-1], activation=act)
        case wl.Conv(filters, size, act, same):
            padding = "same" if same else "valid"
            return layers.Convolution(filters, size, shape, activation=act, padding=padding)
        case wl.Pool(kind, size):
            return {"max": layers.MaxPooling, "mean": layers.MeanPooling}[kind](size)
        case wl.Rnn(kind, units, every):
            form = {"lstm": layers.LSTM, "gru": layers.GRU, "rnn": layers.SimpleRNN}[kind]
            return form(n_out=units, n_in=shape[-1], return_sequence=every)
    return layers.Flatten()


class NpdlAdapter(Adapter):
    def version(self) -> str:
        kernels = _ext.kernels()
        isa = f", {kernels.isa}" if kernels.isa else ""
        return f"npdl {__version__} ({kernels.backend}{isa}), NumPy {np.__version__}"

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        self.model = Model([build(layer, shape) for layer, shape, _ in workload.shapes()])
        self.model.compile(SoftmaxCategoricalCrossEntropy(), SGD(lr=wl.LEARNING_RATE))
        for layer, arrays in zip(self.model.layers, workload.weights(), strict=True):
            for parameter, array in zip(layer.params, arrays, strict=True):
                parameter[...] = array
        self.x, self.y = workload.data()
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
        return [tuple(layer.grads) for layer in self.model.layers]

    def fit_overhead(self, seconds: float) -> dict[str, float]:
        """Time of a step, bare and inside `fit` with its shuffling and accuracy; ms, minimum."""
        clock = time.perf_counter
        rounds: list[tuple[float, float]] = []
        for _ in range(2):  # the first warms up
            start = clock()
            self.step()
            steps = max(2, int(0.2 * seconds / (clock() - start)))
        x, y = (np.concatenate([a] * steps) for a in (self.x, self.y))
        for _ in range(5):
            start = clock()
            for _ in range(steps):
                self.step()
            bare = clock() - start
            self._in_training.close()
            start = clock()
            self.model.fit(x, y, max_iter=1, batch_size=len(self.x), verbose=False)
            rounds.append((bare, clock() - start))
            self._in_training.enter_context(self.model.training())
        bare, fitted = (1e3 * min(times) / steps for times in zip(*rounds))
        return {"step": bare, "fit": fitted, "steps": steps}

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
