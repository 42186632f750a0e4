"""Write results of Keras and PyTorch for small images: ``images_*.json``.

    KERAS_BACKEND=jax python tests/golden/make_images.py keras
    python tests/golden/make_images.py torch

Each needs its library, at the version that the file names. The suite only reads the files; there
the gradients are those of the sum of the outputs times `WEIGHTS`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

IMAGE = np.random.default_rng(1).uniform(-2, 2, (1, 2, 5, 4)).round(3)
WEIGHTS = np.random.default_rng(2).uniform(-2, 2, 4000).round(3)

POOLS = [  # of both libraries: window, stride, padding
    (2, None, "valid"),
    (2, None, "same"),
    (3, 2, "same"),
    ((3, 2), (1, 2), "same"),
    ((2, 4), (3, 1), "same"),
]
TORCH_POOLS = [(3, 2, 1), (3, 1, 1), ((4, 5), (2, 3), (2, 1)), (2, 2, (1, 0))]


def keras_cases():
    import jax
    import keras

    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    assert keras.backend.backend() == "jax"  # others pad by repeating, for the mean of "same"

    def case(name, kwargs, layer):
        def channels_first(x):
            y = layer(x.transpose(0, 2, 3, 1))
            return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y

        y, back = jax.vjp(channels_first, jax.numpy.array(IMAGE))
        return name, kwargs, y, back(jax.numpy.array(WEIGHTS[: y.size].reshape(y.shape)))[0]

    for size, stride, padding in POOLS:
        kwargs = {"pool_size": size, "stride": stride, "padding": padding}
        theirs = {"pool_size": size, "strides": stride, "padding": padding, "dtype": "float64"}
        yield case("MaxPooling", kwargs, keras.layers.MaxPooling2D(**theirs))
        yield case("MeanPooling", kwargs, keras.layers.AveragePooling2D(**theirs))
    for size in (2, (3, 1), (2, 5)):
        for how in ("nearest", "bilinear"):
            layer = keras.layers.UpSampling2D(size, interpolation=how, dtype="float64")
            yield case("UpSampling", {"size": size, "interpolation": how}, layer)
    yield case("GlobalMaxPooling", {}, keras.layers.GlobalMaxPooling2D(dtype="float64"))
    for padding in (2, (1, 2), ((0, 2), (3, 1))):
        layer = keras.layers.ZeroPadding2D(padding, dtype="float64")
        yield case("ZeroPadding", {"padding": padding}, layer)
    for cropping in (1, (2, 1), ((0, 2), (2, 1))):
        layer = keras.layers.Cropping2D(cropping, dtype="float64")
        yield case("Cropping", {"cropping": cropping}, layer)


def torch_cases():
    import torch
    import torch.nn.functional as F

    def case(name, kwargs, function, *args, **options):
        x = torch.tensor(IMAGE, requires_grad=True)
        y = function(x, *args, **options)
        (y.reshape(-1) * torch.tensor(WEIGHTS[: y.numel()])).sum().backward()
        return name, kwargs, y.detach(), x.grad

    def mean(x, *geometry):
        return F.avg_pool2d(x, *geometry, count_include_pad=False)

    for size, stride, padding in TORCH_POOLS:
        kwargs = {"pool_size": size, "stride": stride, "padding": padding}
        for name, pool in ("MaxPooling", F.max_pool2d), ("MeanPooling", mean):
            yield case(name, kwargs, pool, size, stride, padding)
    yield case("GlobalMeanPooling", {}, torch.mean, dim=(2, 3))
    for size in (2, (3, 1), (2, 5)):
        kwargs = {"size": size, "interpolation": "bilinear"}
        options = {"scale_factor": size, "mode": "bilinear", "align_corners": False}
        yield case("UpSampling", kwargs, F.interpolate, **options)


def main(library: str) -> None:
    module = __import__(library)
    cases = []
    for name, kwargs, output, gradient in {"keras": keras_cases, "torch": torch_cases}[library]():
        y, dx = ([float(f"{v:.10g}") for v in np.ravel(a)] for a in (output, gradient))
        cases.append({"name": name, "kwargs": kwargs, "output": y, "gradient": dx})
    made_by = f"{library} {module.__version__}"
    path = Path(__file__).with_name(f"images_{library}.json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"made_by": "{made_by}", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
