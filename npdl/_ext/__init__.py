"""Level 0: the kernels. They read arrays and fill arrays of the caller, and know no layers.

Each hot path is a pair of files with the same functions: ``conv_np.py``, the NumPy twin, defines
the contract and is the fallback; ``conv.pyx`` is the Cython kernel, compiled once for each
instruction set. This module selects the kernels once, at import, and loads those that few programs
need when they are first called::

    kernels().dense_forward(x, w, b, y, (RELU, 1.0))

Environment
-----------
NPDL_BACKEND : "cython" or "numpy"
    Forces a backend; forcing a missing one is an error. Default: cython where it was built.
NPDL_ISA : "base", "v3" or "v4"
    Forces the build for one instruction set; an error where it is missing or the CPU can't run it.
NPDL_NUM_THREADS : int
    Threads that a kernel may use. Default: the cores that this process may use.
NPDL_PRECISION : "fast" or "exact"
    See `set_precision`.
NPDL_REQUIRE_EXT : "1"
    Makes a missing extension an error instead of a warning.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from npdl._ext.cores import usable_cores

#: The kernel pairs: module stem -> its functions.
PAIRS = {
    "activation": ("activation_forward", "activation_backward", "add_forward"),
    "attention": ("attention_forward", "attention_backward"),
    "conv": (
        "conv2d_forward",
        "conv2d_backward",
        "conv2d_transposed_forward",
        "conv2d_transposed_backward",
    ),
    "ctc": ("ctc_forward", "ctc_backward"),
    "dense": ("dense_forward", "dense_backward"),
    "dropout": ("dropout_forward", "dropout_backward"),
    "embedding": ("embedding_backward",),
    "layernorm": ("layernorm_forward", "layernorm_backward"),
    "log_softmax": ("log_softmax_forward", "log_softmax_backward"),
    "norm": ("norm_forward", "norm_fixed_forward", "norm_backward"),
    "optimizer": (
        "sgd_step",
        "momentum_step",
        "adagrad_step",
        "rmsprop_step",
        "adadelta_step",
        "adam_step",
        "adamax_step",
    ),
    "pool": ("maxpool_forward", "maxpool_backward", "meanpool_forward", "meanpool_backward"),
    "resize": ("enlarge_forward", "enlarge_backward"),
    "rnn": (
        "rnn_forward",
        "rnn_backward",
        "lstm_forward",
        "lstm_backward",
        "gru_forward",
        "gru_backward",
        "recurrent_pair",
    ),
    "softmax": (
        "softmax_forward",
        "softmax_backward",
        "softmax_xent_forward",
        "softmax_xent_backward",
        "right_answers",
    ),
}

#: Functions that only move numbers, the same for all backends; see ``moves.py``.
MOVES = ("copy_array", "mark_steps", "take_rows")

#: Kernels that can be steps of a program (``steps.pyx``): function -> the places, among its
#: arguments, of the arrays that hang on the input, and of those that it fills.
STEPS = {
    "activation_forward": ((0,), (1,)),
    "add_forward": ((0, 1), (2,)),
    "attention_forward": ((0, 1, 2, 3, 4), (8,)),
    "conv2d_forward": ((0,), (3,)),
    "conv2d_transposed_forward": ((0,), (3,)),
    "copy_array": ((0,), (1,)),
    "dense_forward": ((0,), (3,)),
    "gru_forward": ((0, 3), (4,)),
    "layernorm_forward": ((0,), (4, 5, 6)),
    "lstm_forward": ((0, 4), (5, 6)),
    "mark_steps": ((0,), (1,)),
    "maxpool_forward": ((0,), (1,)),
    "meanpool_forward": ((0,), (1,)),
    "norm_fixed_forward": ((0,), (6,)),
    "rnn_forward": ((0, 3), (4,)),
    "softmax_forward": ((0,), (1,)),
    "take_rows": ((1,), (2,)),
}

#: Modules that most programs need, which are loaded at import and show that a build is whole. The
#: others are loaded when one of their functions is first called, or at import with
#: NPDL_REQUIRE_EXT=1.
COMMON = ("activation", "dense", "optimizer", "softmax")

#: Instruction sets that a build may contain, the best last.
ISAS = ("base", "v3", "v4")


class _Unloaded:
    """A kernel whose module is loaded at its first call, which then takes its place."""

    def __init__(self, active: SimpleNamespace, stem: str, suffix: str, name: str) -> None:
        self._active, self._stem, self._suffix, self._name = active, stem, suffix, name

    def __call__(self, *args: Any) -> None:
        try:
            module = _load_module(self._active, self._stem, self._suffix)
        except ImportError as error:
            if self._suffix == "np":
                raise
            _do_without(error)
            module = _load_module(self._active, self._stem, "np")
        getattr(module, self._name)(*args)


def _load(name: str, suffix: str, at_once: Iterable[str]) -> SimpleNamespace:
    """The functions of all pairs from the modules ``<stem>_<suffix>``, as one namespace.

    Modules of stems that are not among `at_once` are loaded when they are first used.
    """
    moves = importlib.import_module("npdl._ext.moves")
    active = SimpleNamespace(
        backend=name,
        isa=None if name == "numpy" else suffix,
        ready={},
        recorded={},
        **{function: getattr(moves, function) for function in MOVES},
    )
    if name != "numpy":
        steps = importlib.import_module("npdl._ext.steps")
        for function in MOVES:
            maker = getattr(moves, f"{function}_ready")
            active.ready[function] = functools.partial(maker, steps)
    for stem, functions in PAIRS.items():
        for function in functions:
            setattr(active, function, _Unloaded(active, stem, suffix, function))
    for stem in at_once:
        _load_module(active, stem, suffix)
    return active


def _load_module(active: SimpleNamespace, stem: str, suffix: str) -> Any:
    """Import the module ``<stem>_<suffix>`` and put its functions into the namespace."""
    module = importlib.import_module(f"npdl._ext.{stem}_{suffix}")
    for function in PAIRS[stem]:
        if not hasattr(module, function):
            raise ImportError(f"{module.__name__} is from another version: no {function}")
    if suffix != "np":
        _add_makers(active, stem, module)
    for function in PAIRS[stem]:
        if isinstance(getattr(active, function), _Unloaded):  # not what a program put there
            setattr(active, function, getattr(module, function))
    return module


def _add_makers(active: SimpleNamespace, stem: str, module: Any) -> None:
    """Add the functions that prepare a call of a kernel to `ready`, those that record it too.

    A recorded call reads all of its arrays each time, and a tape can play it. A prepared one may
    have packed its weights. Programs use either, and copies.
    """
    ready, recorded = active.ready, active.recorded
    for function in PAIRS[stem]:
        if hasattr(module, f"{function}_recorded"):
            ready[function] = recorded[function] = getattr(module, f"{function}_recorded")
        if hasattr(module, f"{function}_ready"):
            ready[function] = getattr(module, f"{function}_ready")
        elif stem == "rnn" and function in STEPS:  # one for all of them
            ready[function] = functools.partial(module.recurrent_ready, function)
    if stem == "optimizer":
        recorded["step"] = module.step_recorded


def _load_cython(wanted: str | None) -> SimpleNamespace:
    """The Cython kernels of the best instruction set that this CPU can run, or of `wanted`."""
    cpu = importlib.import_module("npdl._ext.cpu")
    usable = ISAS[: cpu.level() + 1]
    if wanted is not None:
        if wanted not in ISAS:
            raise ValueError(f"NPDL_ISA must be one of {', '.join(ISAS)}. Received: {wanted!r}.")
        if wanted not in usable:
            raise ValueError(f"NPDL_ISA={wanted}: this CPU can run only {', '.join(usable)}.")
        usable = (wanted,)
    for isa in reversed(usable):
        try:
            return _load("cython", isa, PAIRS if _are_required() else COMMON)
        except ModuleNotFoundError as error:  # not in this build
            missing = error
    raise missing


def _wanted_backend() -> str | None:
    return os.environ.get("NPDL_BACKEND") or None


def _are_required() -> bool:
    return os.environ.get("NPDL_REQUIRE_EXT", "0") not in ("", "0")


def _do_without(error: ImportError, stacklevel: int = 3) -> None:
    """Warn that compiled kernels are missing, or raise an error if they are required."""
    wanted = _wanted_backend()
    if wanted == "cython" or _are_required():
        raise ImportError(
            f"The compiled kernels are missing ({error}). Build them with a C compiler: "
            "pip install --no-binary npdl npdl."
        ) from error
    if wanted is None:
        warnings.warn(
            f"npdl runs without its compiled kernels ({error}); it uses NumPy instead, which "
            "is many times slower. Install a C compiler and reinstall npdl, or set "
            "NPDL_BACKEND=numpy to hide this warning.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def _load_backends() -> tuple[dict[str, SimpleNamespace], str]:
    wanted = _wanted_backend()
    if wanted not in (None, "numpy", "cython"):
        raise ValueError(f"NPDL_BACKEND must be 'cython' or 'numpy'. Received: {wanted!r}.")
    compiled = None
    try:
        compiled = _load_cython(os.environ.get("NPDL_ISA") or None)
    except ImportError as error:
        _do_without(error, 5)
    default = wanted or ("numpy" if compiled is None else "cython")
    found = {"numpy": _load("numpy", "np", COMMON if default == "numpy" else ())}
    if compiled is not None:
        found["cython"] = compiled
    return found, default


_backends, _default = _load_backends()
_active: contextvars.ContextVar[SimpleNamespace] = contextvars.ContextVar(
    "npdl_backend", default=_backends[_default]
)

#: The active kernels, a namespace with one attribute for each function of `PAIRS`.
kernels = _active.get


@contextlib.contextmanager
def noted() -> Iterator[list[tuple[str, tuple]]]:
    """Note the calls of kernels within the block, in this thread: functions with their arguments.

    Yields
    ------
    list of (str, tuple)
        It grows with each call.
    """
    calls: list[tuple[str, tuple]] = []
    active = _active.get()

    def note(name: str) -> Callable[..., None]:
        def call(*args: Any) -> None:
            calls.append((name, args))
            getattr(active, name)(*args)

        return call

    names = [*MOVES, *(name for functions in PAIRS.values() for name in functions)]
    others = {**vars(active), "recorded": {}}  # calls that a tape plays could not be noted
    token = _active.set(SimpleNamespace(**{**others, **{n: note(n) for n in names}}))
    try:
        yield calls
    finally:
        _active.reset(token)


def copied(x: Any) -> Any:
    """A C-ordered copy of an array, noted like the call of a kernel."""
    y = np.empty(x.shape, x.dtype)
    kernels().copy_array(x, y)
    return y


def load_all() -> None:
    """Load the kernels of all backends that no call has loaded yet.

    Raises
    ------
    ImportError
        If one can't be loaded.
    """
    for active in _backends.values():
        for stem in PAIRS:
            _load_module(active, stem, active.isa or "np")


def available_backends() -> tuple[str, ...]:
    """Names of the available backends."""
    return tuple(_backends)


def set_num_threads(n: int) -> None:
    """Let every kernel use up to `n` threads, the calling one included.

    Results have the same bits for every number of threads. The NumPy twins are not affected: their
    matrix products use the threads of NumPy's BLAS.

    Parameters
    ----------
    n : int, 1 to 64

    Raises
    ------
    ValueError
        If `n` is not an integer from 1 to 64.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 64:
        raise ValueError(f"The number of threads must be an integer from 1 to 64. Received: {n!r}.")
    if "cython" in _backends:
        importlib.import_module("npdl._ext.threads").set_num_threads(n)


