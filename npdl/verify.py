"""Compare every Cython kernel with its NumPy twin on this machine: ``python -m npdl verify``."""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple, TextIO

import numpy as np

from npdl._ext import available_backends, kernels, load_all, use_backend
from npdl._ext.activation_np import (
    FROM_INPUT,
    LINEAR,
    LOGARITHMS,
    MISH,
    RELU,
    SIGMOID,
    SOFT_PLUS,
    TANH,
)

#: Seconds after which NumPy's threads, which spin for a while, have gone to sleep.
QUIET = 0.3

#: Largest difference allowed, relative to the largest value of the array.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

_RELU, _TANH, _SIGMOID, _SOFT_PLUS = ((code, 1.0) for code in (RELU, TANH, SIGMOID, SOFT_PLUS))


class Case(NamedTuple):
    """One call of a kernel: its name and a complete list of arguments.

    Arrays to be filled contain NaN in `args`, or -1 if they hold integers; arrays that an optimizer
    step changes in place contain numbers.
    """

    function: str
    args: tuple[Any, ...]


class _Maker:
    """Makes the arguments of the kernels, with random inputs from a fixed seed."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(1)
        with use_backend("numpy"):
            self.twins: SimpleNamespace = kernels()

    def random(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * self.rng.standard_normal(shape)).astype(self.dtype)

    def blank(self, *shape: int) -> np.ndarray:
        return np.full(shape, np.nan, self.dtype)

    def filled(self, function: str, *args: Any) -> Case:
        """The case of a forward function, whose arrays are then filled by the twin."""
        case = Case(function, copy.deepcopy(args))
        getattr(self.twins, function)(*args)
        return case


def _activation(make: _Maker, size: int, code: int = TANH) -> Iterator[Case]:
    x, y, act = make.random(size), make.blank(size), (code, 1.0)
    yield make.filled("activation_forward", x, y, act)
    source = x if code in FROM_INPUT else y
    yield Case("activation_backward", (source, make.random(size), make.blank(size), act))


def _attention(
    make: _Maker, n: int, t: int, h: int, d: int, masked: bool = False, additive: bool = False
) -> Iterator[Case]:
    q, k, v, dy = (make.random(n, t, h, d) for _ in range(4))
    masks = [(make.rng.random((n, t)) < 0.7).astype(np.uint8) if masked else None for _ in "qk"]
    w = make.random(h, d) if additive else None
    inputs = q, k, v, *masks, w, d**-0.5, masked
    yield Case("attention_forward", (*inputs, make.blank(n, t, h, d)))
    grads = [make.blank(n, t, h, d) for _ in range(3)]
    yield Case("attention_backward", (*inputs, dy, *grads, make.blank(h, d) if additive else None))


def _dense(make: _Maker, n: int, d: int, u: int) -> Iterator[Case]:
    x, w, b = make.random(n, d), make.random(d, u, scale=d**-0.5), make.random(u)
    y = make.blank(n, u)
    yield make.filled("dense_forward", x, w, b, y, _RELU)
    grads = make.blank(n, d), make.blank(d, u), make.blank(u)
    yield Case("dense_backward", (x, w, y, make.random(n, u), *grads, _RELU))


def _dropout(make: _Maker, size: int) -> Iterator[Case]:
    mask = np.full(size, 255, np.uint8)
    yield make.filled("dropout_forward", make.random(size), 12345, 0.3, make.blank(size), mask)
    yield Case("dropout_backward", (make.random(size), mask, 0.3, make.blank(size)))


def _embedding(make: _Maker, rows: int, width: int, n: int) -> Iterator[Case]:
    index = make.rng.integers(0, rows, n)
    yield Case("embedding_backward", (index, make.random(n, width), make.blank(rows, width)))


def _merge(make: _Maker, size: int) -> Iterator[Case]:
    args = make.random(size), make.random(size), make.blank(size), (RELU, 1.0)
    yield Case("add_forward", args)


def _norm(
    make: _Maker, outer: int, channels: int, inner: int, relu: bool = False
) -> Iterator[Case]:
    shape, epsilon, act = (outer, channels, inner), 1e-3, (RELU if relu else LINEAR, 1.0)
    x, gamma, beta = make.random(*shape), make.random(channels), make.random(channels)
    mean, var = make.blank(channels), make.blank(channels)
    yield make.filled("norm_forward", x, gamma, beta, epsilon, make.blank(*shape), mean, var, act)
    grads = make.blank(*shape), make.blank(channels), make.blank(channels)
    found = x, gamma, beta, mean, var, epsilon
    yield Case("norm_backward", (*found, make.random(*shape), *grads, act))
    fixed = x, gamma, beta, mean, var, epsilon, make.blank(*shape)
    yield Case("norm_fixed_forward", fixed)


def _layernorm(make: _Maker, rows: int, length: int, inner: int, groups: int = 1) -> Iterator[Case]:
    shape, channels = (rows * groups, length, inner), groups * length
    x, gamma, beta = make.random(*shape), make.random(channels), make.random(channels)
    mean, scale = make.blank(shape[0]), make.blank(shape[0])
    yield make.filled("layernorm_forward", x, gamma, beta, 1e-3, make.blank(*shape), mean, scale)
    grads = make.blank(*shape), make.blank(channels), make.blank(channels)
    yield Case("layernorm_backward", (x, gamma, mean, scale, make.random(*shape), *grads))


def _conv(
    make: _Maker,
    image: tuple[int, int, int, int],
    filters: tuple[int, int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    last: int = 0,
) -> Iterator[Case]:
    """A convolution, and the transposed one that goes back from its output."""
    (n, c, *size), (f, *window) = image, filters
    axes = zip(size, window, stride, pad, dilation)
    out = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in axes]
    below, above = ((n, *size, c), (n, *out, f)) if last else ((n, c, *size), (n, f, *out))
    w = make.random(f, c // groups, *window, scale=(c // groups * window[0] * window[1]) ** -0.5)
    geometry = *stride, *pad, *dilation, groups, last, _RELU
    for kind, source, target, biases in [
        ("conv2d", below, above, f),
        ("conv2d_transposed", above, below, c),
    ]:
        x, b, y = make.random(*source), make.random(biases), make.blank(*target)
        yield make.filled(f"{kind}_forward", x, w, b, y, *geometry)
        dy, grads = make.random(*y.shape), (make.blank(*a.shape) for a in (x, w, b))
        yield Case(f"{kind}_backward", (x, w, y, dy, *grads, *geometry))


def _pool(
    make: _Maker,
    image: tuple[int, int, int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int] = (0, 0),
) -> Iterator[Case]:
    n, c, height, width = image
    out_h = (height + 2 * pad[0] - window[0]) // stride[0] + 1
    out_w = (width + 2 * pad[1] - window[1]) // stride[1] + 1
    geometry = (*window, *stride, *pad)
    # Well-separated values, so rounding does not decide which of two is larger.
    x = make.rng.permutation(np.linspace(-1, 1, n * c * height * width)).reshape(image)
    x = x.astype(make.dtype)
    y, argmax = make.blank(n, c, out_h, out_w), np.full((n, c, out_h, out_w), -1, np.int32)
    yield make.filled("maxpool_forward", x, y, argmax, *geometry)
    dy = make.random(*y.shape)
    yield Case("maxpool_backward", (dy, argmax, make.blank(*image)))
    yield make.filled("meanpool_forward", x, make.blank(*y.shape), *geometry)
    yield Case("meanpool_backward", (dy, make.blank(*image), *geometry))


def _resize(
    make: _Maker, image: tuple[int, int, int, int], down: int, right: int
) -> Iterator[Case]:
    n, c, height, width = image
    large = n, c, height * down, width * right
    for linear in (False, True):
        yield make.filled("enlarge_forward", make.random(*image), make.blank(*large), linear)
        yield Case("enlarge_backward", (make.random(*large), make.blank(*image), linear))


def _rnn(
    make: _Maker, n: int, t: int, d: int, u: int, masked: bool = False, options: bool = False
) -> Iterator[Case]:
    """A case of each recurrent kernel; `options` are dropout, and a GRU with `reset_after`."""
    x, h0, c0 = make.random(n, t, d), make.random(n, u), make.random(n, u)
    mask = (make.rng.random((n, t)) < 0.7).astype(np.uint8) if masked else None
    dh, dhn, dcn = make.random(n, t, u), make.random(n, u), make.random(n, u)
    more: tuple[Any, ...] = masked, None, None  # whether to walk backwards, factors
    if options:
        more = masked, make.random(n, d), make.random(n, u)

    def weights(gates: int, biases: int = 1) -> np.ndarray:
        return make.random(biases + d + u, gates * u, scale=(d + u) ** -0.5)

    def state() -> np.ndarray:
        return make.blank(n, t, u)

    def grads(w: np.ndarray, states: int) -> list[np.ndarray]:
        """dx and dw, then one gradient for each initial state."""
        return [make.blank(*s) for s in [(n, t, d), w.shape, *[(n, u)] * states]]

    w, h = weights(1), state()
    one = make.filled("rnn_forward", x, w, h0, mask, h, _TANH, *more)
    yield one
    yield Case("rnn_backward", (x, w, h0, mask, h, dh, dhn, *grads(w, 1), _TANH, *more))
    other = (x, weights(1), h0, mask, state(), _SIGMOID, not masked, *more[1:])
    yield Case("recurrent_pair", ("rnn_forward", copy.deepcopy(one.args), other))

    acts = _TANH, _SIGMOID
    w, h, c, gates = weights(4), state(), state(), make.blank(n, t, 4 * u)
    yield make.filled("lstm_forward", x, w, h0, c0, mask, h, c, gates, *acts, *more)
    inputs = (x, w, h0, c0, mask, h, c, gates)
    yield Case("lstm_backward", (*inputs, dh, dhn, dcn, *grads(w, 2), *acts, *more))

    acts = _SOFT_PLUS if masked else _TANH, _SIGMOID
    w, h, gates = weights(3, 1 + options), state(), make.blank(n, t, (3 + options) * u)
    yield make.filled("gru_forward", x, w, h0, mask, h, gates, *acts, *more)
    yield Case("gru_backward", (x, w, h0, mask, h, gates, dh, dhn, *grads(w, 1), *acts, *more))


def _softmax(make: _Maker, n: int, k: int, dense: bool = False) -> Iterator[Case]:
    z, p, loss = make.random(n, k, scale=5), make.blank(n, k), make.blank(n)
    yield make.filled("softmax_forward", z, p)
    yield Case("softmax_backward", (p, make.random(n, k), make.blank(n, k)))
    labels = make.rng.integers(0, k, n)
    target = np.eye(k, dtype=make.dtype)[labels] if dense else labels
    yield make.filled("softmax_xent_forward", z, target, p, loss)
    yield Case("softmax_xent_backward", (p, target, make.random(n), make.blank(n, k)))
    yield Case("right_answers", (p, target, np.full(n, 255, np.uint8)))


def _ctc(make: _Maker, n: int, t: int, k: int, length: int, masked: bool = False) -> Iterator[Case]:
    x, labels = make.random(n, t, k, scale=2), make.rng.integers(0, k - 1, (n, length))
    mask = (np.arange(t) >= make.rng.integers(0, t // 4 + 1, (n, 1))).astype(np.uint8)
    inputs = x, labels, mask if masked else None, k - 1, True
    yield Case("ctc_forward", (*inputs, make.blank(n)))
    yield Case("ctc_backward", (*inputs, make.random(n), make.blank(n, t, k)))


def _log_softmax(make: _Maker, n: int, k: int) -> Iterator[Case]:
    z, y = make.random(n, k, scale=5), make.blank(n, k)
    yield make.filled("log_softmax_forward", z, y)
    yield Case("log_softmax_backward", (y, make.random(n, k), make.blank(n, k)))


def _optimizer(make: _Maker, size: int) -> Iterator[Case]:
    lr, rho, beta1, beta2, epsilon = 0.1, 0.9, 0.9, 0.999, 1e-7
    unbias1, unbias2 = 0.1, 0.001  # of the first step

    def step(function: str, squares: str, *numbers: float) -> Case:
        """`squares` "yn": the first array that is remembered is of squares, the second is not."""
        arrays = [make.random(size) for _ in range(2 + len(squares))]
        for array, square in zip(arrays[2:], squares):
            if square == "y":
                array *= array
        return Case(function, (*arrays, lr, *numbers))

    yield step("sgd_step", "")
    yield step("momentum_step", "n", 0.9, True)
    yield step("adagrad_step", "y", epsilon)
    yield step("rmsprop_step", "y", rho, epsilon)
    yield step("adadelta_step", "yy", rho, epsilon)
    yield step("adam_step", "ny", beta1, beta2, epsilon, unbias1, unbias2)
    yield step("adamax_step", "ny", beta1, beta2, epsilon, unbias1)


def cases(dtype: str, size: str) -> Iterator[Case]:
    """Yield calls of every kernel.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    size : {"odd", "usual"}
        Awkward shapes: ones, primes, gaps between windows, masks. Or one case of each kernel, of a
        size that is usual in training.
    """
    make = _Maker(dtype)
    if size == "usual":
        yield from _activation(make, 200_000)
        yield from _attention(make, 32, 64, 4, 32)
        yield from _dense(make, 64, 784, 256)
        yield from _dropout(make, 200_000)
        yield from _embedding(make, 5000, 64, 2000)
        yield from _merge(make, 400_000)
        yield from _norm(make, 64, 32, 196)
        yield from _layernorm(make, 2048, 128, 1)
        yield from _conv(make, (32, 16, 16, 16), (32, 3, 3), (1, 1), (1, 1))
        yield from _pool(make, (64, 32, 16, 16), (2, 2), (2, 2))
        yield from [*_resize(make, (64, 32, 16, 16), 2, 2)][2:]
        yield from _rnn(make, 32, 32, 64, 64)
        yield from _softmax(make, 1024, 100)
        yield from _ctc(make, 32, 100, 40, 20)
        yield from _log_softmax(make, 1024, 100)
        yield from _optimizer(make, 400_000)
        return
    if size != "odd":
        raise ValueError(f"size must be 'odd' or 'usual'. Received: size={size!r}.")
    for length in (1, 37):
        for code in range(LINEAR, MISH + 1):
            yield from _activation(make, length, code)
        for code in LOGARITHMS:
            x = make.random(length) ** 2 + 0.1
            yield Case("activation_forward", (x, make.blank(length), (code, 1.0)))
    for additive in (False, True):
        yield from _attention(make, 1, 1, 1, 1, additive=additive)
        yield from _attention(make, 3, 53, 2, 7, masked=True, additive=additive)
    for length in (1, 37, 16411):
        yield from _dropout(make, length)
    for table in [(1, 1, 1), (17, 11, 101)]:
        yield from _embedding(make, *table)
    for shape in [(37, 67, 1), (5, 3, 7), (3, 2, 521)]:
        yield from _norm(make, *shape)
        yield from _norm(make, *shape, relu=True)
    for length in (1, 37, 16411):
        yield from _merge(make, length)
    yield from _layernorm(make, 37, 67, 1)
    yield from _layernorm(make, 5, 3, 7, groups=2)
    for shape in [(1, 1, 1), (7, 5, 3), (13, 67, 31)]:
        yield from _dense(make, *shape)
    yield from _conv(make, (1, 1, 1, 1), (1, 1, 1), (1, 1), (0, 0))
    yield from _conv(make, (2, 3, 7, 5), (4, 2, 3), (2, 1), (1, 2))
    yield from _conv(make, (3, 2, 11, 13), (5, 2, 2), (3, 4), (0, 0))
    yield from _conv(make, (3, 1, 11, 7), (5, 3, 7), (1, 1), (0, 0))
    yield from _conv(make, (3, 1, 11, 12), (33, 5, 5), (1, 1), (2, 2))
    yield from _conv(make, (2, 16, 16, 9), (17, 3, 3), (1, 1), (2, 1), (2, 1))
    yield from _conv(make, (3, 4, 11, 9), (6, 2, 3), (2, 1), (1, 2), (3, 2), groups=2)
    yield from _conv(make, (3, 5, 17, 1), (7, 3, 1), (1, 1), (2, 0), (2, 1), last=1)
    yield from _pool(make, (1, 1, 1, 1), (1, 1), (1, 1))
    yield from _pool(make, (2, 3, 7, 5), (2, 3), (1, 2))
    yield from _pool(make, (3, 2, 11, 13), (2, 2), (3, 4))
    yield from _pool(make, (2, 3, 9, 35), (3, 18), (2, 5), (1, 17))
    yield from _pool(make, (2, 3, 9, 7), (3, 3), (2, 2), (1, 1))
    yield from _resize(make, (2, 3, 5, 4), 2, 3)
    yield from _resize(make, (2, 1, 3, 300), 2, 2)
    for sequence in [(1, 1, 1, 1), (3, 7, 5, 11)]:
        yield from _rnn(make, *sequence)
    for options in (False, True):
        yield from _rnn(make, 5, 6, 3, 7, masked=True, options=options)
    for rows, columns in [(1, 1), (17, 11)]:
        yield from _softmax(make, rows, columns)
        yield from _log_softmax(make, rows, columns)
    yield from _softmax(make, 17, 11, dense=True)
    yield from _ctc(make, 1, 1, 2, 1)
    yield from _ctc(make, 5, 37, 7, 9, masked=True)
    for length in (1, 37, 16411):
        yield from _optimizer(make, length)


def difference(case: Case, one: Callable[..., None], other: Callable[..., None]) -> float:
    """Largest difference of the arrays after two kernels, relative to the largest value.

    Every array of the call is compared, so a kernel that writes to its input is detected. A
    value that is not finite, or was never filled, counts as infinitely wrong.
    """
    worst = 0.0
    results = []
    for function in (one, other):
        args = copy.deepcopy(case.args)
        function(*args)
        results.append(list(arrays_of(args)))
    for a, b in zip(*results, strict=True):
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return np.inf
        gap = np.abs(a.astype(float) - b).max(initial=0.0)
        worst = max(worst, gap / max(np.abs(a).max(initial=0.0), np.finfo(float).tiny))
    return float(worst)


def arrays_of(args: tuple[Any, ...]) -> Iterator[np.ndarray]:
    """The arrays among some arguments, and in those that are the arguments of a call."""
    for value in args:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple):
            yield from arrays_of(value)


def median_time(case: Case, function: Callable[..., None], budget: float) -> float:
    """Median time of one call in seconds, from as many calls as fit into `budget` seconds."""
    args = copy.deepcopy(case.args)
    function(*args)  # warm up
    times: list[float] = []
    end = time.perf_counter() + budget
    while not times or (time.perf_counter() < end and len(times) < 100):
        start = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_times(cases: Iterable[Case], kernels: SimpleNamespace, budget: float) -> list[float]:
    """`median_time` of each case on one backend, once the threads of the other sleep."""
    time.sleep(QUIET)
    return [median_time(case, getattr(kernels, case.function), budget) for case in cases]


def verify(file: TextIO | None = None, budget: float = 0.1) -> bool:
    """Print the table of all kernel pairs, and return whether every pair agrees.

    Parameters
    ----------
    file : text file, optional
        Where the table goes; standard output by default.
    budget : float
        Seconds to spend on timing one kernel in one dtype.

    Raises
    ------
    ValueError
        If the Cython kernels were not built.
    """
    pair: list[SimpleNamespace] = []
    for backend in ("cython", "numpy"):
        with use_backend(backend):
            pair.append(kernels())
    cython, numpy = pair
    head = f"{'kernel':<28}{'dtype':<9}{'difference':>10}{'cython':>12}{'numpy':>12}{'ratio':>8}"
    print(head, file=file)
    print("-" * (len(head) + 10), file=file)
    good = True
    for dtype, tolerance in TOLERANCE.items():
        worst: dict[str, float] = {}
        usual = list(cases(dtype, "usual"))
        for case in (*cases(dtype, "odd"), *usual):
            functions = getattr(cython, case.function), getattr(numpy, case.function)
            worst[case.function] = max(worst.get(case.function, 0.0), difference(case, *functions))
        # All of one backend, then all of the other, so that their threads do not compete.
        times = [median_times(usual, active, budget) for active in pair]
        for case, ours, theirs in zip(usual, *times):
            ok = worst[case.function] <= tolerance
            good &= ok
            print(
                f"{case.function:<28}{dtype:<9}{worst[case.function]:>10.1e}{ours * 1e6:>9.0f} µs"
                f"{theirs * 1e6:>9.0f} µs{theirs / ours:>7.1f}x  {'ok' if ok else 'MISMATCH'}",
                file=file,
            )
    return good


def run(budget: float = 0.1) -> int:
    """Run ``python -m npdl verify``: 0 if all pairs agree, 1 if not, 2 without Cython kernels."""
    if "cython" not in available_backends():
        print(
            "There is nothing to compare: npdl was built without its Cython kernels. Install a C "
            "compiler and reinstall npdl.",
            file=sys.stderr,
        )
        return 2
    try:
        load_all()
    except ImportError as error:
        print(f"A kernel can't be loaded: {error}. Reinstall npdl.", file=sys.stderr)
        return 2
    good = verify(budget=budget)
    print("\nEvery kernel agrees with its twin." if good else "\nMISMATCH: see above.")
    return 0 if good else 1
