"""A kernel rejects wrong arguments with an exception: it never crashes or writes out of bounds.

Each kernel is called with each of its arguments wrong in turn. The calls run in a separate process,
which names each call before it makes it: if the process dies or hangs, that call has failed, and a
new process continues with the next one.
"""

from __future__ import annotations

import array
import faulthandler
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_calls import (
    FILLED,
    IN_PLACE,
    STEM,
    Call,
    Maker,
    built_isas,
    guarded,
    implementation,
    parameters,
)

from npdl._ext.activation_np import FROM_INPUT

HERE = Path(__file__).parent
SCRIPT = f"""
import sys
sys.path[:0] = {[str(HERE), str(HERE.parent)]}
from test_bad_arguments import main
main(sys.argv[1], int(sys.argv[2]))
"""
PATIENCE = 3  # seconds that a call may take

HAS_DX = ("conv", "dense", "norm", "rnn")

#: Arguments that may be None.
OPTIONAL = {
    *(("lstm_forward", name) for name in ("c", "gates")),
    ("gru_forward", "gates"),
    *((f, "dx") for f in FILLED if f.endswith("backward") and STEM[f] in HAS_DX),
    *((f, name) for f in FILLED if STEM[f] in ("conv", "dense") for name in ("b", "dw", "db")),
    *((f, name) for f in FILLED if STEM[f] == "rnn" for name in ("mask", "dh", "dhn", "dcn")),
    *((f, name) for f in FILLED if STEM[f] == "rnn" for name in ("drop_x", "drop_h")),
    *((f"{cell}_backward", "dw") for cell in ("rnn", "lstm", "gru")),
    ("maxpool_forward", "argmax"),
    *(("norm_backward", name) for name in ("dgamma", "dbeta")),
    *(("layernorm_forward", name) for name in ("beta", "mean")),
    *(("layernorm_backward", name) for name in ("mean", "dx", "dgamma", "dbeta")),
    *((f, "mask") for f in FILLED if STEM[f] == "ctc"),
    *((f, f"{one}_mask") for f in FILLED if STEM[f] == "attention" for one in "qk"),
    *(("attention_backward", f"d{one}") for one in "qkvw"),
    ("attention_forward", "w"),
}

#: Axes whose length no other argument fixes: the shape of y is the caller's choice in a
#: convolution, and a pooled image may be larger than its windows reach.
FREE = {
    ("embedding_backward", "dtable"): (0,),
    ("ctc_forward", "x"): (2,),
    ("ctc_forward", "labels"): (1,),
    ("ctc_backward", "labels"): (1,),
    **{(f"conv2d_{kind}forward", name): (2, 3) for kind in ("", "transposed_") for name in "xwy"},
    ("maxpool_forward", "x"): (2, 3),
    ("maxpool_backward", "dx"): (2, 3),
    ("meanpool_forward", "x"): (2, 3),
    ("meanpool_forward", "y"): (2, 3),
    ("meanpool_backward", "dx"): (2, 3),
    ("meanpool_backward", "dy"): (2, 3),
    **{("enlarge_forward", name): (2, 3) for name in ("x", "y")},
    **{("enlarge_backward", name): (2, 3) for name in ("dx", "dy")},
}
BAD_ACTS = {
    "unknown": (17, 1.0),
    "negative": (-1, 1.0),
    "None": None,
    "name": "tanh",
    "one": (2,),
    "three": (2, 1.0, 1.0),
    "words": ("tanh", 1.0),
    "object": object(),
}
BAD_NUMBERS = {"None": None, "fraction": 1.5, "word": "1", "negative": -1, "overflows": 2**70}
BAD_FLOATS = {"None": None, "word": "1", "complex": 1j, "overflows": 10**400}


def wrong_arrays(function: str, name: str, value: np.ndarray):
    """Yield (name of the mistake, replacement of the array)."""
    other = {"f4": "f8", "f8": "f4", "i4": "i8", "i8": "i4", "u1": "i8"}[value.dtype.str[1:]]
    yield "dtype", value.astype(other)
    yield "complex", value.astype(complex)
    if value.itemsize > 1:
        yield "swapped", value.astype(value.dtype.newbyteorder())
        yield "bytes", value.tobytes()
    yield "half", value.astype(np.float16)
    yield "objects", value.astype(object)
    yield "fields", value.astype([("x", value.dtype)])
    yield "dates", value.astype("M8[s]")  # these have no buffer
    yield "words", value.astype(str)
    yield "list", value.tolist()
    yield "number", 1.0
    yield "word", "array"
    yield "None", None
    yield "0-d", value.reshape(-1)[0]
    yield "released", _released(value)
    yield "flat", value.reshape(-1) if value.ndim > 1 else value[None]
    yield "deeper", value[..., None]
    yield "gaps", np.repeat(value, 2, axis=-1)[..., ::2]
    yield "gaps in a memoryview", memoryview(np.repeat(value, 2, axis=0))[::2]
    yield "backwards", value[..., ::-1]
    if value.ndim > 1:
        yield "fortran", np.asfortranarray(value)
    if name in FILLED[function]:
        value = value.copy()
        value.flags.writeable = False
        yield "read only", value
    for axis in range(value.ndim):
        if axis not in FREE.get((function, name), ()):
            yield f"axis {axis} longer", np.concatenate([value, value], axis)
            yield f"axis {axis} shorter", np.delete(value, 0, axis)
            yield f"axis {axis} empty", np.take(value, [], axis)


