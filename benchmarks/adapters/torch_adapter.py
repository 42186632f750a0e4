"""PyTorch: eager, through ``torch.compile``, or with images in channels_last order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, Weights, reorder

ACTS = {"relu": nn.ReLU, "tanh": nn.Tanh, "softmax": nn.Identity}  # the loss takes the logits
ORDER = GATE_ORDER["torch"]


class Recurrent(nn.Module):
    """A layer of ``torch.nn`` that returns every output, or the last.

    Of its two biases, which always add up, the second is frozen: with both, a step would move the
    bias twice as far as in the other libraries.
    """

    def __init__(self, layer: wl.Rnn, n_in: int) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[layer.kind]
        self.cell = kind(n_in, layer.units, batch_first=True)
        self.cell.bias_hh_l0.requires_grad_(False)
        self.every = layer.every

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.cell(x)
        return h if self.every else h[:, -1]


class ReferenceGru(Recurrent):
    """The GRU that npdl computes, on ``nn.GRU``'s parameters: the reset before the product.

    ``nn.GRU`` resets after it. This one is for comparing numbers, and is never timed.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cell = self.cell
        state = x.new_zeros(len(x), cell.hidden_size)
        u_r, u_z, u_n = cell.weight_hh_l0.chunk(3)
        outputs = []
        for x_r, x_z, x_n in (
            step.chunk(3, dim=1)
            for step in (x @ cell.weight_ih_l0.T + cell.bias_ih_l0).unbind(dim=1)
        ):
            r, z = torch.sigmoid(x_r + state @ u_r.T), torch.sigmoid(x_z + state @ u_z.T)
            state = (1 - z) * torch.tanh(x_n + (state * r) @ u_n.T) + z * state
            outputs.append(state)
        return torch.stack(outputs, dim=1) if self.every else state


def build(workload: wl.Workload, reference: bool) -> list[nn.Module]:
    """One module for each layer of the workload."""
    modules: list[nn.Module] = []
    for layer, shape, _ in workload.shapes():
        match layer:
            case wl.Dense(units, act):
                modules.append(nn.Sequential(nn.Linear(shape[-1], units), ACTS[act]()))
            case wl.Conv(filters, size, act, same):
                conv = nn.Conv2d(shape[0], filters, size, padding=size // 2 if same else 0)
                modules.append(nn.Sequential(conv, ACTS[act]()))
            case wl.Pool(kind, size):
                modules.append((nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(size))
            case wl.Flatten():
                modules.append(nn.Flatten())
            case wl.Rnn(kind):
                form = ReferenceGru if reference and kind == "gru" else Recurrent
                modules.append(form(layer, shape[1]))
    return modules


@torch.no_grad()
def load(module: nn.Module, arrays: tuple[np.ndarray, ...]) -> None:
    """Copy the workload's weights into a module."""
    values: tuple[np.ndarray, ...] = ()
    if isinstance(module, Recurrent):
        cell = module.cell
        w = reorder(arrays[0], ORDER[cell.mode.split("_")[0].lower()])
        n_in = cell.input_size
        values = (w[1 : 1 + n_in].T, w[1 + n_in :].T, w[0], np.zeros_like(w[0]))
    elif arrays:
        w, b = arrays
        values = (w.T if w.ndim == 2 else w, b)
    for parameter, value in zip(module.parameters(), values):
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def gradients(module: nn.Module) -> tuple[np.ndarray, ...]:
    """The gradients of a module in the layout of the workload."""
    grads = [p.grad.numpy() for p in module.parameters() if p.requires_grad]
    if isinstance(module, Recurrent):
        w_x, w_h, bias = grads
        w = np.concatenate([bias[None], w_x.T, w_h.T])
        return (reorder(w, ORDER[module.cell.mode.split("_")[0].lower()]),)
    return tuple(g.T if g.ndim == 2 else g for g in grads)


class TorchAdapter(Adapter):
    def version(self) -> str:
        return f"PyTorch {torch.__version__}"

    def supports(self, workload: wl.Workload) -> bool:
        images = len(workload.input_shape) == 3
        return images or "channels_last" not in self.options

    def same_formula(self, workload: wl.Workload) -> bool:
        return "gru" not in workload.kinds

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        torch._dynamo.reset()
        self.modules = build(workload, reference)
        for module, arrays in zip(self.modules, workload.weights()):
            load(module, arrays)
        self.net = nn.Sequential(*self.modules)
        x, y = workload.data()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y).reshape(-1)
        if "channels_last" in self.options:
            self.net = self.net.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=wl.LEARNING_RATE)
        self.forward: Any = self._loss if mode == "train" else self._probabilities
        if "compile" in self.options and not reference:
            self.forward = torch.compile(self.forward)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.net(x).flatten(0, -2), y)

    def _probabilities(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.net(x), dim=-1)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.forward(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> Weights:
        self.optimizer.zero_grad()
        self.forward(self.x, self.y).backward()
        return [gradients(module) for module in self.modules]

    def predict(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.forward(self.x)


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter, once PyTorch is told its threads."""
    torch.set_num_threads(threads)
    return TorchAdapter(options, threads)
