"""Calls of the kernels over small inputs, for every test that needs some.

A `Call` holds the arguments of one kernel by name. `run` lays each array between guard numbers,
makes the inputs read-only and fills the outputs with NaN: a kernel that reads or writes out of
bounds, changes an input or leaves a gap is detected. Arrays that optimizers change in place are
kept.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any, NamedTuple

import numpy as np
from kernel_outputs import FILLED

from npdl._ext import ISAS, PAIRS
from npdl._ext.activation_np import FROM_INPUT, LINEAR, RELU, SIGMOID, TANH

STEM = {function: stem for stem, functions in PAIRS.items() for function in functions}
TWINS = {stem: importlib.import_module(f"npdl._ext.{stem}_np") for stem in PAIRS}

#: Kernels that read the arrays they fill.
IN_PLACE = set(PAIRS["optimizer"])

#: Units of recurrent cells whose weights take more than 1.25 MB, even in float32.
LARGE = {"rnn": 580, "gru": 335, "lstm": 290}

GUARD = 67  # numbers on either side; odd, so that arrays don't start where a cache line does


class Call(NamedTuple):
    """A kernel and its arguments by name; output arrays hold arbitrary values."""

    function: str
    args: dict[str, Any]

    def __repr__(self) -> str:
        """Shapes instead of arrays, which hypothesis would print whole."""
        args = (
            f"{name}={value.dtype}{list(value.shape)}"
            if isinstance(value, np.ndarray)
            else f"{name}={value!r}"
            for name, value in self.args.items()
        )
        return f"{self.function}({', '.join(args)})"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that are filled, without those left out."""
        return tuple(name for name in FILLED[self.function] if self.args[name] is not None)


def parameters(function: str) -> list[str]:
    """Names of the arguments of a kernel, in order."""
    return list(inspect.signature(getattr(TWINS[STEM[function]], function)).parameters)


def built_isas() -> list[str]:
    """Instruction sets that were built here and that this CPU can run."""
    try:
        usable = ISAS[: importlib.import_module("npdl._ext.cpu").level() + 1]
    except ImportError:
        return []
    return [isa for isa in usable if importlib.util.find_spec(f"npdl._ext.dense_{isa}")]


def implementation(suffix: str, function: str):
    """The kernel from the modules of one suffix: "np", or an instruction set."""
    return getattr(importlib.import_module(f"npdl._ext.{STEM[function]}_{suffix}"), function)


