"""The workloads, each defined once: layers, input shape, batch. Adapters build them.

Weights and data are drawn here, from a fixed seed, in npdl's layout (see `layers`), so that every
library starts from the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.layers import (
    BatchNorm,
    BiLstm,
    Conv,
    Conv1,
    Deconv,
    Dense,
    Embedding,
    Flatten,
    GlobalPool,
    Layer,
    LayerNorm,
    Parallel,
    Pool,
    Position,
    Residual,
    Rnn,
    SelfAttention,
    Shape,
    Translator,
    draw,
    leaves,
    macs,
    out_shape,
    smooth,
)


@dataclass(frozen=True)
class Workload:
    """One network with the shape of its input (without the samples) and its batch.

    The input is a batch of normal numbers times `scale`, or of tokens below `tokens`; where there
    are masks, sequences of different lengths end in zeros. The targets are labels, one for each row
    of the output; an `autoencoder`, with an input in [0, 1), has its input as the target.
    """

    name: str
    title: str
    batch: int
    input_shape: Shape
    layers: tuple[Layer, ...]
    predicts: bool = False
    scale: float = 1
    tokens: int = 0
    autoencoder: bool = False

    def leaves(self) -> Iterator[tuple[Layer, Shape, Shape, bool]]:
        """Yield (layer, input shape, output shape, whether it takes the input) of each leaf."""
        return leaves(self.layers, self.input_shape)

    @property
    def out_shape(self) -> Shape:
        """The shape of the output, without the samples."""
        return out_shape(Residual(self.layers), self.input_shape)

    @property
    def kinds(self) -> set[str]:
        """The kinds of recurrent layers in it."""
        return {layer.kind for layer in self.layers if isinstance(layer, Rnn)}

    @property
    def convolves_steps(self) -> bool:
        """Whether there are convolutions of sequences."""
        return any(isinstance(layer, Conv1) for layer, *_ in self.leaves())

    @property
    def masks(self) -> bool:
        """Whether some steps are padding."""
        return any(isinstance(layer, Embedding) and layer.masks for layer in self.layers)

    def weights(self, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
        """The arrays of each leaf, () for one without any."""
        rng = np.random.default_rng(seed)
        return [draw(rng, layer, shape) for layer, shape, *_ in self.leaves()]

    def data(self, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Input, float32 or int64 tokens, and the targets; labels int64 of shape (N,) or (N, T)."""
        rng = np.random.default_rng(seed)
        shape, out = (self.batch, *self.input_shape), self.out_shape
        if self.autoencoder:
            x = rng.random(shape, dtype=np.float32)
            return x, x
        if self.tokens:
            x = rng.integers(1, self.tokens, shape)
        else:
            x = rng.standard_normal(shape, dtype=np.float32) * np.float32(self.scale)
        if self.masks:
            steps = shape[1]
            lengths = rng.integers(steps // 3, steps + 1, self.batch)
            lengths[0] = steps
            x[np.arange(steps) >= lengths[:, None]] = 0
        return x, rng.integers(0, out[-1], (self.batch, *out[:-1]))

    def flops(self, training: bool = True) -> float:
        """Multiplications and additions of the products: forward, and twice that backward.

        The gradient in the input of the network is not counted: it is not needed.
        """
        total = 0.0
        for layer, shape, out, first in self.leaves():
            x_part, h_part = macs(layer, shape, out)
            total += 2 * (
                x_part * (2 if first else 3) + h_part * 3 if training else x_part + h_part
            )
        return total * self.batch


def _conv3(*filters: int) -> tuple[Conv, ...]:
    return tuple(Conv(f, 3, "relu", same=True) for f in filters)


def _batch_normalized(filters: int, size: int, stride: int = 1, act: str = "relu", groups: int = 1):
    """A convolution without a bias and its normalization."""
    return Conv(filters, size, "linear", True, stride, groups, bias=False), BatchNorm(act)


def _residual(filters: int, stride: int) -> Residual:
    """A block of two convolutions, with one of 1 x 1 around it where the shape changes."""
    body = *_batch_normalized(filters, 3, stride), *_batch_normalized(filters, 3, act="linear")
    shortcut = _batch_normalized(filters, 1, stride, "linear") if stride > 1 else ()
    return Residual(body, shortcut, "relu")


def _separable(channels: int, filters: int, stride: int) -> tuple[Layer, ...]:
    return *_batch_normalized(channels, 3, stride, groups=channels), *_batch_normalized(filters, 1)


def _encoder_block(width: int, heads: int) -> tuple[Layer, ...]:
    feed_forward = LayerNorm(), Dense(4 * width, "relu"), Dense(width, "linear")
    return Residual((LayerNorm(), SelfAttention(heads))), Residual(feed_forward)


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
    Workload(
        "textcnn",
        "text CNN 56x300: widths 3, 4, 5, 100 filters each",
        50,
        (56, 300),
        (
            Parallel(tuple((Conv1(100, size, "relu"), GlobalPool("max")) for size in (3, 4, 5))),
            Dense(2, "softmax"),
        ),
        predicts=True,
        scale=0.1,
    ),
    Workload(
        "tcn",
        "TCN 64, 8 causal layers, dilated to 128, T 400",
        16,
        (400, 16),
        (
            Conv1(64, 3, "relu", causal=True),
            *(Residual((Conv1(64, 3, "relu", causal=True, dilation=2**i),)) for i in range(1, 8)),
            Dense(10, "softmax"),
        ),
        predicts=True,
        scale=0.1,
    ),
    Workload(
        "resnet8",
        "ResNet-8 3x32x32: 16, 16, 32, 64, batch norm.",
        64,
        (3, 32, 32),
        (
            *_batch_normalized(16, 3),
            _residual(16, 1),
            _residual(32, 2),
            _residual(64, 2),
            GlobalPool("mean"),
            Dense(10, "softmax"),
        ),
        predicts=True,
    ),
    Workload(
        "mobilenet",
        "MobileNet-like 3x32x32: 32, 64, 128, 128, 256, 256",
        64,
        (3, 32, 32),
        (
            *_batch_normalized(32, 3),
            *_separable(32, 64, 1),
            *_separable(64, 128, 2),
            *_separable(128, 128, 1),
            *_separable(128, 256, 2),
            *_separable(256, 256, 1),
            GlobalPool("mean"),
            Dense(10, "softmax"),
        ),
        predicts=True,
    ),
    Workload(
        "autoencoder",
        "autoencoder 28x28: conv 32, 64, transposed 32, 1",
        64,
        (1, 28, 28),
        (
            Conv(32, 4, "relu", same=True, stride=2),
            Conv(64, 4, "relu", same=True, stride=2),
            Deconv(32, 4, "relu", stride=2),
            Deconv(1, 4, "sigmoid", stride=2),
        ),
        predicts=True,
        autoencoder=True,
    ),
    Workload(
        "tagger",
        "tagger: embedding 100, two bidirectional LSTM 128, T 60, masks",
        32,
        (60,),
        (Embedding(2000, 100, masks=True), BiLstm(128, depth=2), Dense(20, "softmax")),
        predicts=True,
        tokens=2000,
    ),
    Workload(
        "translator",
        "GRU 256 encoder-decoder, additive attention, T 20",
        64,
        (2, 20),
        (Translator(1000, width=128, units=256), Dense(1000, "softmax")),
        predicts=True,
        tokens=1000,
    ),
    Workload(
        "transformer",
        "transformer encoder: two blocks, 128, 4 heads, T 64",
        32,
        (64,),
        (
            Embedding(1000, 128),
            Position(),
            *_encoder_block(128, heads=4),
            *_encoder_block(128, heads=4),
            LayerNorm(),
            GlobalPool("mean"),
            Dense(10, "softmax"),
        ),
        predicts=True,
        tokens=1000,
    ),
)

WORKLOADS = {workload.name: workload for workload in _ALL}


def variant(
    name: str,
    batch: int | None = None,
    shape: Sequence[int] | None = None,
    smoothed: bool = False,
) -> Workload:
    """A workload by name, with another batch or input shape where one is given.

    A `smoothed` one has tanh for ReLU and the mean for max pooling. At a kink, a difference in the
    last bit may send a whole gradient elsewhere, so only smooth networks can be compared closely.
    """
    workload = WORKLOADS[name]
    layers = workload.layers
    if smoothed:
        layers = tuple(map(smooth, layers))
    return replace(
        workload,
        batch=batch or workload.batch,
        input_shape=tuple(shape or workload.input_shape),
        layers=layers,
    )


#: Learning rate of the plain SGD step at the end of every training step.
LEARNING_RATE = 0.01
