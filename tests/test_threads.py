"""The thread pool of the kernels: one result for any number of threads, forks, callers at once."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kernel_calls import FILLED, LARGE, Call, Maker, built_isas, implementation, run

import npdl
from npdl import _ext
from npdl._ext import cores
from npdl._ext.activation_np import GELU, RELU, TANH

needs_cython = pytest.mark.skipif(not built_isas(), reason="needs the Cython kernels")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
ISA = built_isas()[-1] if built_isas() else None


@pytest.fixture(autouse=True)
def _keep_number_of_threads():
    before = _ext.get_num_threads()
    yield
    _ext.set_num_threads(before)


@functools.cache
def large_calls(dtype: str) -> list[Call]:
    """Calls of every kernel, large enough for several threads, with sizes that are not round."""
    make = Maker(dtype)
    calls = [
        *make.activation(70_001),
        *make.attention(5, 101, 97, 3, 23, 19, "some", "some", causal=True),
        *make.attention(7, 11, 13, 3, 23, 19, "lengths", "late", additive=True),
        *make.dense(131, 67, 103),
        *make.dense(3, 301, 513),
        *make.dense(61, 601, 241),
        *make.dense(701, 301, 401, (RELU, 1.0)),
        *make.dense(2039, 67, 103),
        *make.dropout(3 * 16384 + 5),
        *make.embedding(601, 67, 1301),
        *make.activation(70_001, (GELU, 1.0)),
        *make.merge(70_001, (TANH, 1.0)),
        *make.layernorm((301, 167, 1)),
        *make.layernorm((701, 3, 5), groups=2),
        *make.norm((301, 167, 1)),
        *make.norm((13, 19, 31)),
        *make.norm((7, 5, 1301)),
        *make.conv((7, 5, 13, 11), (19, 3, 2), (2, 1), (1, 1)),
        *make.conv((1, 3, 17, 16), (5, 3, 3)),
        *make.conv((7, 17, 13, 11), (19, 3, 3), pad=(1, 1)),
        *make.conv((13, 1, 50, 9), (19, 3, 9)),
        *make.conv((7, 1, 29, 31), (35, 7, 7)),
        *make.conv((3, 33, 40, 31), (17, 3, 3), pad=(2, 2), dilation=(2, 2)),
        *make.conv((2, 37, 40, 23), (50, 3, 2), dilation=(2, 1), transposed=True),
        *make.conv((7, 34, 60, 1), (19, 3, 1), last=1, dilation=(2, 1)),
        *make.conv((7, 34, 19, 18), (34, 3, 3), groups=34),
        *make.pool((13, 11, 21, 19), (3, 2), (2, 2)),
        *make.resize((13, 11, 21, 19), 2, 3),
        *make.softmax(1301, 23),
        *make.softmax(701, 37, dense=True),
        *make.log_softmax(1301, 23),
        *make.ctc(29, 31, 11, 5, mask="some"),
        *make.optimizer(3 * 16384 + 5),
    ]
    for cell in ("rnn", "lstm", "gru"):
        calls += make.recurrent(cell, 29, 7, 31, 37, "some")
        calls += make.recurrent(cell, 2, 3, 5, 130)
        calls += make.recurrent(cell, 6, 3, 5, LARGE[cell])
        calls += make.recurrent(cell, 29, 7, 31, 37, reverse=True, drop="xh", after=cell == "gru")
    return [*calls, make.one_of_each()[-1]]  # a pair; its bits are those of test_recurrent_pair.py


def bits(call: Call, isa: str | None = None) -> tuple[bytes, ...]:
    """The arrays that a call fills, as bytes."""
    kernel = implementation(isa or ISA, call.function)
    return tuple(array.tobytes() for array in run(kernel, call).values())


def as_with_one_thread(calls: list[Call]) -> list[tuple[bytes, ...]]:
    _ext.set_num_threads(1)
    return [bits(call) for call in calls]


def output_of(code: str) -> str:
    """The output of a program in a separate process; it may import the modules of these tests."""
    paths = [str(Path(npdl.__file__).parents[1]), *sys.path, str(Path(__file__).parent)]
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


# ------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", built_isas())
def test_the_same_bits_for_any_number_of_threads(isa, dtype):
    calls = large_calls(dtype)
    assert {call.function for call in calls} == set(FILLED)
    _ext.set_num_threads(1)
    wanted = [bits(call, isa) for call in calls]
    for threads in (2, 3, 5):
        _ext.set_num_threads(threads)
        for call, one in zip(calls, wanted):
            assert bits(call, isa) == one, f"{call.function} with {threads} threads"


@needs_cython
def test_the_same_bits_when_the_number_changes_all_the_time():
    calls = large_calls("float32")[:6]
    wanted = as_with_one_thread(calls)
    stop = threading.Event()

    def restless():
        for n in range(10**9):
            if stop.is_set():
                return
            _ext.set_num_threads(1 + n % 9)

    thread = threading.Thread(target=restless)
    thread.start()
    try:
        for _ in range(20):
            assert [bits(call) for call in calls] == wanted
    finally:
        stop.set()
        thread.join()


# -------------------------------------------------------------- many jobs, many callers


@needs_cython
@pytest.mark.parametrize("threads", [2, 4])
def test_thousands_of_small_jobs(threads):
    """Each job starts while the workers are still leaving the previous one, or asleep."""
    _ext.set_num_threads(threads)
    forward = implementation(ISA, "activation_forward")
    x = np.random.default_rng(1).normal(size=2 * 16384 + 1).astype(np.float32)  # three tasks
    wanted, y = np.empty_like(x), np.empty_like(x)
    implementation("np", "activation_forward")(x, wanted, (TANH, 1.0))
    for turn in range(2000):
        y[::97] = np.nan
        forward(x, y, (TANH, 1.0))
        if turn % 100 == 0:
            np.testing.assert_allclose(y, wanted, rtol=1e-5)
            time.sleep(0.002)  # so that they fall asleep
        assert not np.isnan(y[::97]).any()


@needs_cython
def test_python_threads_may_call_kernels_at_once():
    calls = large_calls("float32")
    wanted = as_with_one_thread(calls)
    _ext.set_num_threads(3)

    def work(start: int) -> bool:
        order = np.random.default_rng(start).permutation(len(calls))
        return all(bits(calls[i]) == wanted[i] for i in order)

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, range(10)))


@needs_cython
def test_a_kernel_lets_other_threads_run():
    """The interpreter lock is released: a Python thread counts on while a kernel works."""
    make = Maker("float64")
    call = make.dense(400, 900, 900)[0]
    kernel, args = implementation(ISA, "dense_forward"), list(call.args.values())
    done, ticks = threading.Event(), []

    def count():
        while not done.is_set():
            ticks.append(inside[0])
            time.sleep(0.0001)

    inside = [False]
    thread = threading.Thread(target=count)
    thread.start()
    _ext.set_num_threads(1)
    for _ in range(20):
        inside[0] = True
        kernel(*args)
        inside[0] = False
        if sum(ticks) > 2:
            break
    done.set()
    thread.join()
    assert sum(ticks) > 2


def moves_among_busy_threads() -> None:
    """How the pool behaves while other threads need the cores, in a process without workers."""
    calls, a, done = large_calls("float32"), np.ones((200, 200)), threading.Event()
    wanted = as_with_one_thread(calls)

    def work():
        while not done.is_set():
            a @ a  # with the interpreter's lock released

    def affinities() -> dict[int, set[int]]:
        return {int(t): os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")}

    busy = [threading.Thread(target=work) for _ in range(2)]
    for thread in busy:
        thread.start()
    before = affinities()
    _ext.set_num_threads(2)
    same = all([bits(call) for call in calls] == wanted for _ in range(5))
    after = affinities()
    done.set()
    for thread in busy:
        thread.join()
    workers = [after[thread] for thread in after.keys() - before.keys()]
    assert same
    assert len(workers) == 1 and workers[0] <= os.sched_getaffinity(0)
    assert all(after[thread] == cores for thread, cores in before.items())


@needs_cython
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux can move threads")
def test_threads_that_want_the_cores_too():
    """The pool moves only its own workers; the bits stay the same."""
    output_of("import test_threads as tests; tests.moves_among_busy_threads()")


# --------------------------------------------------------------------------- fork


def in_child(check) -> int:
    """The exit code of a forked process that runs `check`; killed after ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # the default action ends the process
        code = 1
        try:
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@needs_cython
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: there are threads
def test_a_forked_child_has_its_own_workers():
    calls = large_calls("float32")[:8]
    wanted = as_with_one_thread(calls)
    _ext.set_num_threads(4)
    assert [bits(call) for call in calls] == wanted  # there are workers now

    def check() -> bool:
        return all([bits(call) for call in calls] == wanted for _ in range(3))

    for _ in range(3):
        assert in_child(check) == 0
        assert check()