def _sentinel(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else 0xA5 if dtype.kind == "u" else -0x5A5A


def guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `array` between guard numbers, and the memory that holds all of it."""
    memory = np.full(array.size + 2 * GUARD, _sentinel(array.dtype), array.dtype)
    view = memory[GUARD : GUARD + array.size].reshape(array.shape)
    view[...] = array
    return view, memory


def run(kernel, call: Call) -> dict[str, np.ndarray]:
    """Call `kernel` and return the arrays it filled; check that it changes nothing else."""
    args, memories, before = dict(call.args), {}, {}
    for name, value in call.args.items():
        if not isinstance(value, np.ndarray):
            continue
        args[name], memories[name] = guarded(value)
        if name not in FILLED[call.function]:
            args[name].flags.writeable = False
        elif call.function not in IN_PLACE:
            args[name][...] = _sentinel(value.dtype)
        before[name] = memories[name].copy()
    kernel(*args.values())
    for name, memory in memories.items():
        if name in FILLED[call.function]:
            outside = np.r_[0:GUARD, memory.size - GUARD : memory.size]
            assert memory[outside].tobytes() == before[name][outside].tobytes(), f"beside {name}"
        else:
            assert memory.tobytes() == before[name].tobytes(), f"{name} was changed"
    return {name: args[name] for name in call.outputs}


def wider(call: Call) -> Call:
    """The same call, with all floating-point arrays in the next wider dtype."""
    formats = {"f4": np.float64, "f8": np.longdouble}

    def widen(value):
        kind = value.dtype.str[1:] if isinstance(value, np.ndarray) else None
        return value.astype(formats[kind]) if kind in formats else value

    return Call(call.function, {name: widen(value) for name, value in call.args.items()})


class Maker:
    """Makes calls with random inputs from a fixed seed, forward and backward."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(7)

    def random(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def empty(self, *shape: int) -> np.ndarray:
        return np.zeros(shape, self.dtype)

    def call(self, function: str, *args: Any) -> Call:
        return Call(function, dict(zip(parameters(function), args, strict=True)))

    def filled(self, function: str, *args: Any) -> Call:
        """A call of a forward kernel whose outputs are those of the twin."""
        getattr(TWINS[STEM[function]], function)(*args)
        return self.call(function, *args)

    def activation(self, size: int, act=(TANH, 1.0)) -> list[Call]:
        x, y = self.random(size, scale=3), self.empty(size)
        forward = self.filled("activation_forward", x, y, act)
        source = x if act[0] in FROM_INPUT else y
        args = source, self.random(size), self.empty(size), act
        return [forward, self.call("activation_backward", *args)]

    def attention(
        self,
        n: int,
        tq: int,
        tk: int,
        h: int,
        d: int,
        e: int,
        q_mask: str | None = None,
        k_mask: str | None = None,
        causal: bool = False,
        additive: bool = False,
        grads: str = "qkvw",
    ) -> list[Call]:
        """Masked steps hold NaN."""
        masks = self.masks(q_mask, n, tq), self.masks(k_mask, n, tk)
        q, k, v = self.random(n, tq, h, d), self.random(n, tk, h, d), self.random(n, tk, h, e)
        dy = self.random(n, tq, h, e)
        for mask, steps in [(masks[0], (q, dy)), (masks[1], (k, v))]:
            for array in steps if mask is not None else ():
                array[mask == 0] = np.nan
        w = self.random(h, d) if additive else None
        args = q, k, v, *masks, w, float(d**-0.5), causal
        found = [
            None if array is None or name not in grads else np.zeros_like(array)
            for name, array in zip("qkvw", (q, k, v, w))
        ]
        return [
            self.call("attention_forward", *args, self.empty(n, tq, h, e)),
            self.call("attention_backward", *args, dy, *found),
        ]

    def dense(
        self, n: int, d: int, u: int, act=(SIGMOID, 1.0), without: tuple[str, ...] = ()
    ) -> list[Call]:
        """`without` names the arrays that are None."""
        x, w, b = self.random(n, d), self.random(d, u, scale=d**-0.5), self.random(u)
        y, dy = self.empty(n, u), self.random(n, u)
        grads = self.empty(n, d), self.empty(d, u), self.empty(u)
        forward = self.filled("dense_forward", x, w, None if "b" in without else b, y, act)
        back = self.call("dense_backward", x, w, y, dy, *grads, act)
        back.args.update(dict.fromkeys(set(without) & set(back.args)))
        return [forward, back]

    def dropout(self, size: int, p: float = 0.3, seed: int = 2**63 + 5) -> list[Call]:
        mask = np.zeros(size, np.uint8)
        return [
            self.filled("dropout_forward", self.random(size), seed, p, self.empty(size), mask),
            self.call("dropout_backward", self.random(size), mask, p, self.empty(size)),
        ]

    def embedding(self, rows: int, width: int, n: int) -> list[Call]:
        """`rows` of the table, each `width` long; `n` of them were looked up."""
        index, grad = self.rng.integers(0, rows, n), self.random(n, width)
        return [self.call("embedding_backward", index, grad, self.empty(rows, width))]

    def merge(self, size: int, act=(LINEAR, 1.0)) -> list[Call]:
        return [
            self.call("add_forward", self.random(size), self.random(size), self.empty(size), act)
        ]

    def norm(
        self,
        shape,
        dx: bool = True,
        dgamma: bool = True,
        dbeta: bool = True,
        act=(LINEAR, 1.0),
    ) -> list[Call]:
        """`shape` (O, C, I)."""
        x, dy = self.random(*shape, scale=2) + self.dtype.type(0.5), self.random(*shape)
        gamma, beta, mean, spread = (self.random(shape[1]) for _ in range(4))
        found, epsilon = (self.empty(shape[1]), self.empty(shape[1])), 1e-3
        grads = [self.empty(*shape), self.empty(shape[1]), self.empty(shape[1])]
        grads = [g if wanted else None for g, wanted in zip(grads, (dx, dgamma, dbeta))]
        fixed = x, gamma, beta, mean, spread * spread, epsilon, self.empty(*shape)
        y = self.empty(*shape)
        return [
            self.filled("norm_forward", x, gamma, beta, epsilon, y, *found, act),
            self.call("norm_backward", x, gamma, beta, *found, epsilon, dy, *grads, act),
            self.call("norm_fixed_forward", *fixed),
        ]

    def layernorm(self, shape, groups: int = 1, without: tuple[str, ...] = ()) -> list[Call]:
        """`shape` (samples, L, I), each of this many groups. `without` are None."""
        n, length, inner = shape[0] * groups, *shape[1:]
        rows, channels, epsilon = (n, length, inner), groups * length, 1e-3
        x, dy = self.random(*rows, scale=2) + self.dtype.type(0.5), self.random(*rows)
        gamma, beta = self.random(channels), self.random(channels)
        mean, scale = self.empty(n), self.empty(n)
        args = dict(x=x, gamma=gamma, beta=beta, epsilon=epsilon, y=self.empty(*rows))
        args |= dict(mean=mean, scale=scale) | {
            key: None for key in without if key in ("mean", "beta")
        }
        forward = self.filled("layernorm_forward", *args.values())
        args = dict(x=x, gamma=gamma, mean=args["mean"], scale=scale, dy=dy, dx=self.empty(*rows))
        args |= dict(dgamma=self.empty(channels), dbeta=self.empty(channels))
        args |= {key: None for key in without if key in args}
        return [forward, self.call("layernorm_backward", *args.values())]

    def conv(
        self,
        x,
        w,
        stride=(1, 1),
        pad=(0, 0),
        out=None,
        act=(SIGMOID, 1.0),
        dilation=(1, 1),
        groups: int = 1,
        last: int = 0,
        without: tuple[str, ...] = (),
        transposed: bool = False,
    ) -> list[Call]:
        """`x` (N, C, H, W), `w` (F, KH, KW); `out` (OH, OW): by default all whole windows.

        `without` names what is None. The transposed convolution goes from y to x.
        """
        (n, c, *image), (f, *window) = x, w
        if out is None:
            axes = zip(image, pad, window, dilation, stride)
            out = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, p, k, d, s in axes]
        sides = [(n, c, *image), (n, f, *out)]
        if last:
            sides = [(n, *size, channels) for n, channels, *size in sides]
        x, y = sides[::-1] if transposed else sides
        x, b = self.random(*x), self.random(c if transposed else f)
        depth = c // groups * window[0] * window[1]
        w = self.random(f, c // groups, *window, scale=depth**-0.5)
        geometry = *stride, *pad, *dilation, groups, last, act
        kind = "conv2d_transposed" if transposed else "conv2d"
        y, dy = self.empty(*y), self.random(*y)
        grads = self.empty(*x.shape), self.empty(*w.shape), self.empty(*b.shape)
        forward = self.filled(f"{kind}_forward", x, w, None if "b" in without else b, y, *geometry)
        back = self.call(f"{kind}_backward", x, w, y, dy, *grads, *geometry)
        back.args.update(dict.fromkeys(set(without) & set(back.args)))
        return [forward, back]

    def pool(
        self, x, window, stride, pad=(0, 0), out=None, values=None, argmax: bool = True
    ) -> list[Call]:
        """`x` (N, C, H, W); `values` makes it integers below that number, so there are ties."""
        n, c, h, w = x
        if out is None:
            out = [(i + 2 * p - k) // s + 1 for i, k, s, p in zip((h, w), window, stride, pad)]
        x = self.random(*x) if values is None else self.rng.integers(values, size=x)
        x = x.astype(self.dtype)
        y, dy, dx = self.empty(n, c, *out), self.random(n, c, *out), self.empty(*x.shape)
        where, steps = np.zeros(y.shape, np.int32), (*window, *stride, *pad)
        calls = [
            self.filled("maxpool_forward", x, y.copy(), where if argmax else None, *steps),
            self.filled("meanpool_forward", x, y, *steps),
            self.call("meanpool_backward", dy, dx, *steps),
        ]
        return [*calls, self.call("maxpool_backward", dy, where, dx)] if argmax else calls

    def resize(self, x, down: int, right: int, linear: bool = True) -> list[Call]:
        """`x` (N, C, H, W)."""
        n, c, h, w = x
        large = n, c, h * down, w * right
        return [
            self.filled("enlarge_forward", self.random(*x), self.empty(*large), linear),
            self.call("enlarge_backward", self.random(*large), self.empty(*x), linear),
        ]

    def recurrent(
        self,
        cell: str,
        n: int,
        t: int,
        d: int,
        u: int,
        mask: str | None = None,
        without: tuple[str, ...] = (),
        act=(TANH, 1.0),
        gate_act=(SIGMOID, 1.0),
        reverse: bool = False,
        drop: str = "",
        after: bool = False,
    ) -> list[Call]:
        """`cell` "rnn", "lstm" or "gru"; `mask` see `masks`; `without` names the None arguments.

        `drop` names "x", "h" or both; `after` is of the reset gate. Steps that are masked are NaN.
        """
        gates, lstm = {"rnn": 1, "lstm": 4, "gru": 3}[cell], cell == "lstm"
        x = self.random(n, t, d)
        w = self.random(1 + after + d + u, gates * u, scale=(d + u) ** -0.5)
        first = [self.random(n, u) for _ in range(1 + lstm)]  # h0, c0
        state = [self.empty(n, t, u) for _ in range(1 + lstm)]  # h, c
        if gates > 1:
            state.append(self.empty(n, t, (gates + after) * u))
        acts = (act,) if gates == 1 else (act, gate_act)
        steps = self.masks(mask, n, t)
        if steps is not None:
            x[steps == 0] = np.nan
        inputs = (x, w, *first, steps, *state)
        drops = (self.drops(n, width, name in drop) for name, width in (("x", d), ("h", u)))
        acts = (*acts, reverse, *drops)
        back = self.call(
            f"{cell}_backward",
            *(*inputs, self.random(n, t, u)),
            *(self.random(n, u) for _ in range(1 + lstm)),  # dhn, dcn
            *(self.empty(*x.shape), self.empty(*w.shape)),
            *(self.empty(n, u) for _ in range(1 + lstm)),  # dh0, dc0
            *acts,
        )
        forward = self.filled(f"{cell}_forward", *inputs, *acts)
        kept = {"c", "gates"} & set(without)  # only for a forward pass
        forward.args.update(dict.fromkeys(kept))
        back.args.update(dict.fromkeys((set(without) - kept) & set(back.args)))
        return [forward, back]

    def drops(self, n: int, width: int, wanted: bool) -> np.ndarray | None:
        """Factors of 0 and 1.5, one in three is 0."""
        if not wanted:
            return None
        return (1.5 * (self.rng.random((n, width)) < 2 / 3)).astype(self.dtype)

    def masks(self, kind: str | None, n: int, t: int) -> np.ndarray | None:
        if kind is None:
            return None
        steps = np.arange(t)[None]
        return {
            "all": np.ones((n, t), np.uint8),
            "none": np.zeros((n, t), np.uint8),
            "some": (self.rng.random((n, t)) < 0.6).astype(np.uint8),
            "lengths": (steps < self.rng.integers(0, t + 1, (n, 1))).astype(np.uint8),
            "late": (steps >= self.rng.integers(0, t + 1, (n, 1))).astype(np.uint8),
            "nonzero": (self.rng.random((n, t)) < 0.6).astype(np.uint8) * np.uint8(200),
        }[kind]

    def softmax(self, n: int, k: int, scale: float = 5.0, dense: bool = False) -> list[Call]:
        z, p, loss = self.random(n, k, scale=scale), self.empty(n, k), self.empty(n)
        t = self.rng.integers(0, k, n)
        if dense:
            t = self.rng.random((n, k)).astype(self.dtype)  # rows need not sum to 1
        calls = [
            self.filled("softmax_xent_forward", z, t, p, loss),
            self.call("softmax_xent_backward", p, t, self.random(n), self.empty(n, k)),
        ]
        if not dense:
            calls += [
                self.call("softmax_forward", z, self.empty(n, k)),
                self.call("softmax_backward", p, self.random(n, k), self.empty(n, k)),
            ]
        calls.append(self.call("right_answers", p, t, np.zeros(n, np.uint8)))
        return calls

    def ctc(
        self,
        n: int,
        t: int,
        k: int,
        length: int,
        blank: int = 0,
        normalize: bool = True,
        mask: str | None = None,
        scale: float = 2.0,
    ) -> list[Call]:
        """`length` of the longest labels; the others are shorter, with padding anywhere."""
        x = self.random(n, t, k, scale=scale)
        if not normalize:
            x -= np.log(np.exp(x).sum(axis=-1, keepdims=True))
            x = (np.round(4096 * x) / 4096).astype(self.dtype)  # exact for any logarithm
        labels = (blank + self.rng.integers(1, max(k, 2), (n, length))) % k
        labels[1:][self.rng.random((max(n - 1, 0), length)) < 0.4] = -1
        if k == 1:  # there is only the blank
            labels[...] = -1
        args = x, labels, self.masks(mask, n, t), blank, normalize
        return [
            self.call("ctc_forward", *args, self.empty(n)),
            self.call("ctc_backward", *args, self.random(n), self.empty(n, t, k)),
        ]

    def log_softmax(self, n: int, k: int, scale: float = 5.0) -> list[Call]:
        z, y = self.random(n, k, scale=scale), self.empty(n, k)
        return [
            self.filled("log_softmax_forward", z, y),
            self.call("log_softmax_backward", y, self.random(n, k), self.empty(n, k)),
        ]

    def optimizer(self, size: int, lr: float = 0.1, step: int = 3) -> list[Call]:
        """Step number `step` of every optimizer, with the state of earlier steps."""

        def call(function: str, slots: str, *numbers: float) -> Call:
            """`slots` "+" holds means of squares, "-" of numbers of either sign."""
            remembered = (self.random(size) for _ in slots)
            arrays = (s if sign == "-" else s * s for s, sign in zip(remembered, slots))
            return self.call(function, self.random(size), self.random(size), *arrays, lr, *numbers)

        unbias1, unbias2 = 1 - 0.9**step, 1 - 0.999**step
        return [
            call("sgd_step", ""),
            call("momentum_step", "-", 0.9, False),
            call("momentum_step", "-", 0.9, True),
            call("adagrad_step", "+", 1e-7),
            call("rmsprop_step", "+", 0.8, 1e-7),
            call("adadelta_step", "++", 0.7, 1e-6),
            call("adam_step", "-+", 0.9, 0.999, 1e-8, unbias1, unbias2),
            call("adamax_step", "-+", 0.9, 0.999, 1e-8, unbias1),
        ]

    def one_of_each(self) -> list[Call]:
        """A call of every kernel, each with shapes that fit nothing else by chance."""
        calls = [
            *self.activation(11),
            *self.attention(3, 4, 5, 2, 7, 6, "some", "some", additive=True),
            *self.dense(6, 7, 9),
            *self.dropout(11),
            *self.embedding(5, 7, 9),
            *self.merge(11),
            *self.norm((4, 5, 6)),
            *self.layernorm((4, 5, 6), groups=3),
            *self.conv((3, 2, 7, 5), (4, 2, 3), (2, 1), (1, 2), act=(RELU, 1.0)),
            *self.conv((3, 2, 7, 5), (4, 2, 3), (2, 1), (1, 2), transposed=True),
            *self.pool((2, 3, 7, 8), (2, 3), (3, 2), (0, 1)),
            *self.resize((2, 3, 4, 5), 2, 3),
            *self.softmax(6, 7, dense=True)[-1:],  # rows of targets determine the others
            *self.softmax(6, 7),
            *self.ctc(3, 9, 7, 4, blank=2, mask="some"),
            *self.log_softmax(6, 7),
            *self.optimizer(13),
        ]
        for cell in ("rnn", "lstm", "gru"):
            calls += self.recurrent(cell, 3, 4, 5, 6, "some", drop="xh")
        pair = (tuple(c.args.values()) for c in self.recurrent("rnn", 3, 4, 5, 6)[:1] * 2)
        return [*calls, self.call("recurrent_pair", "rnn_forward", *pair)]
