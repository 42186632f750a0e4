"""The layers that workloads are made of: shapes, weights and multiply-adds of each.

A leaf has weights, or none; `Residual` and `Parallel` hold chains of layers. Arrays are in npdl's
layout:

    dense   w (D, U), b (U,)
    conv    w (F, C / groups, K, K), b (F,)            images N C H W
    conv1   w (F, D, K), b (F,)                        sequences N T D
    deconv  w (C, F, K, K), b (F,)
    rnn     w (1 + D + U, G*U): bias, input, state     gates  LSTM i f o g, GRU z r h
    norm    gamma, beta, and of a batch normalization the running mean and variance (C,)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

Shape = tuple[int, ...]
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Dense:
    """act(x w + b) on the last axis."""

    units: int
    act: str


@dataclass(frozen=True)
class Conv:
    """Square window, activation; `same` has (size - 1) // 2 zeros on every side."""

    filters: int
    size: int
    act: str
    same: bool = False
    stride: int = 1
    groups: int = 1
    bias: bool = True

    @property
    def pad(self) -> int:
        """Zeros on every side."""
        return (self.size - 1) // 2 if self.same else 0


@dataclass(frozen=True)
class Conv1:
    """Convolution over the steps; `causal` has all zeros before the first step, else none."""

    filters: int
    size: int
    act: str
    causal: bool = False
    dilation: int = 1

    @property
    def before(self) -> int:
        """Zeros before the first step."""
        return (self.size - 1) * self.dilation if self.causal else 0


@dataclass(frozen=True)
class Deconv:
    """Transposed convolution to `stride` times the size, for an even window."""

    filters: int
    size: int
    act: str
    stride: int

    @property
    def pad(self) -> int:
        """What is cut off from every side of the output."""
        return (self.size - self.stride) // 2


@dataclass(frozen=True)
class Pool:
    """Square window that moves by its own size; `kind` is "max" or "mean"."""

    kind: str
    size: int = 2


@dataclass(frozen=True)
class GlobalPool:
    """The maximum or mean over all pixels, or over all steps."""

    kind: str


@dataclass(frozen=True)
class Flatten:
    """Everything but the samples on one axis."""


@dataclass(frozen=True)
class Rnn:
    """`kind` is "lstm", "gru" or "rnn"; the output of every step, or of the last one."""

    kind: str
    units: int
    every: bool


@dataclass(frozen=True)
class BiLstm:
    """`depth` LSTMs in both directions on top of each other; both outputs of every step.

    Steps of token 0 are masked. Two arrays for each, forward and backward.
    """

    units: int
    depth: int


@dataclass(frozen=True)
class Translator:
    """Encoder and decoder, both a GRU on embedded tokens, and additive attention.

    From two rows of tokens, source and target. Every state d of the decoder, which starts from the
    last state of the encoder, reads from the states e of the encoder, by the softmax of
    v · tanh(d Wq + e Wk). The output of a step is d with the result of the attention.

    The GRUs reset after the product, as those of PyTorch and Keras do, with two biases.
    """

    vocabulary: int
    width: int
    units: int


@dataclass(frozen=True)
class Embedding:
    """A row of a table for each token; with `masks` token 0 is padding."""

    vocabulary: int
    width: int
    masks: bool = False


@dataclass(frozen=True)
class Position:
    """A learned vector is added to each step."""


@dataclass(frozen=True)
class SelfAttention:
    """Multi-head attention of a sequence to itself.

    Four matrices, for query, key, value and output; their biases are one array, since the gradient
    in that of the keys is 0 up to rounding.
    """

    heads: int


@dataclass(frozen=True)
class LayerNorm:
    """Over the last axis."""

    epsilon: float = 1e-5


@dataclass(frozen=True)
class BatchNorm:
    """Of each channel of an image, then an activation."""

    act: str
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Residual:
    """act(body(x) + shortcut(x)); without a shortcut, x itself."""

    body: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    act: str = "linear"


@dataclass(frozen=True)
class Parallel:
    """Branches on the same input, their outputs one behind the other on the last axis."""

    branches: tuple[tuple[Layer, ...], ...]


Layer = (
    Dense
    | Conv
    | Conv1
    | Deconv
    | Pool
    | GlobalPool
    | Flatten
    | Rnn
    | BiLstm
    | Translator
    | Embedding
    | Position
    | SelfAttention
    | LayerNorm
    | BatchNorm
    | Residual
    | Parallel
)