@needs_fork
@needs_cython
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_while_kernels_run_elsewhere():
    calls = large_calls("float32")[:4]
    wanted = as_with_one_thread(calls)
    _ext.set_num_threads(3)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            bits(calls[0])

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: [bits(call) for call in calls] == wanted) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _bits_of_first(_):
    return bits(large_calls("float32")[0])


@needs_fork
@needs_cython
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_multiprocessing_with_fork():
    wanted = as_with_one_thread(large_calls("float32")[:1])[0]
    _ext.set_num_threads(2)
    bits(large_calls("float32")[0])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(_bits_of_first, range(4)).get(timeout=20) == [wanted] * 4


@needs_cython
def test_a_process_ends_while_workers_sleep_or_spin():
    code = (
        "import numpy as np\nfrom npdl import _ext\n_ext.set_num_threads(4)\n"
        "x = np.ones(100_000)\n_ext.kernels().activation_forward(x, x, (2, 1.0))\nprint(x[0])"
    )
    assert float(output_of(code)) == pytest.approx(np.tanh(1))


@needs_cython
def test_the_first_kernel_of_a_process_may_need_no_scratch():
    code = (
        "import numpy as np\nfrom npdl.layers import Dense\nlayer = Dense(3, 2, init='ones')\n"
        "layer.connect_to()\nprint(layer.forward(np.zeros((1, 2)), train=False).sum())"
    )
    assert float(output_of(code)) == 0


