"""Training in several processes: the same bits as in one, merged metrics, stops and failures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'npdl[mpi]' mpich")

from npdl import distributed
from npdl.distributed import shard

BESIDE = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
#: Seconds after which a run is stuck.
LIMIT = 60

#: Trains, and prints a line of JSON: process, checksum of the weights, history.
PROGRAM = """
import json, os, sys, zlib
import numpy as np
import npdl
from npdl import distributed
from npdl.layers import *
from npdl.callbacks import *
from mpi4py import MPI

rank, size = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
case, folder = sys.argv[1], sys.argv[2]
rng = np.random.default_rng(1)
X = rng.standard_normal((75, 6, 5)).astype("float32")
Y = rng.integers(0, 3, (75, 6))
mask = np.arange(6) < rng.integers(1, 7, 75)[:, None]

class Fails(Callback):
    reads_batch_logs = False

    def on_train_batch_end(self, batch, logs=None):
        if rank == 1 and self.model.loop.epoch == 1 and batch == 0:
            if case == "killed":
                os.kill(os.getpid(), 9)
            raise ValueError("process 1 has failed")

class Stops(Callback):
    reads_batch_logs = False

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = rank == size - 1 and self.model.loop.epoch == 1

def run(parts):
    npdl.utils.set_seed(rank)  # each begins with other weights
    layers = [LSTM(8, return_sequence=True), Dropout(0.3), Softmax(3)]
    if case == "stops":
        layers[1:2] = [BatchNormal(axis=-1)]
    model = npdl.Model(layers)
    adam = npdl.optimizers.Adam(
        lr=0.01, global_clipnorm=1.0, gradient_accumulation_steps=parts // size or None
    )
    model.compile("scce", distributed.DistributedOptimizer(adam), metrics=["acc", "f1", "auc"])
    callbacks = [CSVLogger(folder + "/log.csv"), distributed.DataParallel(seed=3)]
    if case in ("killed", "again"):
        callbacks.append(BackupAndRestore(folder, save_freq=1))
    if case in ("killed", "raises"):
        callbacks.append(Fails())
    if case == "stops":
        callbacks.append(Stops())
    if case == "uneven":
        try:  # a step before all have the same weights
            model.train_on_batch((X[:4], mask[:4]), Y[:4])
        except RuntimeError as error:
            print(error)
        distributed.broadcast(model)
        for (x, m), y in distributed.shard((X, mask), Y, batch_size=24):
            model.train_on_batch((x, m), y)
        marks = MPI.COMM_WORLD.allgather([a.tobytes() for a in model.weights.values()])
        assert marks[0] == marks[1]
    share = distributed.shard((X, mask), Y, batch_size=24, shards=max(parts, size))
    if case == "uneven":
        share = [item for _, item in zip(range(3 - rank), share)]
    held_out = distributed.shard((X[:9], mask[:9]), Y[:9], batch_size=9, shuffle=False)
    if parts // size > 1:
        held_out = ((X[:9], mask[:9]), Y[:9])
    history = model.fit(share, epochs=3, validation_data=held_out, callbacks=callbacks)
    weights = model.weights
    mark = zlib.crc32(b"".join(array.tobytes() for array in weights.values()))
    line = {"rank": rank, "mark": mark, "history": history.history}
    with open(f"{folder}/{parts}-{rank}.json", "w") as file:
        json.dump(line, file)

