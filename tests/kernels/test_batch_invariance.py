"""The output for a sample has the same bits alone, in every batch, and at every position in it."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import FILLED, Maker

from npdl._ext.activation_np import SIGMOID, TANH

# Around the rows of every register tile (4 to 12), and more than one task of rows.
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13)
N = 101
#: Arguments that have a row for each sample.
ROWS = {"x", "h0", "c0", "mask", "z", "t", "drop_x", "drop_h", "q", "k", "v", "q_mask", "k_mask"}


def forward_calls(dtype: str):
    """A forward call of every kernel that keeps samples apart, and a label."""
    make, act = Maker(dtype), (TANH, 1.0)
    for d, u in [
        (1, 1),
        (5, 3),
        (255, 17),
        (257, 10),
        (300, 49),
        (513, 33),
        (784, 10),
        (1030, 145),
    ]:
        yield f"dense-{d}-{u}", make.dense(N, d, u, (SIGMOID, 1.0))[0]
    for cell in ("rnn", "lstm", "gru"):
        # with 3 steps the weights of the state are not packed for a few rows; with 5 they are
        for t, d, u in [(1, 1, 1), (3, 3, 8), (5, 3, 8), (4, 20, 33), (6, 301, 7), (2, 530, 130)]:
            for mask in (None, "some"):
                call = make.recurrent(cell, N, t, d, u, mask, act=act)[0]
                yield f"{cell}-{t}-{d}-{u}-{mask}", call
        call = make.recurrent(cell, N, 4, 6, 19, None, act=act)[0]
        for name in {"gates", "c"} & call.args.keys():
            call.args[name] = None
        yield f"{cell}-states-alone", call
        options: dict = {"reverse": True, "drop": "xh", "after": cell == "gru"}
        for t, mask in [(3, None), (6, "some")]:
            call = make.recurrent(cell, N, t, 6, 19, mask, act=act, **options)[0]
            yield f"{cell}-options-{t}", call
    for c, f, size in [(16, 16, 4), (17, 16, 7), (16, 33, 9), (3, 8, 6), (29, 5, 5)]:
        yield f"conv-{c}-{f}-{size}", make.conv((N, c, size, size), (f, 3, 3), pad=(1, 1))[0]
    yield "conv-stride", make.conv((N, 5, 9, 8), (7, 3, 2), (2, 1), (1, 0))[0]
    for k in (2, 10, 37, 1000):
        yield f"softmax-xent-{k}", make.softmax(N, k)[0]
        yield f"softmax-{k}", make.softmax(N, k)[2]
    for length, inner in [(37, 1), (1030, 1), (5, 13)]:
        yield f"layernorm-{length}-{inner}", make.layernorm((N, length, inner))[0]
    yield "log-softmax", make.log_softmax(N, 37)[0]
    for tq, tk, d, additive in [(1, 9, 5, False), (50, 49, 17, False), (3, 6, 8, True)]:
        for mask in (None, "some"):
            shape = N, tq, tk, 2, d, 5
            call = make.attention(*shape, mask, mask, causal=tq > 3, additive=additive)[0]
            yield f"attention-{tq}-{mask}-{additive}", call
    yield "meanpool", make.pool((N, 3, 7, 9), (2, 3), (2, 2))[1]
    yield "norm-fixed", make.norm((N, 5, 13))[2]


CALLS = {
    f"{label}-{dtype}": call
    for dtype in ("float32", "float64")
    for label, call in forward_calls(dtype)
}


def test_the_calls_are_those_of_forward_kernels():
    assert {call.function for call in CALLS.values()} == {
        *("dense_forward", "rnn_forward", "lstm_forward", "gru_forward", "conv2d_forward"),
        *("softmax_forward", "softmax_xent_forward", "meanpool_forward", "norm_fixed_forward"),
        *("layernorm_forward", "log_softmax_forward"),
        "attention_forward",
    }


@pytest.mark.parametrize("label", CALLS)
def test_bits_of_a_sample_do_not_depend_on_its_batch(compiled, label):
    call = CALLS[label]
    whole = compiled.run(call)
    names = {*FILLED[call.function], *ROWS} - {"w"}
    for size in BATCHES:
        for first in (0, N - size):
            part = {
                name: value[first : first + size]
                if name in names and isinstance(value, np.ndarray)
                else value
                for name, value in call.args.items()
            }
            for name, found in compiled.run(call._replace(args=part)).items():
                wanted = whole[name][first : first + size]
                assert found.tobytes() == wanted.tobytes(), f"{name}, batch of {size} at {first}"


def test_a_bias_of_minus_zero_makes_no_difference(compiled):
    make = Maker("float32")
    call = make.recurrent("rnn", 9, 2, 3, 5, None, act=(TANH, 1.0))[0]
    call.args["w"][0] = -0.0
    call.args["x"][...] = 0
    call.args["h0"][...] = -0.0
    call.args["w"][1:] = -abs(call.args["w"][1:])
    whole = compiled.run(call)["h"]
    part = {
        k: v[:1] if k in ("x", "h0", "h", "mask") and v is not None else v
        for k, v in call.args.items()
    }
    assert compiled.run(call._replace(args=part))["h"].tobytes() == whole[:1].tobytes()
