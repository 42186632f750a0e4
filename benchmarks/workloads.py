"""The workloads, each defined once: layers, input shape, batch. Adapters build them.

Weights and data are drawn here, from a fixed seed, in npdl's layout, so that every library starts
from the same numbers:

    dense   w (D, U), b (U,)
    conv    w (F, C, K, K), b (F,)                     images N C H W
    rnn     w (1 + D + U, G*U): bias, input, state     gates  LSTM i f o g, GRU z r h
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Dense:
    """act(x w + b) on the last axis."""

    units: int
    act: str


@dataclass(frozen=True)
class Conv:
    """Square window, stride 1, bias, activation."""

    filters: int
    size: int
    act: str
    same: bool = False


@dataclass(frozen=True)
class Pool:
    """Square window that moves by its own size; `kind` is "max" or "mean"."""

    kind: str
    size: int = 2


@dataclass(frozen=True)
class Flatten:
    """Everything but the samples on one axis."""


@dataclass(frozen=True)
class Rnn:
    """`kind` is "lstm", "gru" or "rnn"; the output of every step, or of the last one."""

    kind: str
    units: int
    every: bool


Layer = Dense | Conv | Pool | Flatten | Rnn
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Workload:
    """One network with the shape of its input (without the samples) and its batch."""

    name: str
    title: str
    batch: int
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    predicts: bool = False

    def shapes(self) -> Iterator[tuple[Layer, tuple[int, ...], tuple[int, ...]]]:
        """Yield (layer, input shape, output shape) for each layer, without the samples."""
        shape = self.input_shape
        for layer in self.layers:
            out = _out_shape(layer, shape)
            yield layer, shape, out
            shape = out

    @property
    def per_step(self) -> bool:
        """Whether there is a label for every time step."""
        return any(isinstance(layer, Rnn) and layer.every for layer in self.layers)

    @property
    def kinds(self) -> set[str]:
        """The kinds of recurrent layers in it."""
        return {layer.kind for layer in self.layers if isinstance(layer, Rnn)}

    def weights(self, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
        """The arrays of each layer, () for one without any."""
        rng = np.random.default_rng(seed)
        return [_draw(rng, layer, shape) for layer, shape, _ in self.shapes()]

    def data(self, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Input, float32, and labels, int64 of shape (N,) or (N, T)."""
        rng = np.random.default_rng(seed)
        *_, (_, _, out) = self.shapes()
        x = rng.standard_normal((self.batch, *self.input_shape), dtype=np.float32)
        return x, rng.integers(0, out[-1], (self.batch, *out[:-1]))

    def flops(self, training: bool = True) -> float:
        """Multiplications and additions of the products: forward, and twice that backward.

        The gradient in the input of the first layer is not counted: it is not needed.
        """
        total = 0.0
        for i, (layer, shape, out) in enumerate(self.shapes()):
            x_part, h_part = _macs(layer, shape, out)
            total += 2 * (x_part * (3 if i else 2) + h_part * 3 if training else x_part + h_part)
        return total * self.batch


