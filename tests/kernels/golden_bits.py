"""The bits of every kernel and of whole training runs, as hashes in ``tests/golden/bits.json``.

They are those of every build that has fused multiply-adds: x86-64-v3 and v4, and aarch64; by gcc
and by clang. ``python tests/kernels/golden_bits.py`` writes the file anew, after a change that is
meant to round otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "kernels"), str(TESTS.parent)]

from cases import CASES, GENERATORS  # noqa: E402
from kernel_calls import Maker, built_isas, implementation, run  # noqa: E402

GOLDEN = TESTS / "golden" / "bits.json"
DTYPES = ("float32", "float64")
#: The builds that give these bits: the baseline x86-64 has no fused multiply-add.
FUSED = [isa for isa in built_isas() if isa != "base" or platform.machine() in ("aarch64", "arm64")]

#: What makes NumPy, and the BLAS in it, compute as on a CPU without AVX-512.
OLDER = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": " ".join(
        feature
        for feature in np._core._multiarray_umath.__cpu_dispatch__
        if feature.startswith(("AVX512", "X86_V4"))
    ),
}

TRAINING = """
import hashlib
import numpy as np
import npdl
from npdl.layers import *

def digest(kind):
    npdl.utils.set_seed(3)
    numbers = np.random.default_rng(5)
    loss, optimizer = "scce", npdl.optimizers.RMSprop()
    x = numbers.integers(1, 50, (71, 9))
    if kind == "mlp":
        x = numbers.random((203, 37), "f4")
        layers = [Dense(65, n_in=37, activation="tanh"), BatchNormal(), Dropout(0.3), Softmax(5)]
        optimizer = npdl.optimizers.Momentum()
    elif kind == "winograd":
        x = numbers.random((67, 16, 12, 12), "f4")
        layers = [
            Convolution(19, 3, input_shape=(16, 12, 12), activation="relu"),
            MaxPooling(2), BatchNormal(axis=1), Flatten(), Softmax(5),
        ]
        optimizer = npdl.optimizers.Adam()
    elif kind == "cnn":
        x = numbers.random((67, 1, 14, 14), "f4")
        layers = [
            Convolution(6, 5, input_shape=(1, 14, 14), activation="gelu", regularizer="l2"),
            MeanPooling(2), SeparableConvolution(9, 3, activation="silu"), GroupNormalization(3),
            Dropout(0.2), Flatten(), Dense(11, activation="elu"), Softmax(5),
        ]
        optimizer = npdl.optimizers.AdamW(global_clipnorm=1.0)
    elif kind == "focal":
        x = numbers.random((203, 37), "f4")
        layers = [Dense(21, n_in=37, activation="log_softmax"), Dense(5)]
        loss = npdl.objectives.FocalCrossEntropy(gamma=1.7, from_logits=True)
    elif kind == "tagger":  # with masks
        cell = LSTM(n_out=7, return_sequence=True, recurrent_dropout=0.1)
        layers = [
            Embedding(50, 11, mask_zero=True), Bidirectional(cell), LayerNormalization(),
            MultiHeadAttention(2, 5), GlobalMeanPooling(), Softmax(5),
        ]
        x[::3, 6:] = 0
    else:
        cell = {"lstm": LSTM, "gru": GRU, "rnn": SimpleRNN}[kind]
        layers = [Embedding(input_size=50, n_out=11), cell(n_out=21), Softmax(5)]
    model = npdl.Model(layers)
    model.compile(loss, optimizer=optimizer)
    y = numbers.integers(0, 5, len(x))
    history = model.fit(x, y, epochs=2, batch_size=32, verbose=0)
    found = hashlib.sha256(model.predict(x).tobytes())
    found.update(repr(history.history["loss"]).encode())
    for weights in model.get_weights():
        found.update(weights.tobytes())
    return found.hexdigest()

for kind in ("mlp", "winograd", "cnn", "focal", "tagger", "lstm", "gru", "rnn"):
    print(kind, digest(kind))
with npdl.utils.use_dtype("float64"):
    print("double", digest("lstm"))
"""


class Kept(Maker):
    """A maker whose forward outputs are those of a build: the twins' products are NumPy's."""

    def __init__(self, dtype: str, isa: str) -> None:
        super().__init__(dtype)
        self.isa = isa

    def filled(self, function, *args):
        call = self.call(function, *args)
        for name, array in run(implementation(self.isa, function), call).items():
            call.args[name][...] = array
        return call


def digest(arrays) -> str:
    """A hash for which -0 equals 0, and all nan are equal."""
    found = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), array.dtype.type("nan"), array + array.dtype.type(0))
        found.update(array.tobytes())
    return found.hexdigest()[:8]


def of_kernels(kind: str, dtype: str, isa: str) -> dict[str, str]:
    """The hash of each case of a kind."""
    found = {}
    for label, (maker, options) in CASES.items():
        if not label.startswith(f"{kind}-"):
            continue
        make = getattr(Kept(dtype, isa), "recurrent" if "cell" in options else maker)
        outputs = (run(implementation(isa, c.function), c) for c in make(**options))
        found[label] = digest(array for call in outputs for array in call.values())
    return found


def of_trainings(isa: str, threads: int) -> dict[str, str]:
    """The hash of the weights and predictions of each training run."""
    environment = {
        **os.environ,
        **(OLDER if isa == "v3" else {}),
        "PYTHONPATH": str(TESTS.parent),
        "NPDL_BACKEND": "cython",
        "NPDL_ISA": isa,
        "NPDL_NUM_THREADS": str(threads),
    }
    if platform.machine() in ("aarch64", "arm64"):  # one build; and qemu can't start processes
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            exec(TRAINING, {})
        return dict(line.split() for line in text.getvalue().splitlines())
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def main() -> None:
    isa = FUSED[-1]
    kernels: dict[str, list[str]] = {}
    for kind in GENERATORS:
        for dtype in DTYPES:
            for label, found in of_kernels(kind, dtype, isa).items():
                kernels.setdefault(label, []).append(found)
    golden = {
        "trainings": of_trainings(isa, 1),
        "kernels": {label: " ".join(both) for label, both in kernels.items()},
    }
    GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