def out_shape(layer: Layer, shape: Shape) -> Shape:
    """Shape of the output, without the samples."""
    match layer:
        case Dense(units):
            return (*shape[:-1], units)
        case Conv(filters, size, stride=stride):
            return (filters, *((n + 2 * layer.pad - size) // stride + 1 for n in shape[1:]))
        case Conv1(filters, size, dilation=dilation):
            return shape[0] + layer.before - (size - 1) * dilation, filters
        case Deconv(filters, _, _, stride):
            return (filters, *(n * stride for n in shape[1:]))
        case Pool(_, size):
            return (shape[0], *(n // size for n in shape[1:]))
        case GlobalPool():
            return shape[:1] if len(shape) == 3 else shape[1:]
        case Rnn(_, units, every):
            return (shape[0], units) if every else (units,)
        case BiLstm(units) | Translator(units=units):
            return shape[-1] if isinstance(layer, Translator) else shape[0], 2 * units
        case Embedding(_, width):
            return (*shape, width)
        case Flatten():
            return (math.prod(shape),)
        case Residual(body):
            for inner in body:
                shape = out_shape(inner, shape)
        case Parallel(branches):
            outs = [out_shape(Residual(branch), shape) for branch in branches]
            return (*outs[0][:-1], sum(out[-1] for out in outs))
    return shape


def leaves(
    layers: tuple[Layer, ...], shape: Shape, first: bool = True
) -> Iterator[tuple[Layer, Shape, Shape, bool]]:
    """Yield (layer, input shape, output shape, whether it takes the network's input) of each leaf.

    Of a `Residual` the body comes before the shortcut.
    """
    for layer in layers:
        out = out_shape(layer, shape)
        match layer:
            case Residual(body, shortcut):
                yield from leaves(body, shape, first)
                yield from leaves(shortcut, shape, first)
            case Parallel(branches):
                for branch in branches:
                    yield from leaves(branch, shape, first)
            case _:
                yield layer, shape, out, first
        first, shape = False, out


def macs(layer: Layer, shape: Shape, out: Shape) -> tuple[int, int]:
    """Multiply-adds for one sample: those with the input, and all others.

    Padded steps count as the others.
    """
    match layer:
        case Dense(units):
            return math.prod(shape) * units, 0
        case Conv(size=size, groups=groups):
            return math.prod(out) * shape[0] // groups * size * size, 0
        case Conv1(size=size):
            return math.prod(out) * shape[1] * size, 0
        case Deconv(filters, size):
            return math.prod(shape) * filters * size * size, 0
        case Rnn(kind, units):
            columns = GATES[kind] * units
            return math.prod(shape) * columns, shape[0] * units * columns
        case BiLstm(units, depth):
            steps, width = shape
            inputs = width + (depth - 1) * 2 * units
            return 2 * steps * inputs * 4 * units, 2 * depth * steps * units * 4 * units
        case Translator(_, width, units):
            steps = shape[-1]
            recurrent = 2 * steps * 3 * units * (width + units)
            # projections, scores, and the mean of the states
            return 0, recurrent + 2 * steps * units * units + 2 * steps * steps * units
        case SelfAttention():
            steps, width = shape
            return 4 * steps * width * width, 2 * steps * steps * width
    return 0, 0


def draw(rng: np.random.Generator, layer: Layer, shape: Shape) -> tuple[np.ndarray, ...]:
    """Glorot's uniform weights, and biases that are small but not zero."""

    def uniform(limit: float, *dims: int) -> np.ndarray:
        return rng.uniform(-limit, limit, dims).astype(np.float32)

    def glorot(*dims: int, window: int = 1) -> np.ndarray:
        return uniform(math.sqrt(6 / ((dims[0] + dims[1]) * window)), *dims)

    match layer:
        case Dense(units):
            return glorot(shape[-1], units), uniform(0.1, units)
        case Conv(filters, size, groups=groups, bias=bias):
            fans = (shape[0] + filters) // groups * size * size
            w = uniform(math.sqrt(6 / fans), filters, shape[0] // groups, size, size)
            return (w, uniform(0.1, filters)) if bias else (w,)
        case Conv1(filters, size):
            return glorot(filters, shape[1], size, window=size), uniform(0.1, filters)
        case Deconv(filters, size):
            w = glorot(shape[0], filters, size, size, window=size * size)
            return w, uniform(0.1, filters)
        case Rnn(kind, units):
            rows, columns = 1 + shape[-1] + units, GATES[kind] * units
            return (uniform(math.sqrt(3 / rows), rows, columns),)
        case BiLstm(units, depth):
            sizes = [1 + (2 * units if i else shape[-1]) + units for i in range(depth)]
            return tuple(
                uniform(math.sqrt(3 / n), n, 4 * units) for n in sizes for _ in ("forward", "back")
            )
        case Translator(vocabulary, width, units):
            tables = [uniform(0.1, vocabulary, width) for _ in ("source", "target")]
            rows = 2 + width + units
            cells = [uniform(math.sqrt(3 / rows), rows, 3 * units) for _ in ("encoder", "decoder")]
            return (
                *tables,
                *cells,
                glorot(units, units),
                glorot(units, units),
                uniform(1, units),
            )
        case Embedding(vocabulary, width):
            return (uniform(0.5, vocabulary, width),)
        case Position():
            return (uniform(0.1, *shape),)
        case SelfAttention():
            width = shape[-1]
            return (*(glorot(width, width) for _ in range(4)), uniform(0.1, 4, width))
        case LayerNorm():
            return 1 + uniform(0.2, shape[-1]), uniform(0.1, shape[-1])
        case BatchNorm():
            n = shape[0]
            return 1 + uniform(0.2, n), uniform(0.1, n), uniform(0.3, n), 1 + uniform(0.3, n)
    return ()


def smooth(layer: Layer) -> Layer:
    """The layer with tanh for ReLU and the mean for the maximum."""
    match layer:
        case Pool("max") | GlobalPool("max"):
            return replace(layer, kind="mean")
        case Residual(body, shortcut, act):
            body, shortcut = tuple(map(smooth, body)), tuple(map(smooth, shortcut))
            return Residual(body, shortcut, "tanh" if act == "relu" else act)
        case Parallel(branches):
            return Parallel(tuple(tuple(map(smooth, branch)) for branch in branches))
    if getattr(layer, "act", None) == "relu":
        return replace(layer, act="tanh")
    return layer
