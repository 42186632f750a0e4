"""The builds that have fused multiply-adds give the same bits: v3 and v4, over all cases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, GENERATORS
from kernel_calls import Maker, built_isas, implementation, run

import npdl

pytestmark = pytest.mark.skipif(
    not {"v3", "v4"} <= set(built_isas()), reason="needs a CPU with AVX-512 and both builds"
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", GENERATORS)
def test_all_cases(kind, dtype):
    different = set()
    labels = [label for label in CASES if label.startswith(f"{kind}-")]
    for label in labels:
        maker, options = CASES[label]
        make = getattr(Maker(dtype), "recurrent" if "cell" in options else maker)
        for call in make(**options):
            first, second = (run(implementation(isa, call.function), call) for isa in ("v3", "v4"))
            for name, array in first.items():
                # -0 and 0, and nan of any kind, are equal
                if not np.array_equal(array, second[name], equal_nan=array.dtype.kind == "f"):
                    different.add((call.function, name))
    assert labels
    assert not different


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_winograd(dtype):
    """Images in several chunks, of sizes that fill the tiles of one build and not of the other."""
    for n, c, f, size in [(1, 16, 16, 4), (7, 17, 33, 9), (23, 16, 19, 12), (65, 16, 16, 7)]:
        for call in Maker(dtype).conv((n, c, size, size), (f, 3, 3), pad=(1, 1)):
            first, second = (run(implementation(isa, call.function), call) for isa in ("v3", "v4"))
            for name, array in first.items():
                assert array.tobytes() == second[name].tobytes(), (n, c, f, size, name)


TRAINING = """
import hashlib
import sys
import numpy as np
import npdl
from npdl.layers import *

def digest(kind):
    npdl.utils.set_seed(3)
    numbers = np.random.default_rng(5)
    if kind == "mlp":
        x = numbers.standard_normal((203, 37)).astype("f4")
        layers = [Dense(65, n_in=37, activation="tanh"), BatchNormal(), Dropout(0.3), Softmax(5)]
        optimizer = npdl.optimizers.Momentum()
    elif kind == "cnn":  # in Winograd's form
        x = numbers.standard_normal((67, 16, 12, 12)).astype("f4")
        layers = [
            Convolution(19, 3, input_shape=(16, 12, 12), activation="relu"),
            MaxPooling(2), BatchNormal(axis=1), Flatten(), Softmax(5),
        ]
        optimizer = npdl.optimizers.Adam()
    else:
        x = numbers.integers(0, 50, (103, 9))
        cell = {"lstm": LSTM, "gru": GRU, "rnn": SimpleRNN}[kind]
        layers = [Embedding(input_size=50, n_out=11), cell(n_out=21), Softmax(5)]
        optimizer = npdl.optimizers.RMSprop()
    model = npdl.Model(layers)
    model.compile("scce", optimizer=optimizer)
    model.fit(x, numbers.integers(0, 5, len(x)), max_iter=2, batch_size=32, verbose=0)
    found = hashlib.sha256(model.predict(x).tobytes())
    for layer in model.layers:
        for parameter in layer.parameters:
            found.update(parameter.value.tobytes())
    return found.hexdigest()

print({kind: digest(kind) for kind in ("mlp", "cnn", "lstm", "gru", "rnn")})
"""


def test_whole_trainings():
    """The same seed gives the same weights."""
    environment = os.environ | {"PYTHONPATH": str(Path(npdl.__file__).parents[1])}

    def digests(isa, threads):
        run = subprocess.run(
            [sys.executable, "-c", TRAINING],
            env=environment | {"NPDL_ISA": isa, "NPDL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert digests("v3", "1") == digests("v4", "3")