# --------------------------------------------------------------- how many of them


@needs_cython
@pytest.mark.parametrize("n", [1, 2, 64])
def test_number_of_threads_is_kept(n):
    _ext.set_num_threads(n)
    assert _ext.get_num_threads() == n


@pytest.mark.parametrize("n", [0, -1, 65, 1.0, "2", None, True])
def test_number_of_threads_must_be_sensible(n):
    before = _ext.get_num_threads()
    with pytest.raises(ValueError, match=f"integer from 1 to 64. Received: {n!r}"):
        _ext.set_num_threads(n)
    assert _ext.get_num_threads() == before


@needs_cython
@pytest.mark.parametrize("value", [None, "", "1", "3", "64"])
def test_number_of_threads_comes_from_the_environment(value):
    environment = os.environ | {"PYTHONPATH": str(Path(npdl.__file__).parents[1])}
    environment.pop("NPDL_NUM_THREADS", None)
    if value is not None:
        environment["NPDL_NUM_THREADS"] = value
    code = "from npdl import _ext; print(_ext.get_num_threads())"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert int(run.stdout) == int(value or min(cores.usable_cores(), 64))


def import_with(**variables):
    environment = os.environ | {"PYTHONPATH": str(Path(npdl.__file__).parents[1])} | variables
    code = "from npdl import _ext; print(_ext.get_num_threads())"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "name, value",
    [
        *(("NPDL_NUM_THREADS", v) for v in ("0", "-1", "two", "1.5", "65", "9" * 5000)),
        ("NPDL_PRECISION", "high"),
    ],
)
def test_a_wrong_variable_is_named(name, value):
    run = import_with(**{name: value})
    assert run.returncode
    assert re.search(rf"ValueError: {name} must be .*Received: '{value}'", run.stderr)


# ------------------------------------------------------------------------- memory


@needs_cython
def test_memory_of_the_last_call_is_kept_until_it_is_released():
    calls = Maker("float32").dense(40, 50, 60, (TANH, 1.0))
    backward = implementation(ISA, "dense_backward")
    npdl.release_memory()
    backward(*calls[1].args.values())
    kept = npdl.release_memory()
    assert kept >= 40 * 60 * 4  # dz
    assert npdl.release_memory() == 0
    run_twice = [run(backward, calls[1])["dw"] for _ in range(2)]
    assert run_twice[0].tobytes() == run_twice[1].tobytes()


@needs_cython
def test_memory_that_is_kept_has_a_bound():
    threads = importlib.import_module("npdl._ext.threads")
    calls = Maker("float32").dense(40, 50, 60, (TANH, 1.0))
    backward = implementation(ISA, "dense_backward")
    npdl.release_memory()
    threads.keep_at_most(1000)
    try:
        backward(*calls[1].args.values())
        assert npdl.release_memory() == 0
    finally:
        threads.keep_at_most(256 << 20)


@needs_cython
def test_memory_is_released_while_kernels_run():
    call = Maker("float32").dense(64, 64, 64, (TANH, 1.0))[1]
    wanted = run(implementation(ISA, call.function), call)["dw"].tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(run, implementation(ISA, call.function), call) for _ in range(60)]
        while not all(future.done() for future in found):
            assert npdl.release_memory() >= 0
    assert all(future.result()["dw"].tobytes() == wanted for future in found)