def _released(array: np.ndarray) -> memoryview:
    view = memoryview(array)
    view.release()
    return view


def bad_calls(function: str, dtype: str):
    """Yield (label, call), every call with one wrong argument."""
    call = next(c for c in Maker(dtype).one_of_each() if c.function == function)
    label = "{} {}".format
    for name, value in call.args.items():

        def wrong(thing, name=name):
            return Call(function, {**call.args, name: thing})

        if isinstance(value, np.ndarray):
            for what, thing in wrong_arrays(function, name, value):
                if what != "None" or (function, name) not in OPTIONAL:
                    yield label(name, what), wrong(thing)
        elif name.endswith("act"):
            for what, thing in BAD_ACTS.items():
                yield label(name, what), wrong(thing)
            if STEM[function] != "activation":
                for code in FROM_INPUT:
                    yield label(name, f"of the input, {code}"), wrong((code, 1.0))
        elif isinstance(value, float):
            for what, thing in BAD_FLOATS.items():
                yield label(name, what), wrong(thing)
        elif not isinstance(value, bool):  # any value is accepted as a bool
            for what, thing in BAD_NUMBERS.items():
                yield label(name, what), wrong(thing)
            if not name.startswith("pad") and name not in ("seed", "blank", "channels_last"):
                yield label(name, "0"), wrong(0)
            if not name.startswith("pad") and name != "seed":
                yield label(name, "huge"), wrong(2**62)  # its double overflows
            if "pool" in function and name not in ("kh", "kw"):  # a window may reach beyond
                yield label(name, "large"), wrong(1000)
    if function == "maxpool_backward":
        dy, argmax, dx = call.args.values()
        for place in (-1, dx.shape[2] * dx.shape[3], -(2**31), 2**31 - 1):
            outside = argmax.copy()
            outside[1, 2, 0, 1] = place
            yield f"argmax {place}", Call(function, dict(dy=dy, argmax=outside, dx=dx))
    if "dropout" in function:
        for number in (-0.1, 1.0, 1.5, np.inf, np.nan):
            yield f"p {number}", Call(function, {**call.args, "p": number})
    if function == "embedding_backward":
        for number in (-1, len(call.args["dtable"]), -(2**63), 2**63 - 1):
            index = call.args["index"].copy()
            index[-1] = number
            yield f"index {number}", Call(function, {**call.args, "index": index})
    if "xent" in function:
        width = call.args["p"].shape[1]
        for number in (-1, width, -(2**63), 2**63 - 1):
            labels = call.args["t"].copy()
            labels[-1] = number
            yield f"t {number}", Call(function, {**call.args, "t": labels})


def outcome(kernel, call: Call) -> str:
    """The outcome of a call: "refused", or what went wrong."""
    args = dict(call.args)
    memories = {}
    for name, value in args.items():
        if isinstance(value, np.ndarray) and value.flags.c_contiguous and value.flags.writeable:
            args[name], memories[name] = guarded(value)
    before = {name: memory.tobytes() for name, memory in memories.items()}
    try:
        kernel(*args.values())
    except (ValueError, TypeError, BufferError, OverflowError) as error:
        outside = [
            name
            for name, memory in memories.items()
            if name not in FILLED[call.function] or call.function in IN_PLACE
            if memory.tobytes() != before[name]
        ]
        if outside:
            return f"changed {outside}"
        return "refused" if str(error) else "refused without a word"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return "accepted"


def all_bad_calls():
    """Yield (function, dtype, label, call)."""
    for function in FILLED:
        for dtype in ("float32", "float64"):
            for label, call in bad_calls(function, dtype):
                yield function, dtype, label, call


def main(isa: str, start: int) -> None:
    """Print each call and its outcome, starting with call number `start`."""
    faulthandler.enable()
    for function, dtype, label, call in itertools.islice(all_bad_calls(), start, None):
        print(function, dtype, label, end="\t", flush=True)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        print(outcome(implementation(isa, function), call), flush=True)