for parts in map(int, sys.argv[3:]):
    run(parts)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the program in this many processes; their outputs, and how it ended."""
    if MPIEXEC is None:
        pytest.skip("needs mpiexec: pip install mpich")
    folder = tmp_path_factory.mktemp("mpi")
    program = folder / "train.py"
    program.write_text(PROGRAM)

    def start(case, size, *parts):
        for old in folder.glob("*.json"):
            old.unlink()
        launch = [MPIEXEC, "-n", str(size)] if size > 1 else []
        words = [case, str(folder), *map(str, parts or [size])]
        call = [*launch, sys.executable, "-m", "mpi4py", str(program), *words]
        done = subprocess.run(call, capture_output=True, text=True, timeout=LIMIT)
        lines = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        return lines, done

    return start


@pytest.fixture(scope="module")
def alone(run):
    """One process that computes this many parts."""
    return dict(zip((2, 4), run("plain", 1, 2, 4)[0]))


@pytest.mark.parametrize("size", [2, 4])
def test_processes_give_the_bits_of_one(run, alone, size):
    lines, done = run("plain", size)
    assert done.returncode == 0, done.stderr
    assert [line["rank"] for line in lines] == [*range(size)]
    assert {line["mark"] for line in lines} == {alone[size]["mark"]}
    for line in lines:
        assert line["history"] == lines[0]["history"]
        for name, values in alone[size]["history"].items():
            np.testing.assert_allclose(line["history"][name], values, rtol=1e-12)
    assert done.stdout.count("epoch 2/3") == 1


def test_a_killed_run_resumes_to_the_same_bits(run, alone):
    lines, done = run("killed", 2)
    assert done.returncode != 0 and lines == []
    lines, done = run("again", 2)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/3" not in done.stdout and "epoch 3/3" in done.stdout
    assert {line["mark"] for line in lines} == {alone[2]["mark"]}
    history = lines[0]["history"]
    assert all(line["history"] == history for line in lines)
    np.testing.assert_allclose(history["loss"], alone[2]["history"]["loss"], rtol=1e-12)


def test_one_failure_ends_all(run):
    lines, done = run("raises", 2)
    assert done.returncode != 0 and lines == []
    assert "process 1 has failed" in done.stderr


def test_unequal_numbers_of_steps_are_an_error(run):
    _, done = run("uneven", 2)
    assert done.returncode != 0 and "call fit with the callback DataParallel()" in done.stdout
    assert "All processes must do the same number of steps" in done.stderr


def test_one_stop_stops_all_and_statistics_are_averaged(run):
    lines, done = run("stops", 2)
    assert done.returncode == 0, done.stderr
    assert [len(line["history"]["loss"]) for line in lines] == [2, 2]
    assert len({line["mark"] for line in lines}) == 1


class Process:
    """A communicator that knows only its rank and size."""

    def __init__(self, rank, size):
        self.Get_rank, self.Get_size = (lambda: rank), (lambda: size)

    Allgather = Alltoallv = None


@pytest.mark.parametrize("samples", [24, 25, 26, 33, 3, 10])
def test_shares_cover_all_samples_once(samples):
    X, Y = np.arange(samples), {"a": np.arange(samples) * 2}
    for size in 1, 3:
        shares = [
            shard([X, X], Y, batch_size=8, shards=3, seed=5, comm=Process(rank, size))
            for rank in range(size)
        ]
        for share in shares:
            share.set_state({"passes": 4})
        passes = [[*share] for share in shares]
        assert {len(batches) for batches in passes} == {len(share) for share in shares}
        assert len({*map(len, shares)}) == 1
        seen = [x for batches in passes for (x, _), _ in batches]
        assert sorted(np.concatenate(seen)) == [*range(samples)]
        assert all((y["a"] == 2 * x).all() for batches in passes for (x, _), y in batches)
        steps = [np.concatenate([p[i][0][0] for p in passes]) for i in range(len(passes[0]))]
        if size == 1:
            order = np.concatenate(steps)
        else:
            np.testing.assert_array_equal(np.concatenate(steps), order)
    again = [*shares[0]]
    assert samples == 3 or any((a[0][0] != b[0][0]).any() for a, b in zip(again, passes[0]))


def test_errors_say_what_is_expected():
    X = np.zeros((5, 2))
    with pytest.raises(ValueError, match="a sample for each of 8 shards"):
        shard(X, X, shards=8, comm=Process(0, 2))
    with pytest.raises(ValueError, match="multiple of the number of processes, 2"):
        shard(X, X, shards=3, comm=Process(0, 2))
    with pytest.raises(ValueError, match=r"same number of samples.*lengths"):
        shard(X, X[:4], comm=Process(0, 1))
    with pytest.raises(TypeError, match="communicator of mpi4py"):
        shard(X, X, comm=3)
    with pytest.raises(TypeError, match="communicator of mpi4py"):
        distributed.DistributedOptimizer("adam", comm="world")
