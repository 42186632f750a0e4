"""The modules of PyTorch that workloads are made of, beside those of ``torch.nn``."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks import workloads as wl


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


class BiLstm(nn.Module):
    """The embedding's output and its tokens as a packed sequence through ``nn.LSTM``.

    Its second biases are frozen, as those of `Recurrent`.
    """

    def __init__(self, layer: wl.BiLstm, n_in: int) -> None:
        super().__init__()
        how = {"num_layers": layer.depth, "bidirectional": True, "batch_first": True}
        self.cell = nn.LSTM(n_in, layer.units, **how)
        for name, parameter in self.cell.named_parameters():
            parameter.requires_grad_("bias_hh" not in name)

    def forward(self, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, lengths = given
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True, total_length=x.shape[1])
        return h


class MaskedEmbedding(nn.Embedding):
    """The rows of the tokens, and the lengths of the sequences before their padding."""

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(tokens), (tokens != 0).sum(dim=1)


class Translator(nn.Module):
    """Encoder, decoder and additive attention, see `workloads`."""

    def __init__(self, layer: wl.Translator) -> None:
        super().__init__()
        width, units = layer.width, layer.units
        self.source, self.target = (nn.Embedding(layer.vocabulary, width) for _ in "st")
        self.encoder, self.decoder = (nn.GRU(width, units, batch_first=True) for _ in "ed")
        self.query, self.key = (nn.Linear(units, units, bias=False) for _ in "qk")
        self.scale = nn.Parameter(torch.empty(units))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        encoded, last = self.encoder(self.source(tokens[:, 0]))
        decoded, _ = self.decoder(self.target(tokens[:, 1]), last)
        summed = self.query(decoded)[:, :, None] + self.key(encoded)[:, None]
        weights = torch.softmax(torch.tanh(summed) @ self.scale, dim=-1)
        return torch.cat([decoded, weights @ encoded], dim=-1)


class SelfAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of one sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


class Position(nn.Module):
    """A learned vector is added to each step."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.positions


class Residual(nn.Module):
    """act(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Parallel(nn.Module):
    """Branches on the same input."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=-1)


class Reduce(nn.Module):
    """The maximum or mean over some axes."""

    def __init__(self, kind: str, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, self.axes = kind, axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axes) if self.kind == "mean" else x.amax(self.axes)


class StepsBehind(nn.Module):
    """From N D T, or N D 1 T, to N T D."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)
