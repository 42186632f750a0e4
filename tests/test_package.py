"""The contents of the wheel and the sdist.

``NPDL_DIST`` may name a folder that holds both, ready built. Otherwise setuptools says what it
would put into them, which takes no compiler.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import npdl

ROOT = Path(__file__).parents[1]
DIST = os.environ.get("NPDL_DIST")

if not (DIST or (ROOT / "setup.py").exists()):
    pytest.skip("needs the source tree", allow_module_level=True)


def run_setup(tmp_path_factory, *command):
    """Run a command of setup.py that leaves nothing in the tree, and return its output folder."""
    pytest.importorskip("setuptools")
    info, out = tmp_path_factory.mktemp("info"), tmp_path_factory.mktemp("out")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", info, *command, out],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of all files in the wheel."""
    if DIST:
        (path,) = Path(DIST).glob("*.whl")
        return zipfile.ZipFile(path).namelist()
    out = run_setup(tmp_path_factory, "build_py", "--build-lib")
    return [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The names of all files in the sdist, below its top folder."""
    folder = Path(DIST) if DIST else run_setup(tmp_path_factory, "sdist", "--dist-dir")
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return [m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()]


def test_wheel_has_what_npdl_needs_at_run_time(wheel):
    for name in (
        "npdl/py.typed",
        "npdl/__main__.py",
        "npdl/layers/recurrent.py",
        "npdl/_ext/conv_np.py",
        "npdl/_ext/README.md",
        "npdl/datasets/digits.npz",
        "npdl/datasets/LICENSE-digits.txt",
    ):
        assert name in wheel


@pytest.mark.skipif(not (ROOT / "npdl").exists(), reason="needs the source tree")
def test_wheel_has_every_module(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "npdl").rglob("*.py")}
    assert modules - set(wheel) == set()


def test_wheel_has_no_sources_and_nothing_beside_the_package(wheel):
    for name in wheel:
        assert Path(name).suffix not in (".c", ".h", ".pyx", ".pxd"), name
        assert re.match(r"npdl(-[^/]*\.dist-info)?/", name), name


@pytest.mark.skipif(not DIST, reason="needs a wheel, ready built")
def test_built_wheel_has_its_kernels_and_licences(wheel):
    names = "\n".join(wheel)
    for stem in ("arrays", "cpu", "threads", "conv_base", "rnn_base"):
        assert re.search(rf"^npdl/_ext/{stem}\.[^/]*(so|pyd)$", names, re.MULTILINE), stem
    assert re.search(r"dist-info/licenses/LICENSE$", names, re.MULTILINE)
    assert re.search(r"dist-info/licenses/.*LICENSE-digits.txt$", names, re.MULTILINE)


@pytest.mark.skipif(not DIST, reason="needs a wheel, ready built")
def test_built_wheel_is_small():
    (path,) = Path(DIST).glob("*.whl")
    assert path.stat().st_size < 3e6


def test_sdist_has_all_that_it_takes_to_build_and_test(sdist):
    for name in (
        *("setup.py", "pyproject.toml", "Makefile", "README.md", "ARCHITECTURE.md"),
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "tools/requirements.py"),
        *("npdl/_ext/conv.pyx", "npdl/_ext/gemm.pxd", "npdl/_ext/threads.h", "npdl/py.typed"),
        *("npdl/datasets/digits.npz", "npdl/datasets/LICENSE-digits.txt"),
        *("tests/conftest.py", "tests/layers/test_contract.py", "examples/digits.py"),
    ):
        assert name in sdist


def test_sdist_has_all_that_git_has_but_for_its_own_files(sdist):
    try:
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    own = (".git", ".ci/", ".pre-commit-config.yaml")
    wanted = {name for name in listed if not name.startswith(own) and (ROOT / name).exists()}
    assert wanted - set(sdist) == set()


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
def test_sdist_has_the_same_bytes_each_time(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = (
        next(run_setup(tmp_path_factory, "sdist", "--dist-dir").glob("*.tar.gz")) for _ in range(2)
    )
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        members = archive.getmembers()
    assert len(members) > 200
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(1.7e9, 0, 0, "", "")}
    assert {m.mode for m in members} == {0o644, 0o755}


def test_sdist_has_nothing_that_was_made(sdist):
    for name in sdist:
        assert Path(name).suffix not in (".so", ".pyd", ".pyc"), name
        assert not (name.startswith("npdl/") and name.endswith(".c")), name


def test_modules_that_need_the_source_tree_are_skipped_without_it(tmp_path):
    tests = Path(__file__).parent
    reaching = "Path(__file__).parents["
    needing = [p for p in tests.glob("test_*.py") if reaching in p.read_text("utf-8")]
    assert len(needing) >= 4
    (tmp_path / "tests").mkdir()
    for path in (tests / "conftest.py", *needing):
        shutil.copy(path, tmp_path / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(npdl.__file__).parents[1]), "NPDL_DIST": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
