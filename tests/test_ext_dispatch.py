"""Which kernels `npdl._ext` selects, its errors about missing ones, and `use_backend`."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_calls import built_isas

import npdl
from npdl import _ext
from npdl._ext.activation_np import RELU

PACKAGE = Path(npdl.__file__).parent
VARIABLES = (
    "NPDL_BACKEND",
    "NPDL_ISA",
    "NPDL_NUM_THREADS",
    "NPDL_PRECISION",
    "NPDL_REQUIRE_EXT",
)
SHOW = (
    "from npdl import _ext; k = _ext.kernels(); print(k.backend, k.isa, _ext.available_backends())"
)
needs_cython = pytest.mark.skipif(
    "cython" not in _ext.available_backends(), reason="needs the Cython kernels"
)


def python(code: str, path: Path = PACKAGE.parent, **variables: str) -> SimpleNamespace:
    """Run `code` in a new process, with the given variables and no other ones of npdl.

    Returns its exit code, its output, and the last line of its errors.
    """
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment["PYTHONPATH"] = str(path)
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", code],
        env=environment | variables,
        cwd=path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = run.stderr.strip().splitlines() or [""]
    return SimpleNamespace(
        code=run.returncode, out=run.stdout.strip(), err=run.stderr, end=lines[-1]
    )


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """A folder with a copy of npdl that has no compiled module."""
    folder = tmp_path_factory.mktemp("pure")
    skip = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.npz")
    shutil.copytree(PACKAGE, folder / "npdl", ignore=skip)
    return folder


# --------------------------------------------------- what the environment asks for


@needs_cython
def test_cython_is_the_default():
    run = python(SHOW)
    assert run.out == f"cython {built_isas()[-1]} ('numpy', 'cython')"
    assert run.err == ""


@needs_cython
@pytest.mark.parametrize(
    "value, backend", [("numpy", "numpy"), ("cython", "cython"), ("", "cython")]
)
def test_backend_is_forced(value, backend):
    run = python(SHOW, NPDL_BACKEND=value)
    assert run.out.split()[0] == backend and run.err == ""


@pytest.mark.parametrize("value", ["Cython", "jax", " numpy", "0"])
def test_an_unknown_backend_is_an_error(value):
    run = python(SHOW, NPDL_BACKEND=value)
    wanted = f"ValueError: NPDL_BACKEND must be 'cython' or 'numpy'. Received: {value!r}."
    assert (run.code, run.end) == (1, wanted)


@needs_cython
@pytest.mark.parametrize("isa", built_isas())
def test_instruction_set_is_forced(isa):
    run = python(SHOW, NPDL_ISA=isa)
    assert run.out.split()[:2] == ["cython", isa]


@needs_cython
@pytest.mark.parametrize("value", ["avx2", "V3", "v5"])
def test_an_unknown_instruction_set_is_an_error(value):
    run = python(SHOW, NPDL_ISA=value)
    wanted = f"ValueError: NPDL_ISA must be one of base, v3, v4. Received: {value!r}."
    assert (run.code, run.end) == (1, wanted)


@needs_cython
def test_an_instruction_set_that_the_cpu_lacks_is_an_error():
    run = python(
        "import sys, types\n"
        "fake = types.ModuleType('npdl._ext.cpu')\n"
        "fake.level = lambda: 0\n"
        "sys.modules['npdl._ext.cpu'] = fake\n" + SHOW,
        NPDL_ISA="v4",
    )
    assert (run.code, run.end) == (1, "ValueError: NPDL_ISA=v4: this CPU can run only base.")


@needs_cython
@pytest.mark.parametrize("forced", [{}, {"NPDL_BACKEND": "cython"}])
def test_an_instruction_set_that_was_not_built(tmp_path, forced):
    """The next best build is used; without any, forcing Cython is an error."""
    shutil.copytree(PACKAGE, tmp_path / "npdl", ignore=shutil.ignore_patterns("*_v3.*", "*_v4.*"))
    others = [isa for isa in built_isas() if isa == "base"]
    run = python(SHOW, tmp_path, **forced)
    if others:
        assert run.out.split()[:2] == ["cython", "base"] and run.err == ""
    elif forced:
        assert run.code == 1 and run.end.startswith("ImportError: The compiled kernels are missing")
    else:
        assert run.out.split()[0] == "numpy" and "RuntimeWarning" in run.err


@pytest.mark.parametrize("value", ["0", "65", "-1", "two", "1.5", " 2"])
def test_a_bad_number_of_threads_is_an_error(value):
    run = python(SHOW, NPDL_NUM_THREADS=value)
    assert run.code == 1 and run.end.startswith("ValueError: ")
    assert "NPDL_NUM_THREADS" in run.end or "number of threads" in run.end
    assert run.end.endswith(f"Received: {value!r}.") or run.end.endswith(f"Received: {value}.")


@pytest.mark.parametrize("value, mode", [("fast", "fast"), ("exact", "exact"), ("", "fast")])
@pytest.mark.parametrize("backend", _ext.available_backends())
def test_precision_comes_from_the_environment(value, mode, backend):
    code = "import npdl; print(npdl.get_precision())"
    run = python(code, NPDL_PRECISION=value, NPDL_BACKEND=backend)
    assert (run.out, run.err) == (mode, "")


@pytest.mark.parametrize("value", ["Fast", "slow", "1"])
def test_an_unknown_precision_is_an_error(value):
    run = python(SHOW, NPDL_PRECISION=value)
    wanted = f"ValueError: The precision must be 'fast' or 'exact'. Received: {value!r}."
    assert (run.code, run.end) == (1, wanted)


# ------------------------------------------------------------ threads and precision


def test_threads_and_precision_are_set_at_the_top():
    for name in ("set_num_threads", "get_num_threads", "set_precision", "get_precision"):
        assert name in npdl.__all__ and getattr(npdl, name) is getattr(_ext, name)


@pytest.fixture
def _keep_precision():
    before = npdl.get_precision()
    yield
    npdl.set_precision(before)


@pytest.mark.usefixtures("_keep_precision")
def test_precision_is_kept_and_shown():
    for mode in ("exact", "fast"):
        npdl.set_precision(mode)
        assert npdl.get_precision() == shown()["precision"] == mode


@pytest.mark.parametrize("mode", ["Fast", "", None, True, 1, b"fast"])
def test_precision_must_be_one_of_two(mode):
    before = npdl.get_precision()
    with pytest.raises(ValueError, match=r"must be 'fast' or 'exact'\. Received: ") as error:
        npdl.set_precision(mode)
    assert repr(mode) in str(error.value)
    assert npdl.get_precision() == before


# ------------------------------------------------------------ without the extension


def test_without_the_extension_it_warns_once_and_works(pure):
    run = python(
        "import npdl, npdl._ext, npdl.layers\nimport importlib\n"
        "importlib.import_module('npdl._ext')\n" + SHOW,
        pure,
    )
    assert run.code == 0 and run.out == "numpy None ('numpy',)"
    assert run.err.count("RuntimeWarning") == 1
    assert "npdl runs without its compiled kernels" in run.err
    assert "NPDL_BACKEND=numpy" in run.err


def test_it_does_not_warn_when_the_twins_are_asked_for(pure):
    run = python(SHOW, pure, NPDL_BACKEND="numpy")
    assert (run.out, run.err) == ("numpy None ('numpy',)", "")


@pytest.mark.parametrize(
    "variables",
    [{"NPDL_REQUIRE_EXT": "1"}, {"NPDL_BACKEND": "cython"}],
    ids=["required", "forced"],
)
def test_what_is_forced_and_missing_is_an_error(pure, variables):
    run = python(SHOW, pure, **variables)
    assert run.code == 1
    assert run.end.startswith("ImportError: The compiled kernels are missing (")
    assert "C compiler" in run.end


@pytest.mark.parametrize("value", ["", "0"])
def test_not_required_is_not_an_error(pure, value):
    assert python(SHOW, pure, NPDL_REQUIRE_EXT=value).out == "numpy None ('numpy',)"


def test_threads_and_precision_are_no_concern_of_the_twins(pure):
    code = (
        "import npdl; npdl.set_num_threads(7); npdl.set_precision('exact'); "
        "print(npdl.get_num_threads(), npdl.get_precision())"
    )
    assert python(code, pure, NPDL_BACKEND="numpy").out == "1 exact"


def test_a_network_trains_without_the_extension(pure):
    code = """
