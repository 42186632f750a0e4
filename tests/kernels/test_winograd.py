"""3x3 convolutions in Winograd's form, "fast", against the direct sums, "exact", and the twin.

The twin runs in float64. Some of these shapes do not use Winograd's form; the results must agree
anyway.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from case_values import ACTIVATIONS
from kernel_calls import Call, Maker, implementation, run, wider

from npdl import _ext
from npdl._ext.activation_np import LINEAR

NO_ACT = (LINEAR, 1.0)

#: Largest difference allowed, relative to the largest value of the array.
TOLERANCE = {"fast": 1e-5, "exact": 5e-6}


def shapes():
    """Yield (label, options of `Maker.conv`)."""

    def case(n=5, c=16, f=16, image=(6, 9), pad=(1, 1), out=None, dilation=(1, 1)):
        label = f"{n}x{c}x{image[0]}x{image[1]}-f{f}-pad{pad[0]}x{pad[1]}"
        if out is not None:
            label += f"-out{out[0]}x{out[1]}"
        if dilation != (1, 1):
            label += f"-dilation{dilation[0]}x{dilation[1]}"
        return label, dict(x=(n, c, *image), w=(f, 3, 3), pad=pad, out=out, dilation=dilation)

    for side in range(4, 34):
        yield case(image=(side, 37 - side))
    for tiles in range(1, 18):
        for width in (4 * tiles - 3, 4 * tiles):
            yield case(image=(5, max(width, 4)), c=17, f=18)
    for height in (4, 5, 7, 8, 23, 33):
        yield case(image=(height, 6), f=19)
    for pad in itertools.product((0, 1, 2), repeat=2):
        yield case(pad=pad)
        yield case(pad=pad, image=(12, 31), c=19)
    for image, out in [
        ((5, 6), (9, 11)),  # windows beyond the image
        ((5, 6), (6, 21)),
        ((2, 1), (4, 4)),
        ((1, 9), (5, 30)),
        ((13, 14), (4, 5)),  # pixels that no window reaches
        ((25, 4), (5, 9)),
        ((4, 38), (7, 4)),
    ]:
        for pad in ((0, 0), (2, 1), (1, 2)):
            yield case(image=image, out=out, pad=pad)
    for c, f in [(257, 16), (16, 300), (513, 17), (31, 33), (48, 49), (23, 64), (65, 47)]:
        yield case(c=c, f=f, image=(7, 6))
    for n in (0, 1, 2, 3, 4, 7, 8, 9, 13):
        yield case(n=n)
        yield case(n=n, image=(16, 29))
    yield case(n=64, image=(4, 4))
    yield case(n=64, image=(8, 8), pad=(0, 0))
    for pad in ((1, 1), (0, 0), (2, 2)):  # more tiles than a chunk has
        yield case(image=(5, 700), pad=pad)
        yield case(image=(700, 5), pad=pad, f=17)
    yield case(image=(550, 9), out=(520, 7), pad=(0, 1))
    yield case(n=1, c=20, f=70, image=(9, 10))
    for side in range(16, 34):
        yield case(image=(side, 49 - side), pad=(2, 2), dilation=(2, 2))
        yield case(image=(side, 17), pad=(1, 3), dilation=(1, 3), f=18)
        yield case(image=(8, side), pad=(2, 1), dilation=(2, 1), c=17)
    for pad in itertools.product((0, 3, 6), (0, 5, 8)):
        yield case(n=2, image=(30, 33), pad=pad, dilation=(3, 4))
    for image, out in [((17, 19), (23, 25)), ((29, 31), (16, 16)), ((3, 2), (16, 20))]:
        yield case(image=image, out=out, pad=(2, 1), dilation=(2, 2))
    for n, c, f, height, width, dilation in [  # several chunks to an image
        (3, 33, 48, 60, 50, (2, 2)), (1, 16, 17, 150, 33, (5, 1)), (2, 19, 16, 61, 97, (1, 6)),
        (1, 16, 16, 64, 70, (7, 8)), (9, 40, 31, 17, 16, (2, 2)),
    ]:  # fmt: skip
        yield case(n, c, f, (height, width), dilation, dilation=dilation)


CASES = dict(shapes())


@functools.cache
def calls_and_references(case: str, act=NO_ACT) -> list[tuple[Call, dict[str, np.ndarray]]]:
    return [
        (call, run(implementation("np", call.function), wider(call)))
        for call in Maker("float32").conv(**CASES[case], act=act)
    ]


def gap(found: np.ndarray, wanted: np.ndarray, scale: float | None = None) -> float:
    """The largest difference, relative to `scale` or the largest value; NaN counts as infinite."""
    if scale is None:
        scale = np.abs(wanted).max(initial=1e-30)
    worst = np.abs(found - wanted).max(initial=0) / scale
    return np.inf if np.isnan(worst) else float(worst)


@pytest.mark.parametrize("mode", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values(compiled, case, mode):
    for call, wanted in calls_and_references(case):
        with compiled.precision(mode):
            found = compiled.run(call)
        gaps = {name: gap(found[name], wanted[name]) for name in wanted}
        assert max(gaps.values()) <= TOLERANCE[mode], gaps


SAMPLE = "5x19x12x31-f16-pad2x1"


@pytest.mark.parametrize("act", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(compiled, act):
    """No activation is steeper than 1.7, so differences grow by at most this factor."""
    largest = np.abs(calls_and_references(SAMPLE)[0][1]["y"]).max()
    with compiled.precision("fast"):
        for call, wanted in calls_and_references(SAMPLE, act):
            scale = largest if call.function == "conv2d_forward" else None
            for name, found in compiled.run(call).items():
                assert gap(found, wanted[name], scale) <= 1.7 * TOLERANCE["fast"], name


def test_without_dx(compiled):
    (_, back) = Maker("float32").conv(**CASES[SAMPLE])
    left_out = Call(back.function, {**back.args, "dx": None})
    with compiled.precision("fast"):
        one, other = compiled.run(back), compiled.run(left_out)
    assert other.keys() == {"dw", "db"}
    for name in other:
        np.testing.assert_array_equal(one[name], other[name])


# --------------------------------------------------------------------- when it runs


def bits(compiled, calls: list[Call], mode: str) -> list[bytes]:
    with compiled.precision(mode):
        return [array.tobytes() for call in calls for array in compiled.run(call).values()]


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (2, 2)])
def test_fast_is_another_sum(compiled, dilation):
    calls = Maker("float32").conv((9, 32, 16, 16), (32, 3, 3), pad=(1, 1), dilation=dilation)
    *sums, db = zip(bits(compiled, calls, "fast"), bits(compiled, calls, "exact"))
    assert all(one != other for one, other in sums), "no Winograd: these tests test nothing"
    assert len(db) == 2


@pytest.mark.parametrize(
    "dtype, c, f, window, stride, pad",
    [
        ("float64", 32, 32, (3, 3), (1, 1), (1, 1)),
        ("float32", 8, 32, (3, 3), (1, 1), (1, 1)),
        ("float32", 32, 8, (3, 3), (1, 1), (1, 1)),
        ("float32", 32, 32, (3, 3), (1, 2), (1, 1)),
        ("float32", 32, 32, (3, 3), (2, 1), (1, 1)),
        ("float32", 32, 32, (3, 2), (1, 1), (1, 1)),
        ("float32", 32, 32, (5, 3), (1, 1), (2, 1)),
        ("float32", 32, 32, (3, 3), (1, 1), (3, 0)),
    ],
)
def test_other_convolutions_are_exact_in_both_modes(compiled, dtype, c, f, window, stride, pad):
    calls = Maker(dtype).conv((9, c, 16, 17), (f, *window), stride, pad)
    assert bits(compiled, calls, "fast") == bits(compiled, calls, "exact")


@pytest.mark.skipif("cython" not in _ext.available_backends(), reason="needs the Cython kernels")
def test_set_precision_reaches_the_kernels():
    before, errors = _ext.get_precision(), {}
    with _ext.use_backend("cython"):
        kernel = _ext.kernels().conv2d_forward
    # Large, of one sign: differences of large sums lose many digits.
    call, _ = Maker("float32").conv((9, 64, 24, 24), (32, 3, 3), act=NO_ACT)
    np.abs(call.args["x"], out=call.args["x"])
    wanted = run(implementation("np", call.function), wider(call))["y"]
    try:
        for mode in ("fast", "exact", "fast", "exact"):
            _ext.set_precision(mode)
            error = gap(run(kernel, call)["y"], wanted)
            assert error == errors.setdefault(mode, error) <= TOLERANCE[mode]
    finally:
        _ext.set_precision(before)
    assert errors["exact"] < errors["fast"] / 2


# ------------------------------------------------------------- threads, and their scratch


@pytest.mark.parametrize(
    "case",
    [
        SAMPLE,
        "5x16x15x22-f16-pad1x1",
        "64x16x8x8-f16-pad0x0",
        "13x16x6x9-f16-pad1x1",
        "5x257x7x6-f16-pad1x1",
        "5x16x5x6-f16-pad2x1-out6x21",
        "1x20x9x10-f70-pad1x1",
        "5x16x700x5-f17-pad0x0",
        "3x33x60x50-f48-pad2x2-dilation2x2",
        "9x40x17x16-f31-pad2x2-dilation2x2",
    ],
)
def test_the_same_bits_for_any_number_of_threads(compiled, case):
    calls, before = Maker("float32").conv(**CASES[case]), _ext.get_num_threads()
    try:
        _ext.set_num_threads(1)
        wanted = bits(compiled, calls, "fast")
        for threads in (2, 3, 5):
            _ext.set_num_threads(threads)
            for _ in range(3):
                assert bits(compiled, calls, "fast") == wanted, threads
    finally:
        _ext.set_num_threads(before)


# ---------------------------------------------------------------------- NaN and infinity


def spoilt(call: Call, name: str, place: tuple[int, ...], value: float) -> Call:
    array = call.args[name].copy()
    array[place] = value
    return Call(call.function, {**call.args, name: array})


#: Images of few tiles, worked on together; images of many.
SIZES = [
    "13x16x6x9-f16-pad1x1",
    "64x16x4x4-f16-pad1x1",
    "5x16x15x22-f16-pad1x1",
    "5x16x16x33-f16-pad2x2-dilation2x2",
]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("case", SIZES)
def test_one_bad_pixel_stays_in_its_image(compiled, case, value):
    forward, back = Maker("float32").conv(**CASES[case], act=NO_ACT)
    for call, source, target in [(forward, "x", "y"), (back, "dy", "dx")]:
        for place in [(0, 3, 2, 1), (2, 3, 0, 0), (-1, -1, -1, -1)]:
            bad = spoilt(call, source, place, value)
            with compiled.precision("fast"):
                clean, found = compiled.run(call)[target], compiled.run(bad)[target]
            with compiled.precision("exact"):
                reached = ~np.isfinite(compiled.run(bad)[target])
            others = np.arange(len(clean)) != place[0] % len(clean)
            np.testing.assert_array_equal(found[others], clean[others])
            assert reached.any() and not np.isfinite(found[reached]).any()


@pytest.mark.parametrize("mode", TOLERANCE)
@pytest.mark.parametrize("case", SIZES)
def test_one_bad_channel_spoils_its_own_gradients(compiled, case, mode):
    (_, back) = Maker("float32").conv(**CASES[case], act=NO_ACT)
    of_filter, of_channel = (spoilt(back, name, (1, 3, 2, 1), np.nan) for name in ("dy", "x"))
    with compiled.precision(mode):
        clean = compiled.run(back)
        by_filter, by_channel = compiled.run(of_filter), compiled.run(of_channel)
    others = np.arange(16) != 3
    assert np.isnan(by_filter["db"][3]) and np.isnan(by_filter["dw"][3]).any()
    np.testing.assert_array_equal(by_filter["db"][others], clean["db"][others])
    np.testing.assert_array_equal(by_filter["dw"][others], clean["dw"][others])
    assert np.isnan(by_channel["dw"][:, 3]).any()
    np.testing.assert_array_equal(by_channel["dw"][:, others], clean["dw"][:, others])
    np.testing.assert_array_equal(by_channel["dx"], clean["dx"])