def get_num_threads() -> int:
    """Threads that a kernel may use; 1 without compiled kernels."""
    if "cython" not in _backends:
        return 1
    return importlib.import_module("npdl._ext.threads").get_num_threads()


def release_memory() -> int:
    """Free the scratch memory that the kernels keep for their next calls.

    Kernels keep the memory of their last calls, up to 256 MB, so that the next calls need not
    allocate. Free it when a program has finished computing and needs the memory. Any thread may
    call this at any time.

    Returns
    -------
    int
        Number of bytes freed; 0 without compiled kernels.
    """
    if "cython" not in _backends:
        return 0
    released: int = importlib.import_module("npdl._ext.threads").release_memory()
    return released


def set_precision(mode: str) -> None:
    """Choose between speed and precision of float32 convolutions.

    Parameters
    ----------
    mode : {"fast", "exact"}
        "fast", the default, lets convolutions of stride 1 over 3x3 pixels, or over 3 to 5 steps of
        a sequence, run in Winograd's form, with a quarter or half of the products. Its errors are
        up to about 1e-5 of the largest number in a tile of 6x6 pixels (or of 6 steps), times the
        sum of the filter's weights: *not* of the single output. Next to a pixel a million times
        larger than the others, small outputs of its tile have no correct digits; a NaN or infinity
        spreads over its tile; and numbers beyond 1e36 overflow. "exact" computes every sum
        directly, with errors of about 1e-6 of the sum of its terms' magnitudes.
        float64 is always exact.

    Raises
    ------
    ValueError
        If `mode` is neither.
    """
    global _precision
    if mode not in ("fast", "exact"):
        raise ValueError(f"The precision must be 'fast' or 'exact'. Received: {mode!r}.")
    if "cython" in _backends and mode != _precision:
        stem = f"npdl._ext.conv_{_backends['cython'].isa}"
        with contextlib.suppress(ImportError):  # which the first convolution reports
            importlib.import_module(stem).set_winograd(mode == "fast")
    _precision = mode


