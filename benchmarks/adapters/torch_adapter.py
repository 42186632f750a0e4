"""PyTorch: eager, through ``torch.compile``, or with images in channels_last order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import workloads as wl
from benchmarks.adapters import GATE_ORDER, Adapter, Arrays, Weights, reorder
from benchmarks.adapters import torch_modules as tm

ACTS = {"relu": nn.ReLU, "tanh": nn.Tanh}
ACTS |= dict.fromkeys(("linear", "softmax", "sigmoid"), nn.Identity)  # the loss takes the logits
ORDER = GATE_ORDER["torch"]


class Network:
    """Builds the modules, and keeps that of each leaf.

    Convolutions of sequences take them as N D T, or, where `flat` images are wanted, N D 1 T.
    """

    def __init__(self, workload: wl.Workload, reference: bool, flat: bool) -> None:
        self._leaves = workload.leaves()
        self._convolves = workload.convolves_steps
        self._reference, self._flat = reference, flat
        self.parts: list[nn.Module] = []
        self.net = self._chain(workload.layers)

    def _chain(self, chain: tuple[wl.Layer, ...]) -> nn.Module:
        modules: list[nn.Module] = []
        for layer in chain:
            match layer:
                case wl.Residual(body, shortcut, act):
                    parts = self._chain(body), self._chain(shortcut)
                    modules.append(tm.Residual(*parts, ACTS[act]()))
                case wl.Parallel(branches):
                    modules.append(tm.Parallel([self._chain(branch) for branch in branches]))
                case _:
                    modules.append(self._leaf(*next(self._leaves)[:2]))
                    self.parts.append(modules[-1])
        return nn.Sequential(*modules)

    def _leaf(self, layer: wl.Layer, shape: tuple[int, ...]) -> nn.Module:
        match layer:
            case wl.Dense(units, act):
                turned = [tm.StepsBehind()] if self._convolves and len(shape) == 2 else []
                return nn.Sequential(*turned, nn.Linear(shape[-1], units), ACTS[act]())
            case wl.Conv(filters, size, act, _, stride, groups, bias):
                how = {"padding": layer.pad, "stride": stride, "groups": groups, "bias": bias}
                conv = nn.Conv2d(shape[0], filters, size, **how)
                return nn.Sequential(conv, ACTS[act]())
            case wl.Conv1(filters, size, act, _, dilation):
                if self._flat:
                    conv = nn.Conv2d(shape[1], filters, (1, size), dilation=(1, dilation))
                else:
                    conv = nn.Conv1d(shape[1], filters, size, dilation=dilation)
                zeros = [nn.ZeroPad2d((layer.before, 0, 0, 0))]
                if not self._flat:
                    zeros = [nn.ConstantPad1d((layer.before, 0), 0.0)]
                return nn.Sequential(*(zeros if layer.before else ()), conv, ACTS[act]())
            case wl.Deconv(filters, size, act, stride):
                conv = nn.ConvTranspose2d(shape[0], filters, size, stride, layer.pad)
                return nn.Sequential(conv, ACTS[act]())
            case wl.Pool(kind, size):
                return (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(size)
            case wl.GlobalPool(kind):
                if self._convolves:
                    return tm.Reduce(kind, (2, 3) if self._flat else (2,))
                return tm.Reduce(kind, (2, 3) if len(shape) == 3 else (1,))
            case wl.Rnn(kind):
                form = tm.ReferenceGru if self._reference and kind == "gru" else tm.Recurrent
                return form(layer, shape[1])
            case wl.BiLstm():
                return tm.BiLstm(layer, shape[1])
            case wl.Translator():
                return tm.Translator(layer)
            case wl.Embedding(vocabulary, width, masks):
                return (tm.MaskedEmbedding if masks else nn.Embedding)(vocabulary, width)
            case wl.Position():
                return tm.Position(shape)
            case wl.SelfAttention(heads):
                return tm.SelfAttention(shape[1], heads, batch_first=True)
            case wl.LayerNorm():
                return nn.LayerNorm(shape[-1], layer.epsilon)
            case wl.BatchNorm(act):
                return nn.Sequential(nn.BatchNorm2d(shape[0], layer.epsilon), ACTS[act]())
        return nn.Flatten()


def to_torch(module: nn.Module, arrays: Arrays) -> Arrays:
    """The arrays of a leaf as the parameters of its module, in their order."""
    match module:
        case tm.Recurrent(cell=cell):
            (w,) = arrays
            return _cell(w, ORDER[cell.mode.split("_")[0].lower()], cell.input_size)
        case tm.BiLstm(cell=cell):
            found: Arrays = ()
            for w in arrays:
                found += _cell(w, ORDER["lstm"], len(w) - 1 - cell.hidden_size)
            return found
        case tm.Translator():
            tables, cells, (query, key, scale) = arrays[:2], arrays[2:4], arrays[4:]
            parameters = (_cell(w, ORDER["gru"], tables[0].shape[1], 2) for w in cells)
            first, second = parameters
            # a parameter of the module itself comes before those of its modules
            return (scale, *tables, *first, *second, query.T, key.T)
        case tm.SelfAttention():
            *inputs, output, biases = arrays
            w = np.concatenate([a.T for a in inputs])
            return w, biases[:3].reshape(-1), output.T, biases[3]
        case nn.Sequential():
            return tuple(a.T if a.ndim == 2 else a for a in arrays)
    return arrays


def _cell(w: np.ndarray, order: Sequence[int], n_in: int, n_biases: int = 1) -> Arrays:
    w = reorder(w, order)
    second = w[1] if n_biases == 2 else np.zeros_like(w[0])
    return w[n_biases : n_biases + n_in].T, w[n_biases + n_in :].T, w[0], second


def from_torch(module: nn.Module, grads: Arrays) -> Arrays:
    """The gradients of a module's parameters as those of its leaf's arrays."""

    def cell(kind: str, w_x: np.ndarray, w_h: np.ndarray, *biases: np.ndarray) -> np.ndarray:
        w = np.concatenate([*(bias[None] for bias in biases), w_x.T, w_h.T])
        return reorder(w, ORDER[kind])

    match module:
        case tm.Recurrent(cell=one):
            return (cell(one.mode.split("_")[0].lower(), *grads),)
        case tm.BiLstm():
            return tuple(cell("lstm", *grads[i : i + 3]) for i in range(0, len(grads), 3))
        case tm.Translator():
            scale, source, target, *rest = grads
            cells = (cell("gru", *rest[i : i + 4]) for i in (0, 4))
            return (source, target, *cells, rest[8].T, rest[9].T, scale)
        case tm.SelfAttention():
            inputs, biases, output, bias = grads
            matrices = (w.T for w in (*np.split(inputs, 3), output))
            return (*matrices, np.concatenate([biases, bias]).reshape(4, -1))
        case nn.Sequential():
            return tuple(g.T if g.ndim == 2 else g for g in grads)
    return grads


@torch.no_grad()
def load(module: nn.Module, arrays: Arrays) -> None:
    """Copy the workload's weights into a module, and the statistics of batch normalizations."""
    places = [*module.parameters()]
    places += [buffer for buffer in module.buffers() if buffer.dim()]
    for place, value in zip(places, to_torch(module, arrays), strict=True):
        if value.ndim == 3 and place.ndim == 4:  # filters of sequences for images of one row
            value = value[:, :, None]
        place.copy_(torch.from_numpy(np.ascontiguousarray(value)))