@pytest.fixture(scope="module", params=built_isas())
def outcomes(request):
    """The outcome of every call, by function, dtype and label."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    done = 0
    while True:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, request.param, str(done)],
            capture_output=True,
            text=True,
        )
        for line in run.stdout.splitlines():
            function, dtype, rest = line.split(maxsplit=2)
            label, _, what = rest.partition("\t")
            found.setdefault((function, dtype), {})[label] = what or "crashed or hung"
            done += 1
        if run.returncode == 0:
            return found
        if not run.stdout:
            pytest.fail(run.stderr)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "function, argument",
    [
        (function, argument)
        for function in FILLED
        for argument in parameters(function)
        if argument not in ("nesterov", "normalize", "linear", "reverse", "causal")
    ],
)
def test_kernels_refuse(outcomes, function, dtype, argument):
    found = outcomes[function, dtype].items()
    of_argument = {label: what for label, what in found if label.split()[0] == argument}
    assert of_argument
    assert {label: what for label, what in of_argument.items() if what != "refused"} == {}


def test_good_calls_are_not_refused(compiled):
    """The calls succeed without the wrong argument."""
    for dtype in ("float32", "float64"):
        for call in Maker(dtype).one_of_each():
            compiled.run(call)


ARRAYS = [
    (function, name)
    for function in FILLED
    for name, value in next(
        c for c in Maker("float32").one_of_each() if c.function == function
    ).args.items()
    if isinstance(value, np.ndarray)
]


@pytest.mark.parametrize("function, name", ARRAYS)
def test_messages_name_the_argument(compiled, function, name):
    call = next(c for c in Maker("float32").one_of_each() if c.function == function)
    value = call.args[name]
    rule = f"^{function}: {name} must be a C-ordered(, writable)? array of .*{value.dtype}"
    swapped = value.astype(value.dtype.newbyteorder() if value.itemsize > 1 else ">i2")
    for wrong, error, received in [
        (value.tolist(), TypeError, r"list\."),
        (swapped, ValueError, re.escape(f"ndarray of {swapped.dtype}, shape {value.shape}.")),
        (np.stack([value] * 2, -1)[..., 0], ValueError, r".*, not C-ordered\."),
    ]:
        with pytest.raises(error, match=f"{rule}.* Received: {received}"):
            getattr(compiled, function)(*{**call.args, name: wrong}.values())


class Derived(np.ndarray):
    """An array that fails every operation."""

    def __getattribute__(self, name):
        raise AssertionError(f"asked for {name}")


def _as_derived(array):
    return array.view(Derived)


@pytest.mark.parametrize("wrap", [memoryview, _as_derived])
@pytest.mark.parametrize("function", FILLED)
def test_whatever_holds_such_numbers_will_do(compiled, function, wrap):
    call = next(c for c in Maker("float32").one_of_each() if c.function == function)
    plain, wrapped = (
        {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in call.args.items()}
        for _ in range(2)
    )
    getattr(compiled, function)(*plain.values())
    arrays = {n: wrap(v) for n, v in wrapped.items() if isinstance(v, np.ndarray)}
    getattr(compiled, function)(*{**wrapped, **arrays}.values())
    for name in FILLED[function]:
        np.testing.assert_array_equal(np.array(memoryview(arrays[name])), plain[name])


def test_masks_may_be_of_bool(compiled):
    make = Maker("float32")
    dy, mask, p, dx = make.dropout(11)[1].args.values()
    compiled.dropout_backward(dy, mask.astype(bool), p, dx)
    found = dx.copy()
    compiled.dropout_backward(dy, mask, p, dx)
    np.testing.assert_array_equal(found, dx)


def test_no_buffer_is_kept(compiled):
    """A Python array can be resized after a call, also after one that raised an error."""
    x, y, z = (array.array("f", [1, 2, 3]) for _ in range(3))
    compiled.activation_forward(x, y, (0, 1.0))
    z.append(4)
    for args in [(x, z), (x, array.array("d", [1])), (x, None), (z, "word")]:
        with pytest.raises((TypeError, ValueError)):
            compiled.activation_forward(*args, (0, 1.0))
    for one in (x, y, z):
        one.append(5)
    assert y.tolist() == [1, 2, 3, 5]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs __buffer__")
def test_memory_must_be_that_of_the_object_itself(compiled):
    class Passing:
        def __buffer__(self, flags):
            return memoryview(bytearray(12)).cast("f")

    with pytest.raises(ValueError, match="Received: Passing of f"):
        compiled.activation_forward(Passing(), np.zeros(3, np.float32), (0, 1.0))


def test_messages_name_the_value_and_its_range(compiled):
    make = Maker("float32")
    z, t, p, loss = make.softmax(6, 7)[0].args.values()
    t[3] = 7
    with pytest.raises(ValueError, match=r"label 7 is outside \[0, 7\)"):
        compiled.softmax_xent_forward(z, t, p, loss)
    with pytest.raises(ValueError, match=r"index 7 is outside \[0, 7\)"):
        compiled.embedding_backward(t, z, make.empty(7, 7))
    with pytest.raises(ValueError, match="Unknown activation code 17"):
        compiled.activation_forward(z.ravel(), p.ravel(), (17, 1.0))