def get_precision() -> str:
    """Return the mode that `set_precision` chose."""
    return _precision


_precision = "fast"


def _precision_from_environment() -> str:
    wanted = os.environ.get("NPDL_PRECISION") or "fast"
    if wanted not in ("fast", "exact"):
        rule = f"The precision must be 'fast' or 'exact'. Received: {wanted!r}."
        raise ValueError(rule) from ValueError(
            f"NPDL_PRECISION must be 'fast' or 'exact'. Received: {wanted!r}."
        )
    return wanted


set_precision(_precision_from_environment())

#: Functions in C that return another object if the kernels or the precision are others.
WATCHED = kernels, functools.partial(globals().get, "_precision")


def _threads_from_environment() -> int:
    wanted = os.environ.get("NPDL_NUM_THREADS")
    if not wanted:
        return min(usable_cores(), 64)
    few = wanted.isdecimal() and len(wanted) < 10 and 0 < int(wanted) <= 64
    if not few:
        rule = "NPDL_NUM_THREADS must be an integer from 1 to 64"
        raise ValueError(f"{rule}. Received: {wanted!r}.")
    return int(wanted)


set_num_threads(_threads_from_environment())


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the kernels of one backend inside a ``with`` block, in this thread only.

    Parameters
    ----------
    name : {"cython", "numpy"}

    Raises
    ------
    ValueError
        If the backend is unknown, or was not built.
    """
    if name not in _backends:
        raise ValueError(
            f"Backend must be one of {', '.join(map(repr, _backends))}. Received: {name!r}."
        )
    token = _active.set(_backends[name])
    try:
        yield
    finally:
        _active.reset(token)