def _out_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    match layer:
        case Dense(units):
            return (*shape[:-1], units)
        case Conv(filters, size, _, same):
            return (filters, *((n if same else n - size + 1) for n in shape[1:]))
        case Pool(_, size):
            return (shape[0], *(n // size for n in shape[1:]))
        case Rnn(_, units, every):
            return (shape[0], units) if every else (units,)
    return (math.prod(shape),)


def _macs(layer: Layer, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds for one sample: those with the input, those with the recurrent state."""
    match layer:
        case Dense(units):
            return math.prod(shape) * units, 0
        case Conv(_, size):
            return math.prod(out) * shape[0] * size * size, 0
        case Rnn(kind, units):
            columns = GATES[kind] * units
            return math.prod(shape) * columns, shape[0] * units * columns
    return 0, 0


def _draw(rng, layer: Layer, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Glorot's uniform weights, and biases that are small but not zero."""

    def uniform(limit: float, *dims: int) -> np.ndarray:
        return rng.uniform(-limit, limit, dims).astype(np.float32)

    match layer:
        case Dense(units):
            return uniform(math.sqrt(6 / (shape[-1] + units)), shape[-1], units), uniform(
                0.1, units
            )
        case Conv(filters, size):
            fans = (shape[0] + filters) * size * size
            return uniform(math.sqrt(6 / fans), filters, shape[0], size, size), uniform(
                0.1, filters
            )
        case Rnn(kind, units):
            rows, columns = 1 + shape[-1] + units, GATES[kind] * units
            return (uniform(math.sqrt(3 / rows), rows, columns),)
    return ()


def _conv3(*filters: int) -> tuple[Conv, ...]:
    return tuple(Conv(f, 3, "relu", same=True) for f in filters)


def _sequence(kind: str, units: int, steps: int, every: bool, batch: int, predicts=False):
    title = f"{kind.upper() if kind != 'rnn' else 'SimpleRNN'} {units}, T {steps}, D 65, "
    title += "every output" if every else "last output"
    layers = (Rnn(kind, units, every), Dense(65, "softmax"))
    return Workload(f"{kind}{units}", title, batch, (steps, 65), layers, predicts)


_ALL = (
    Workload(
        "mlp784",
        "mlp 784-500-10",
        64,
        (784,),
        (Dense(500, "relu"), Dense(10, "softmax")),
        predicts=True,
    ),
    Workload("mlp64", "mlp 64-500-10", 64, (64,), (Dense(500, "relu"), Dense(10, "softmax"))),
    Workload(
        "lenet5",
        "lenet5 28x28, tanh, mean pool",
        64,
        (1, 28, 28),
        (
            Conv(6, 5, "tanh", same=True),
            Pool("mean"),
            Conv(16, 5, "tanh"),
            Pool("mean"),
            Flatten(),
            Dense(120, "tanh"),
            Dense(84, "tanh"),
            Dense(10, "softmax"),
        ),
        predicts=True,
    ),
    Workload(
        "mnistcnn",
        "mnistcnn: conv 32, 64, pool 2, dense 128, 10",
        64,
        (1, 28, 28),
        (
            Conv(32, 3, "relu"),
            Conv(64, 3, "relu"),
            Pool("max"),
            Flatten(),
            Dense(128, "relu"),
            Dense(10, "softmax"),
        ),
        predicts=True,
    ),
    Workload(
        "vgg",
        "vgg 3x32x32: conv 32,32,p,64,64,p,128,p, dense 256, 10",
        64,
        (3, 32, 32),
        (
            *_conv3(32, 32),
            Pool("max"),
            *_conv3(64, 64),
            Pool("max"),
            *_conv3(128),
            Pool("max"),
            Flatten(),
            Dense(256, "relu"),
            Dense(10, "softmax"),
        ),
        predicts=True,
    ),
    _sequence("lstm", 300, 30, every=False, batch=40, predicts=True),
    _sequence("lstm", 256, 64, every=True, batch=32, predicts=True),
    _sequence("lstm", 128, 100, every=True, batch=16),
    _sequence("lstm", 512, 64, every=True, batch=64),
    _sequence("gru", 128, 50, every=False, batch=32, predicts=True),
    _sequence("rnn", 128, 50, every=True, batch=32),
)

WORKLOADS = {workload.name: workload for workload in _ALL}


def variant(
    name: str,
    batch: int | None = None,
    shape: Sequence[int] | None = None,
    smooth: bool = False,
) -> Workload:
    """A workload by name, with another batch or input shape where one is given.

    A `smooth` one has tanh for ReLU and the mean for max pooling. At a kink, a difference in the
    last bit may send a whole gradient elsewhere, so only smooth networks can be compared closely.
    """
    workload = WORKLOADS[name]
    layers = workload.layers
    if smooth:
        layers = tuple(map(_smooth, layers))
    return replace(
        workload,
        batch=batch or workload.batch,
        input_shape=tuple(shape or workload.input_shape),
        layers=layers,
    )


def _smooth(layer: Layer) -> Layer:
    match layer:
        case Pool("max", size):
            return Pool("mean", size)
        case Dense(act="relu") | Conv(act="relu"):
            return replace(layer, act="tanh")
    return layer


#: Learning rate of the plain SGD step at the end of every training step.
LEARNING_RATE = 0.01