import numpy as np
import npdl
from npdl.layers import Dense
npdl.utils.set_seed(1)
x = np.random.default_rng(1).normal(size=(64, 3)).astype("float32")
model = npdl.Model([Dense(8, 3), Dense(1, activation="linear")])
model.compile(loss="mse", optimizer="adam")
before = np.mean((model.predict(x) - x[:, :1]) ** 2)
model.fit(x, x[:, :1], max_iter=20)
print(np.mean((model.predict(x) - x[:, :1]) ** 2) < before)
"""
    run = python(code, pure, NPDL_BACKEND="numpy")
    assert run.out.splitlines()[-1] == "True", run.err


def test_a_kernel_of_another_version_is_refused(pure, tmp_path):
    shutil.copytree(pure / "npdl", tmp_path / "npdl")
    twin = tmp_path / "npdl/_ext/dense_np.py"
    twin.write_text(twin.read_text().replace("def dense_backward", "def dense_backwards"))
    run = python(SHOW, tmp_path, NPDL_BACKEND="numpy")
    assert run.code == 1
    assert run.end.endswith("npdl._ext.dense_np is from another version: no dense_backward")


# --------------------------------------------------------- kernels loaded when first used

LOOK_UP = """
import sys
import numpy as np
import npdl
from npdl._ext import kernels
table = np.ones((3, 2), "float32")
rows, dy, dtable = np.array([2, 0, 2]), table, np.empty_like(table)
print("npdl._ext.embedding_" + (kernels().isa or "np") in sys.modules, end=" ")
kernels().embedding_backward(rows, dy, dtable)
print(dtable[:, 0], kernels().embedding_backward.__module__.rpartition(".")[2])
"""


@pytest.mark.parametrize("backend", _ext.available_backends())
def test_few_kernels_are_loaded_at_import(backend):
    run = python(LOOK_UP, NPDL_BACKEND=backend)
    suffix = "np" if backend == "numpy" else built_isas()[-1]
    assert (run.out, run.err) == (f"False [1. 0. 2.] embedding_{suffix}", "")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with a copy of npdl whose kernel for embeddings can't be loaded."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(PACKAGE, folder / "npdl", ignore=shutil.ignore_patterns("__pycache__"))
    for library in (folder / "npdl/_ext").glob("embedding_*.*"):
        if library.suffix in (".so", ".pyd"):
            library.write_bytes(b"damaged")
    return folder


@needs_cython
def test_a_damaged_kernel_is_replaced_by_its_twin(damaged):
    run = python(LOOK_UP, damaged)
    assert run.out == "False [1. 0. 2.] embedding_np"
    assert run.err.count("RuntimeWarning: npdl runs without its compiled kernels (") == 1


@needs_cython
@pytest.mark.parametrize("variables", [{"NPDL_REQUIRE_EXT": "1"}, {"NPDL_BACKEND": "cython"}])
def test_a_damaged_kernel_that_is_required_is_an_error(damaged, variables):
    run = python(LOOK_UP, damaged, **variables)
    assert run.code == 1
    assert run.end.startswith("ImportError: The compiled kernels are missing (")


@needs_cython
def test_kernels_that_are_required_are_looked_at_when_npdl_is_imported(damaged):
    run = python("import npdl", damaged, NPDL_REQUIRE_EXT="1")
    assert run.code == 1
    assert run.end.startswith("ImportError: The compiled kernels are missing (")
    assert python("import npdl; print(npdl.__name__)", damaged).out == "npdl"


@needs_cython
def test_verify_needs_every_kernel(damaged):
    run = python("from npdl.verify import run; print(run(budget=0))", damaged)
    assert run.out == "2" and run.end.startswith("A kernel can't be loaded: ")


# ---------------------------------------------------------------------- use_backend


@needs_cython
def test_use_backend_nests_and_goes_back():
    start = _ext.kernels()
    with npdl.use_backend("numpy"):
        assert _ext.kernels().backend == "numpy"
        with npdl.use_backend("cython"):
            assert _ext.kernels().backend == "cython"
            with npdl.use_backend("cython"):
                assert _ext.kernels().backend == "cython"
            assert _ext.kernels().backend == "cython"
        assert _ext.kernels().backend == "numpy"
    assert _ext.kernels() is start


def test_use_backend_goes_back_after_an_error():
    start = _ext.kernels()
    with contextlib.suppress(KeyError), npdl.use_backend("numpy"):
        raise KeyError
    assert _ext.kernels() is start


@needs_cython
@pytest.mark.parametrize("name", ["jax", "Numpy", "", None])
def test_use_backend_lists_what_there_is(name):
    message = f"Backend must be one of 'numpy', 'cython'. Received: {name!r}."
    with pytest.raises(ValueError, match=f"^{message}$"), npdl.use_backend(name):
        pass


def test_use_backend_names_what_was_not_built(pure):
    code = "import npdl\nwith npdl.use_backend('cython'): pass"
    run = python(code, pure, NPDL_BACKEND="numpy")
    assert run.end == "ValueError: Backend must be one of 'numpy'. Received: 'cython'."


@needs_cython
def test_use_backend_concerns_one_thread():
    start, inside = _ext.kernels().backend, []
    entered, checked = threading.Event(), threading.Event()

    def other():
        inside.append(_ext.kernels().backend)
        with npdl.use_backend("cython" if start == "numpy" else "numpy"):
            inside.append(_ext.kernels().backend)
            entered.set()
            checked.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert _ext.kernels().backend == start
    checked.set()
    thread.join(10)
    assert inside[1] != start


@needs_cython
def test_layers_use_the_kernels_of_the_block(monkeypatch):
    called = []
    fake = SimpleNamespace(**vars(_ext._backends["numpy"]))
    fake.dense_forward = lambda x, w, b, y, act: (called.append(act), y.fill(5))
    monkeypatch.setitem(_ext._backends, "numpy", fake)
    layer = npdl.layers.Dense(2, 3, activation="relu")
    layer.connect_to(None)
    x = np.ones((4, 3), "float32")
    with npdl.use_backend("numpy"):
        assert (layer.forward(x) == 5).all()
    with npdl.use_backend("cython"):
        layer.forward(x)
    assert called == [(RELU, 1.0)]


# ---------------------------------------------------------------------- show_config


def shown() -> dict[str, str]:
    out = io.StringIO()
    npdl.show_config(out)
    return dict(line.split(maxsplit=1) for line in out.getvalue().splitlines())


def test_show_config_names_backend_and_versions():
    rows = shown()
    assert rows["npdl"] == npdl.__version__
    assert rows["numpy"] == np.__version__
    assert rows["threads"] == str(_ext.get_num_threads())
    assert rows["available"].split(", ") == list(_ext.available_backends())
    with npdl.use_backend("numpy"):
        assert shown()["backend"] == "numpy"


@needs_cython
def test_show_config_names_the_instruction_set():
    with npdl.use_backend("cython"):
        assert shown()["backend"] == f"cython ({_ext.kernels().isa})"


def test_show_config_prints_to_standard_output(capsys):
    npdl.show_config()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["npdl", npdl.__version__]
    starts = {line.index(line.split(maxsplit=1)[1]) for line in lines}
    assert len(starts) == 1  # aligned