class TorchAdapter(Adapter):
    def version(self) -> str:
        return f"PyTorch {torch.__version__}"

    def supports(self, workload: wl.Workload) -> bool:
        images = len(workload.input_shape) == 3 or workload.convolves_steps
        return images or "channels_last" not in self.options

    def same_formula(self, workload: wl.Workload) -> bool:
        return "gru" not in workload.kinds

    def open(self, workload: wl.Workload, mode: str, reference: bool) -> None:
        torch._dynamo.reset()
        flat = "channels_last" in self.options
        network = Network(workload, reference, flat)
        self.net, self.parts = network.net.train(mode == "train"), network.parts
        for module, arrays in zip(self.parts, workload.weights(), strict=True):
            load(module, arrays)
        x, y = workload.data()
        if workload.convolves_steps:
            x = np.ascontiguousarray(x.swapaxes(1, 2))
            x = x[:, :, None] if flat else x
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.autoencoder = workload.autoencoder
        if workload.masks:  # padding has no label
            self.y[self.x == 0] = -100
        if not workload.autoencoder:
            self.y = self.y.reshape(-1)
        if "channels_last" in self.options:
            self.net = self.net.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.criterion = nn.BCEWithLogitsLoss() if self.autoencoder else nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=wl.LEARNING_RATE)
        self.forward: Any = self._loss if mode == "train" else self._probabilities
        if "compile" in self.options and not reference:
            self.forward = torch.compile(self.forward)

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.net(x)
        return self.criterion(z if self.autoencoder else z.flatten(0, -2), y)

    def _probabilities(self, x: torch.Tensor) -> torch.Tensor:
        z = self.net(x)
        return torch.sigmoid(z) if self.autoencoder else torch.softmax(z, dim=-1)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.forward(self.x, self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> Weights:
        self.optimizer.zero_grad()
        self.forward(self.x, self.y).backward()
        return [
            from_torch(part, tuple(p.grad.numpy() for p in part.parameters() if p.requires_grad))
            for part in self.parts
        ]

    def predict(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.forward(self.x)


def create(options: dict[str, str], threads: int) -> Adapter:
    """The adapter, once PyTorch is told its threads."""
    torch.set_num_threads(threads)
    return TorchAdapter(options, threads)
