"""Layers of every size for ``benchmarks geometry``: dense, recurrent, pooling, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Calls = list[Callable[[], Any]]


class Shape(NamedTuple):
    """A layer on an input of one shape: a forward pass in training, and a backward pass.

    Attributes
    ----------
    kind : str
        A layer, a pooling, or the cross-entropy of a softmax.
    x : tuple of int
        The shape of the input.
    size : int
        Units of a layer, window of a pooling.
    """

    kind: str
    x: tuple[int, ...]
    size: int = 0

    parts = ("forward", "backward")

    @property
    def name(self) -> str:
        """Kind and sizes."""
        what = {"cross-entropy": "", "max pooling": " by ", "mean pooling": " by "}
        size = f"{what.get(self.kind, ' to ')}{self.size}" if self.size else ""
        return f"{self.kind}, {' x '.join(map(str, self.x))}{size}"

    @property
    def gflop(self) -> float:
        """Multiply-adds of a forward pass, counted twice; 0 where these are not the work."""
        gates = {"Dense": 1, "SimpleRNN": 1, "GRU": 3, "LSTM": 4}.get(self.kind, 0)
        inputs = self.x[-1] + (self.size if len(self.x) == 3 else 0)
        return 2 * gates * math.prod(self.x[:-1]) * inputs * self.size / 1e9

    def calls(self, library: str) -> Calls:
        """The two passes in a library."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal(self.x, np.float32)
        return {"npdl": npdl_calls, "torch": torch_calls}[library](self, x)


SHAPES = [
    *(Shape("Dense", (64, 512), units) for units in (1, 2, 10, 64, 500, 2048)),
    *(Shape("Dense", (n, 512), 512) for n in (1, 8, 512)),
    *(Shape("Dense", (64, inputs), 500) for inputs in (1, 10, 64, 4096)),
    *(Shape("LSTM", (32, 50, 64), units) for units in (1, 16, 64, 256)),
    *(Shape("LSTM", (8, 20, 64), units) for units in (1024, 2048)),
    *(Shape("LSTM", (n, 50, 64), 128) for n in (1, 4, 128, 512)),
    *(Shape("LSTM", (8, steps, 32), 64) for steps in (1, 10, 1000, 5000)),
    *(Shape("GRU", (32, 50, 64), units) for units in (1, 16, 64, 256, 1024)),
    *(Shape("GRU", (n, 50, 64), 128) for n in (1, 128)),
    *(Shape("GRU", (8, steps, 32), 64) for steps in (1, 1000)),
    *(Shape("SimpleRNN", (32, 50, 64), units) for units in (1, 16, 64, 256, 1024)),
    *(Shape("SimpleRNN", (8, steps, 32), 64) for steps in (1, 5000)),
    *(Shape("max pooling", (32, 32, 64, width), 2) for width in (2, 4, 8, 16, 64)),
    *(Shape("mean pooling", (32, 32, 64, width), 2) for width in (2, 8, 64)),
    *(Shape("max pooling", (32, 16, 48, 48), size) for size in (3, 4, 12)),
    *(Shape("mean pooling", (32, 16, 48, 48), size) for size in (3, 48)),
    *(Shape("cross-entropy", (rows, classes)) for rows, classes in
      ((512, 2), (512, 10), (512, 100), (512, 1000), (64, 10_000), (32, 50_000), (1, 50_000))),
]  # fmt: skip


def npdl_calls(shape: Shape, x: np.ndarray) -> Calls:
    """The passes in npdl, with the arrays that a layer keeps in training."""
    import npdl
    from npdl import layers

    if shape.kind == "cross-entropy":
        loss = npdl.objectives.SoftmaxCategoricalCrossEntropy()
        labels = np.arange(len(x)) % x.shape[1]
        *_, cache = loss.forward_logits(x, labels)
        return [lambda: loss.forward_logits(x, labels), lambda: loss.backward_logits(cache)]
    pooling = {"max pooling": layers.MaxPooling, "mean pooling": layers.MeanPooling}
    layer: Any
    if shape.kind in pooling:
        layer = pooling[shape.kind](shape.size)
    elif shape.kind == "Dense":
        layer = layers.Dense(shape.size, activation="linear")  # as in PyTorch
    else:
        cell = {"LSTM": layers.LSTM, "GRU": layers.GRU, "SimpleRNN": layers.SimpleRNN}[shape.kind]
        layer = cell(shape.size, return_sequence=True)
    source = npdl.Input(shape.x[1:])
    model = npdl.Model(source, layer(source))
    model.build()
    model.plan.begin_training(input_grads=True)
    y = layer.forward(x, train=True)
    dy = np.random.default_rng(1).standard_normal(y.shape, np.float32)
    return [lambda: layer.forward(x, train=True), lambda: layer.backward(dy)]


def torch_calls(shape: Shape, x: np.ndarray) -> Calls:
    """The passes in PyTorch."""
    import torch
    from torch import nn

    source = torch.from_numpy(x).requires_grad_()
    weights: list[Any] = []
    forward: Callable[[], Any]
    if shape.kind == "cross-entropy":
        labels = torch.arange(len(x)) % x.shape[1]
        forward = lambda: nn.functional.cross_entropy(source, labels)  # noqa: E731
    elif shape.kind == "max pooling":
        forward = lambda: nn.functional.max_pool2d(source, shape.size)  # noqa: E731
    elif shape.kind == "mean pooling":
        forward = lambda: nn.functional.avg_pool2d(source, shape.size)  # noqa: E731
    elif shape.kind == "Dense":
        dense = nn.Linear(shape.x[-1], shape.size)
        weights, forward = [*dense.parameters()], lambda: dense(source)
    else:
        cell = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}[shape.kind]
        layer = cell(shape.x[-1], shape.size, batch_first=True)
        weights, forward = [*layer.parameters()], lambda: layer(source)[0]
    y = forward()
    dy = torch.ones_like(y)
    wanted = [source, *weights]
    return [forward, lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)]
