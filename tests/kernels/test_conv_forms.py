"""Properties of every convolution algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import Call, Maker, built_isas, implementation, run

#: Options of `Maker.conv`: each form, images in blocks, in strips, in place, in groups.
FORMS = {
    "direct": dict(x=(9, 3, 11, 18), w=(13, 3, 3)),
    "winograd": dict(x=(9, 16, 7, 6), w=(17, 3, 3), pad=(1, 1)),
    "winograd, one vector": dict(x=(9, 16, 9, 10), w=(16, 3, 3), pad=(1, 1)),
    "winograd, dilated": dict(x=(9, 16, 13, 14), w=(17, 3, 3), pad=(2, 3), dilation=(2, 3)),
    "phases": dict(x=(9, 33, 9, 8), w=(17, 3, 4), stride=(2, 3), pad=(1, 2), out=(5, 3)),
    "phases, one vector": dict(x=(5, 16, 12, 12), w=(20, 3, 3), stride=(2, 2), pad=(1, 1)),
    "phases without taps": dict(x=(5, 16, 9, 7), w=(18, 1, 2), stride=(2, 3)),
    "phases in strips": dict(x=(1, 40, 70, 60), w=(30, 2, 2), stride=(2, 2)),
    "depthwise, whole vectors": dict(x=(5, 20, 7, 16), w=(20, 3, 3), pad=(1, 1), groups=20),
    "depthwise in place": dict(x=(5, 9, 5, 19), w=(18, 3, 3), pad=(1, 1), groups=9),
    "depthwise in place, two ends": dict(x=(3, 9, 5, 28), w=(9, 3, 3), pad=(1, 1), groups=9),
    "depthwise in place, short": dict(x=(5, 20, 7, 11), w=(20, 3, 3), pad=(2, 0), groups=20),
    "depthwise, stride 2": dict(
        x=(5, 9, 6, 36), w=(9, 3, 3), stride=(2, 2), pad=(1, 1), groups=9, out=(3, 18)
    ),
    "depthwise, stride 2, short": dict(
        x=(5, 9, 7, 20), w=(9, 3, 3), stride=(2, 2), groups=9, out=(4, 10)
    ),
    "dense": dict(x=(9, 5, 4, 3), w=(17, 4, 3)),
    "pointwise": dict(x=(9, 35, 8, 8), w=(50, 1, 1)),
    "pointwise, many channels": dict(x=(3, 530, 5, 5), w=(13, 1, 1)),
    "wide filters": dict(x=(9, 1, 21, 50), w=(35, 3, 50)),
    "one pixel each": dict(x=(30, 40, 3, 3), w=(21, 3, 3), stride=(2, 2), pad=(1, 1), out=(1, 1)),
    "narrow": dict(x=(9, 34, 12, 3), w=(21, 3, 2), pad=(1, 1)),
    "copied windows": dict(x=(9, 2, 12, 5), w=(21, 3, 2), stride=(2, 1)),
    "weights by taps": dict(x=(9, 2, 12, 13), w=(35, 4, 5), stride=(1, 2), pad=(2, 1)),
    "weights by taps, strips": dict(x=(2, 1, 90, 95), w=(21, 7, 7), stride=(2, 1), dilation=(1, 2)),
    "weights by taps, groups": dict(x=(9, 6, 12, 13), w=(84, 3, 3), pad=(1, 1), groups=3),
    "strips": dict(x=(3, 30, 64, 40), w=(21, 5, 3), stride=(2, 1), pad=(2, 1)),
    "dilated": dict(x=(9, 6, 14, 13), w=(5, 3, 2), dilation=(3, 2)),
    "groups": dict(x=(9, 6, 9, 8), w=(15, 3, 2), pad=(1, 0), groups=3),
    "dilated, phase by phase": dict(x=(5, 16, 9, 10), w=(17, 3, 2), pad=(3, 1), dilation=(3, 2)),
    "few pixels": dict(x=(9, 16, 2, 2), w=(32, 3, 3), pad=(1, 1)),
    "depthwise": dict(x=(9, 35, 9, 8), w=(70, 3, 2), stride=(2, 1), pad=(1, 1), groups=35),
    "depthwise sequence": dict(x=(9, 35, 90, 1), w=(35, 3, 1), pad=(2, 0), groups=35, last=1),
    "sequence, 5 taps": dict(x=(3, 18, 30, 1), w=(20, 5, 1), last=1),
    "sequence": dict(x=(9, 17, 30, 1), w=(21, 3, 1), pad=(2, 0), dilation=(2, 1), last=1),
}


def cut(call: Call, n: slice) -> Call:
    """The same call on some of the samples."""
    batch = {"x", "y", "dy", "dx"}
    args = {
        name: value[n] if name in batch and value is not None else value
        for name, value in call.args.items()
    }
    return Call(call.function, args)


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(compiled, form, dtype, transposed):
    for call in Maker(dtype).conv(**FORMS[form], transposed=transposed):
        name = "dx" if call.function.endswith("backward") else "y"
        together = compiled.run(call)[name]
        for n in (slice(0, 1), slice(1, 2), slice(1, 3), slice(len(together) - 1, None)):
            np.testing.assert_array_equal(compiled.run(cut(call, n))[name], together[n])


@pytest.mark.skipif(not {"v3", "v4"} <= set(built_isas()), reason="needs AVX-512, and both builds")
@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("winograd")])
def test_the_same_bits_with_vectors_of_any_width(form, dtype, transposed):
    options = dict(FORMS[form], transposed=transposed, act=(1, 1.0))
    for call in Maker(dtype).conv(**options):
        one, other = (run(implementation(isa, call.function), call) for isa in ("v3", "v4"))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_rows_that_no_window_reaches_take_no_memory(compiled):
    """Strides far beyond the filters: the pixels between the windows are never laid out."""
    far = {"stride_h": 2**31 - 1, "stride_w": 2**31 - 1}
    for call in Maker("float32").conv((2, 3, 4, 5), (4, 2, 2), (7, 9), out=(3, 2)):
        wanted = compiled.run(call)
        found = compiled.run(Call(call.function, {**call.args, **far}))
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("form", [form for form in FORMS if "in place" in form])
def test_depthwise_weights_meet_only_the_pixels_of_their_windows(form):
    """An infinite pixel makes those gradients infinite or nan that are so in the twin."""
    isa = next((isa for isa in ("v4", "v3") if isa in built_isas()), None)
    if isa is None:
        pytest.skip("this form needs fused multiply-adds")
    *_, call = Maker("float32").conv(**FORMS[form])
    x = call.args["x"].copy()
    x[1, 2, 2, 0] = np.inf
    call = Call(call.function, {**call.args, "x": x})
    with np.errstate(invalid="ignore"):
        found, twin = (run(implementation(i, call.function), call)["dw"] for i in (isa, "np"))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(twin))
    assert np.isfinite(found).any(axis=(1, 2, 3)).all()
