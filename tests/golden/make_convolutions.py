"""Write results of PyTorch for convolutions: ``convolutions_torch.json``.

    python tests/golden/make_convolutions.py

It needs PyTorch, at the version that the file names. The suite only reads the file. Every case
holds how npdl spells it, so that ``tests/layers/test_golden_convolutions.py`` is one loop.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

CASES = [
    ("Convolution", (2, 4, 6, 5), {"dilation": [2, 1], "stride": [1, 2], "padding": [1, 0]}),
    ("Convolution", (2, 4, 6, 5), {"groups": 2, "padding": 1, "use_bias": False}),
    ("Convolution1D", (2, 9, 4), {"dilation": 2, "stride": 2, "padding": 1}),
    ("Convolution1D", (2, 9, 4), {"groups": 4}),
    ("TransposedConvolution", (2, 4, 5, 3), {"stride": 2, "padding": 1, "output_padding": [1, 0]}),
    ("TransposedConvolution", (2, 4, 5, 3), {"groups": 2, "dilation": [1, 2], "stride": [3, 1]}),
    ("TransposedConvolution1D", (2, 6, 4), {"stride": 3, "output_padding": 1}),
    ("DepthwiseConvolution", (2, 4, 6, 5), {"depth_multiplier": 2, "stride": 2, "padding": 1}),
    ("DepthwiseConvolution1D", (2, 9, 4), {"padding": 2, "dilation": 2}),
    ("SeparableConvolution", (2, 4, 6, 5), {"depth_multiplier": 2, "padding": 1}),
]


def modules(name: str, channels: int, options: dict) -> list[nn.Module]:
    """The sequence of PyTorch modules for a layer of npdl."""
    axes = 1 if name.endswith("1D") else 2
    size = 3 if axes == 1 else (2, 3)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    options["bias"] = options.pop("use_bias", True)
    multiplier = options.pop("depth_multiplier", 1)
    conv = nn.Conv1d if axes == 1 else nn.Conv2d
    if name.startswith("Transposed"):
        conv = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
    if name.startswith("Depthwise"):
        return [conv(channels, channels * multiplier, size, groups=channels, **options)]
    if name.startswith("Separable"):
        options["bias"] = False
        inner = channels * multiplier
        return [conv(channels, inner, size, groups=channels, **options), conv(inner, 6, 1)]
    return [conv(channels, 4, size, **options)]


def numbers(shape, seed):
    return np.random.default_rng(seed).uniform(-1, 1, shape).round(3)


def case(name: str, shape: tuple[int, ...], options: dict) -> dict:
    """Output and gradients, linear, of random numbers."""
    sequences = name.endswith("1D")
    parts = modules(name, shape[-1] if sequences else shape[1], options)
    x = torch.tensor(numbers(shape, 0), requires_grad=True)
    parameters = [p for part in parts for p in part.parameters()]
    for i, parameter in enumerate(parameters):
        parameter.data = torch.tensor(numbers(tuple(parameter.shape), 1 + i))
    y = x.transpose(1, 2) if sequences else x
    for part in parts:
        y = part(y)
    y = y.transpose(1, 2) if sequences else y
    dy = torch.tensor(numbers(tuple(y.shape), 99))
    y.backward(dy)
    arrays = {"x": x, "dy": dy, "y": y, "dx": x.grad}
    return {
        "layer": name,
        "options": options,
        **{key: array.detach().numpy().round(6).tolist() for key, array in arrays.items()},
        "weights": [p.detach().numpy().tolist() for p in parameters],
        "grads": [p.grad.numpy().round(6).tolist() for p in parameters],
    }


if __name__ == "__main__":
    found = {
        "made_by": f"torch {torch.__version__.split('+')[0]}",
        "cases": [case(*entry) for entry in CASES],
    }
    path = Path(__file__).with_name("convolutions_torch.json")
    path.write_text(json.dumps(found, separators=(",", ":")) + "\n")
