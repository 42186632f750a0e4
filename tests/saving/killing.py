"""Forks processes that save, or train, and kills them with SIGKILL at random moments.

Run as a separate program, since pytest itself should not be forked::

    python killing.py save KILLS FOLDER
    python killing.py train KILLS FOLDER SAVE_FREQ
"""

import functools
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from saving_models import make_data, make_model

import npdl
from npdl import callbacks


def killed_after(work, seconds):
    """Run `work` in a separate process; return whether it had to be killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "the child failed"
            return False
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def save(kills, folder):
    """Kill a process that saves two models in turn; after each kill one of them is there."""
    rng = random.Random(1)
    path = folder / "model.safetensors"
    models = []
    for seed in (1, 2):
        npdl.utils.set_seed(seed)
        model = npdl.Model([npdl.layers.Dense(200, n_in=200), npdl.layers.Softmax(3)])
        model.compile("scce", "adam")
        models.append(model)
    models[0].save(path)
    weights = [model.state_dict() for model in models]

    def save_both(first):
        while True:
            models[first].save(path)
            models[1 - first].save(path)

    begin = time.perf_counter()  # a busy machine takes longer
    assert not killed_after(functools.partial(models[1].save, path), 600)
    span = max(0.02, 3 * (time.perf_counter() - begin))

    found, left = [0, 0], 0
    for _ in range(kills):
        first = rng.randrange(2)
        assert killed_after(functools.partial(save_both, first), rng.uniform(0, span))
        loaded = npdl.load_model(path).state_dict()
        same = [all(np.array_equal(loaded[k], w[k]) for k in w) for w in weights]
        assert sum(same) == 1, "the file is neither of the two"
        found[same.index(True)] += 1
        others = [p for p in folder.iterdir() if p != path]
        assert len(others) <= 1, "what a killed process has left is not removed"
        left += len(others)
    models[0].save(path)
    assert [*folder.iterdir()] == [path]
    print(f"{kills} kills, {left} of them while a file was written; found {found}")
    assert left > kills / 20 and min(found) > kills / 20


def train(kills, folder, save_freq):
    """Kill training runs at random, and resume them, until they finish with the same weights."""
    rng = random.Random(2)
    epochs = 5

    def run(seed, out, backup=None):
        npdl.utils.set_seed(seed)
        schedule = npdl.schedules.CosineDecay(0.02, 60)
        lr = schedule if save_freq == "epoch" else 0.02
        model = make_model(npdl.optimizers.Adam(lr=lr, use_ema=True), metrics=["acc", "top_k"])
        own = [
            callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True),
            callbacks.ModelCheckpoint(folder / "best", monitor="val_loss", save_best_only=True),
            callbacks.CSVLogger(f"{out}.csv"),
        ]
        if save_freq != "epoch":
            own.insert(
                0, callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.2)
            )
        if backup is not None:
            own.insert(1, callbacks.BackupAndRestore(backup, save_freq=save_freq))
        history = model.fit(
            *make_data(40),
            epochs=epochs,
            batch_size=8,
            validation_split=0.2,
            callbacks=own,
            verbose=False,
        )
        figures = {f"history/{k}": np.array(v) for k, v in history.history.items()}
        more = {
            "random": npdl.utils.get_rng().random(3),
            "rate": np.array(model.optimizer.current_lr),
        }
        npdl._safetensors.write(out, model.weights | figures | more, {})

    assert not killed_after(lambda: run(1, folder / "wanted"), 60)
    wanted = (folder / "wanted").read_bytes()
    start = time.perf_counter()
    run(1, folder / "again", folder / "b")
    seconds = time.perf_counter() - start
    assert (folder / "again").read_bytes() == wanted
    assert not any((folder / "b").iterdir()), "the backup must be gone at the end"

    done = trainings = resumed = 0
    while done < kills:
        trainings += 1
        seed = 1
        backup, before, began = folder / f"backup{trainings}", done, time.perf_counter()
        while killed_after(
            functools.partial(run, seed, folder / "out", backup),
            rng.uniform(0.05, 0.9) * seconds,
        ):
            done += 1
            there = (backup / "backup.safetensors").exists()
            resumed += there
            seed = 100 + done if there else 1  # the backup must determine the result
        if done == before:  # the machine is faster now
            seconds = min(seconds, time.perf_counter() - began)
        assert (folder / "out").read_bytes() == wanted, f"run {trainings} ended otherwise"
        assert (folder / "out.csv").read_text() == (folder / "wanted.csv").read_text()
        (folder / "out").unlink()
    print(f"{done} kills in {trainings} runs, {resumed} of the kills left a backup")
    assert resumed > kills / 4


if __name__ == "__main__":
    what, kills, folder, *more = sys.argv[1:]
    if what == "save":
        save(int(kills), Path(folder))
    else:
        train(int(kills), Path(folder), more[0] if more[0] == "epoch" else int(more[0]))
