"""Every build with fused multiply-adds gives the same bits, those of ``tests/golden/bits.json``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cases import GENERATORS
from golden_bits import DTYPES, FUSED, GOLDEN, Kept, digest, of_kernels, of_trainings
from kernel_calls import implementation, run

import npdl

pytestmark = pytest.mark.skipif(not FUSED, reason="needs kernels, on a CPU with fused multiply-add")
both = pytest.mark.skipif(len(FUSED) < 2, reason="needs a CPU with AVX-512 and both builds")


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("isa", FUSED)
def test_kernels(golden, kind, dtype, isa):
    found, place = of_kernels(kind, dtype, isa), DTYPES.index(dtype)
    assert found
    assert found == {label: golden["kernels"][label].split()[place] for label in found}


def of_both(call):
    """What the builds for AVX2 and AVX-512 fill."""
    return [run(implementation(isa, call.function), call) for isa in ("v3", "v4")]


def same_in_both(dtype, x, w, **options):
    """Compare a convolution and its gradients by both."""
    for call in Kept(dtype, "v3").conv(x, w, **options):
        first, second = of_both(call)
        for name, array in first.items():
            assert array.tobytes() == second[name].tobytes(), (x, w, name)


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_winograd(dtype):
    """Images in several chunks, of sizes that fill the tiles of one build and not of the other."""
    for n, c, f, size, dil in [
        (1, 16, 16, 4, 1), (7, 17, 33, 9, 1), (23, 16, 19, 12, 1), (65, 16, 16, 7, 1),
        (7, 17, 33, 32, 3), (2, 33, 16, 70, 2), (23, 16, 19, 16, 2),
    ]:  # fmt: skip
        options = {"pad": (dil, dil), "dilation": (dil, dil)}
        same_in_both(dtype, (n, c, size, size), (f, 3, 3), **options)


@both
def test_large_weights():
    """Weights whose gradient is summed in fewer groups, to take less memory."""
    same_in_both("float32", (6, 300, 21, 21), (1024, 3, 3), stride=(2, 2))


@both
def test_infinite_numbers():
    """What lies beside the last window of a depthwise convolution spoils the same numbers."""
    options = dict(stride=(3, 2), pad=(1, 1), groups=5)
    for call in Kept("float32", "v3").conv((1, 5, 5, 5), (5, 5, 5), **options):
        call.args["x"][0, 1, 4, 4] = call.args["w"][3, 0, 0, 0] = np.inf
        first, second = (digest(found.values()) for found in of_both(call))
        assert first == second, call.function


@pytest.mark.parametrize("isa", FUSED)
def test_whole_training_runs(golden, isa):
    """The same seed gives the same weights."""
    assert of_trainings(isa, FUSED.index(isa) + 1) == golden["trainings"]


WEIGHTS = [[1049383670, 1063176403], [1058709390, -1088807078], [-1092605665, 1062306718]]
ORDER = [3, 2, 7, 4, 1, 5, 6, 0]
DRAW = 2568023004994447682
NORMAL = "0x1.f264220000000p+0"


def test_draws_of_the_generator():
    """The random numbers behind weights, shuffling and dropout: NumPy could change its streams."""
    npdl.utils.set_seed(7)
    layer = npdl.layers.Dense(2, n_in=3)
    layer.connect_to()
    numbers = npdl.utils.get_rng()
    assert np.array_equal(layer.W.view(np.int32), WEIGHTS)
    assert numbers.permutation(8).tolist() == ORDER
    assert numbers.integers(2**63) == DRAW
    assert float(numbers.standard_normal(dtype="f4")).hex() == NORMAL
