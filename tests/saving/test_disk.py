"""What can happen to a file while it is written: kill -9, a full disk, a read-only folder."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from saving_models import assert_same_weights, make_model

import npdl
from npdl import _files
from npdl._files import atomic_write

HERE = Path(__file__).parent


def run(script, *args, timeout=600):
    """Run one of the programs in this file and return its output."""
    command = [sys.executable, "-W", "ignore", HERE / script, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------- kill -9


def test_killed_while_saving(tmp_path):
    assert run("killing.py", "save", 200, tmp_path).startswith("200 kills")


@pytest.mark.parametrize("freq", ["epoch", 2])
def test_killed_while_training(tmp_path, freq):
    assert "kills in" in run("killing.py", "train", 30, tmp_path, freq)


@pytest.mark.slow
def test_killed_while_saving_thousands_of_times(tmp_path):
    assert run("killing.py", "save", 5000, tmp_path).startswith("5000 kills")


@pytest.mark.slow
@pytest.mark.parametrize("freq", ["epoch", 1, 2])
def test_killed_while_training_hundreds_of_times(tmp_path, freq):
    assert "kills in" in run("killing.py", "train", 500, tmp_path, freq)


PROGRAM = """
import sys
import npdl
from saving_models import make_data, make_model
npdl.utils.set_seed(5)
model = make_model()
callbacks = [npdl.callbacks.BackupAndRestore("backup", save_freq=5)] if sys.argv[2:] else []
print("begin", flush=True)
history = model.fit(*make_data(40), epochs=40, batch_size=4, callbacks=callbacks, verbose=False)
history = {f"history/{k}": __import__("numpy").array(v) for k, v in history.history.items()}
npdl._safetensors.write(sys.argv[1], model.weights | history, {})
"""


def test_a_program_that_is_started_again(tmp_path):
    """The same as test_killed_while_training, in a new interpreter each time."""
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}

    def start(*args):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *args],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
        )

    with start("wanted") as process:
        process.communicate()
    assert process.returncode == 0
    killed = 0
    for _ in range(3):
        with start("found", "with a backup") as process:
            assert process.stdout.readline() == b"begin\n"
            time.sleep(0.1)
            process.kill()
        killed += process.returncode == -signal.SIGKILL
    with start("found", "with a backup") as process:
        process.communicate()
    assert process.returncode == 0
    assert killed
    assert (tmp_path / "found").read_bytes() == (tmp_path / "wanted").read_bytes()


# -------------------------------------------------------------------------- errors of the disk

LIMITED = """
import resource, signal, sys
import npdl
from saving_models import make_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    make_model().save(sys.argv[1])
except OSError as error:
    print(error.errno, error, sep="\\n")
"""


def test_a_limit_on_the_size_of_files(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    number, message = done.stdout.splitlines()
    assert int(number) == errno.EFBIG
    assert message == f"[Errno 27] File too large. Nothing was written: {str(path)!r}"
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB, where one may be mounted; otherwise a disk that says it is full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        with pytest.MonkeyPatch.context() as patch:

            def full(descriptor):
                if os.fstat(descriptor).st_size > 60_000:
                    raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "fsync", full)
            yield folder
        return
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(small_disk):
    model = make_model()
    model.save(small_disk / "model")
    before = (small_disk / "model").read_bytes()
    model.layers[-2].parameters[0].value = np.zeros((4, 40_000), np.float32)
    for save in (model.save, model.save_weights):
        with pytest.raises(
            OSError, match=r"No space left on device\. Nothing was written"
        ) as error:
            save(small_disk / "model")
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename == str(small_disk / "model")
        assert (small_disk / "model").read_bytes() == before
        assert [*small_disk.iterdir()] == [small_disk / "model"]


READONLY = """
import os, sys
from pathlib import Path
import npdl
from saving_models import make_model
folder, model = Path(sys.argv[1]), make_model()
model.save(folder / "model")
(folder / "locked").write_bytes(b"old")
(folder / "locked").chmod(0o444)
os.chmod(folder, 0o777)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    model.save(folder / "locked")
except PermissionError as error:
    print(error)
if os.stat(folder).st_uid == os.getuid():
    os.chmod(folder, 0o555)
else:
    folder = Path("/sys/kernel")  # a folder where nobody may write
try:
    model.save(folder / "model")
except OSError as error:
    print(error)
"""


def test_folders_and_files_that_are_read_only(tmp_path):
    top = Path("/tmp") / f"npdl-{os.getpid()}-{time.time_ns()}"  # where nobody may go
    top.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", READONLY, top], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        locked = str(top / "locked")
        assert lines[0] == f"[Errno 13] The file is read-only. Nothing was written: {locked!r}"
        assert lines[1].startswith("[Errno 13] Permission denied. Nothing was written: ")
        assert (top / "locked").read_bytes() == b"old"
        npdl.load_model(top / "model")
        assert sorted(p.name for p in top.iterdir()) == ["locked", "model"]
    finally:
        top.chmod(0o700)
        for path in top.iterdir():
            path.unlink()
        top.rmdir()


def test_what_is_no_place_for_a_file(tmp_path):
    model = make_model()
    with pytest.raises(FileNotFoundError, match=r"Nothing was written: .*missing"):
        model.save(tmp_path / "missing" / "model")
    with pytest.raises(IsADirectoryError, match=r"Is a directory. Nothing was written"):
        model.save(tmp_path)
    with pytest.raises(FileExistsError, match=r"Is not a regular file. Nothing was written"):
        model.save("/dev/full")
    assert Path("/dev/full").is_char_device()
    with pytest.raises(OSError, match=r"File name too long. Nothing was written"):
        model.save(tmp_path / ("x" * 300))
    assert not any(tmp_path.iterdir())


# --------------------------------------------------------------------------------- atomic_write


def test_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    """Without this, a power failure could leave a file of zeros."""
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]
        )
    make_model().save(tmp_path / "x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, and then its folder


@pytest.mark.parametrize("error", [OSError("no number"), KeyboardInterrupt, ValueError("own")])
def test_any_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        with atomic_write(path) as file:
            file.write(b"half")
            raise error
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_name_of_any_length(tmp_path):
    for name in ("ü" * 127, "x" * 255, "a*[?]"):
        with atomic_write(tmp_path / name) as file:
            file.write(b"1")
        assert (tmp_path / name).read_bytes() == b"1"


def test_links_and_permissions_stay(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to("real")
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "fresh"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "fresh").stat().st_mode & 0o777 == 0o640


def test_only_unlocked_files_are_removed(tmp_path):
    """Two savers of one file do not disturb each other; files left by a killed one are removed."""
    path = tmp_path / "x"
    dead = tmp_path / ".x.01234567.tmp"
    dead.write_bytes(b"dead")
    with atomic_write(path) as first:
        first.write(b"first")
        assert not dead.exists()
        with atomic_write(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]


def test_swept_away_before_it_was_locked(tmp_path, monkeypatch):
    lock, calls = _files._lock, []

    def late(file):
        calls.append(file.name)
        if len(calls) == 1:
            os.unlink(file.name)
        return lock(file)

    monkeypatch.setattr(_files, "_lock", late)
    with atomic_write(tmp_path / "x") as file:
        file.write(b"1")
    assert len(calls) == 2 and (tmp_path / "x").read_bytes() == b"1"


def test_many_threads_save_to_one_file(tmp_path):
    model = make_model()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.save(tmp_path / "x"), range(40)))
    assert [*tmp_path.iterdir()] == [tmp_path / "x"]
    assert_same_weights(npdl.load_model(tmp_path / "x"), model)
