"""`ModelCheckpoint` and `BackupAndRestore`."""

import io

import numpy as np
import pytest
from saving_models import assert_same_weights, make_data, make_model, train

import npdl
from npdl.callbacks import (
    BackupAndRestore,
    Callback,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)

# ------------------------------------------------------------------------------- ModelCheckpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_name_shows_the_results(tmp_path):
    path = tmp_path / "new" / "{epoch:02d}-{val_loss:.2f}-{val_accuracy:.1f}"
    model = make_model()
    history = train(model, 3, validation_split=0.3, callbacks=ModelCheckpoint(path)).history
    assert names(tmp_path / "new") == [
        f"{i + 1:02d}-{history['val_loss'][i]:.2f}-{history['val_acc'][i]:.1f}" for i in range(3)
    ]
    last = npdl.load_model(tmp_path / "new" / names(tmp_path / "new")[-1])
    assert_same_weights(last, model)
    assert last.optimizer.iterations == 6


class Script(Callback):
    """Puts values into the logs."""

    def __init__(self, *values, name="val_loss"):
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


@pytest.mark.parametrize(
    "figures, options, saved",
    [
        ((3, 2, 2, 4, 1), {}, "125"),
        ((3, 2, 2, 4, 1), {"mode": "max"}, "14"),
        ((3, float("nan"), 2, 4, 1), {}, "135"),
        ((3, 2, 2, 4, 1), {"initial_value_threshold": 2.5}, "25"),
    ],
    ids=["min", "max", "nan", "threshold"],
)
def test_the_best_only(tmp_path, figures, options, saved):
    keep = ModelCheckpoint(tmp_path / "{epoch}", save_best_only=True, **options)
    train(make_model(), 5, callbacks=[Script(*figures), keep])
    assert "".join(names(tmp_path)) == saved


def test_the_best_accuracy(tmp_path):
    keep = ModelCheckpoint(tmp_path / "{epoch}", "val_accuracy", save_best_only=True)
    train(make_model(), 3, callbacks=[Script(0.1, 0.3, 0.2, name="val_acc"), keep])
    assert names(tmp_path) == ["1", "2"]


def test_a_figure_that_is_not_there(tmp_path):
    keep = ModelCheckpoint(tmp_path / "x", "val_los", save_best_only=True)
    with pytest.warns(RuntimeWarning, match=r"ModelCheckpoint watches 'val_los'.*loss, acc"):
        train(make_model(), 2, callbacks=keep)
    assert not names(tmp_path)
    with pytest.raises(ValueError, match=r"`filepath` must be filled in from epoch, loss, acc"):
        train(make_model(), 2, callbacks=ModelCheckpoint("{val_loss}"))


def test_after_batches_and_weights_only(tmp_path):
    """Three batches in an epoch; the sixth is the last of the second."""
    keep = ModelCheckpoint(
        tmp_path / "{epoch}-{batch}-{loss:.0f}", save_freq=2, save_weights_only=True
    )
    model = make_model()
    train(model, 2, callbacks=keep)
    assert names(tmp_path) == ["1-2-1", "2-1-1", "2-3-1"]
    other = make_model()
    other.load_weights(tmp_path / "2-3-1")
    assert_same_weights(other, model)


def test_it_says_so(tmp_path):
    file = io.StringIO()
    model = make_model()
    model.fit(
        *make_data(), epochs=1, file=file, callbacks=ModelCheckpoint(tmp_path / "x", verbose=1)
    )
    assert f"epoch 1: saved {tmp_path / 'x'}\n" in file.getvalue()


@pytest.mark.parametrize("freq, error", [("batch", ValueError), (0, ValueError), (2.5, TypeError)])
@pytest.mark.parametrize("cls", [ModelCheckpoint, BackupAndRestore])
def test_bad_frequencies(cls, freq, error):
    with pytest.raises(error, match="`save_freq` must be"):
        cls("x", save_freq=freq)


# ------------------------------------------------------------------------------ BackupAndRestore


class Interrupt(Callback):
    """Ends a training run after some batches."""

    def __init__(self, batches, error=KeyboardInterrupt):
        self.left, self.error = batches, error

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise self.error


class Spy(Callback):
    """Records which batches it saw."""

    def __init__(self):
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append((self.epoch, batch))


def fit(model, *more, **kwargs):
    """Three epochs of three batches."""
    own = [
        ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.5),
        EarlyStopping("loss", patience=3, restore_best_weights=True),
    ]
    kwargs = {"validation_split": 0.25, "epochs": 3, "batch_size": 6} | kwargs
    return model.fit(*make_data(24), verbose=False, callbacks=[*more, *own], **kwargs)


@pytest.fixture(scope="module")
def wanted():
    """A training run without interruption."""
    npdl.utils.set_seed(5)
    model = make_model(metrics=["acc", "top_k"])
    history = fit(model)
    return model, history, npdl.utils.get_rng_state()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("freq", ["epoch", 1, 2])
@pytest.mark.parametrize("batches", range(1, 10))
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, wanted, freq, batches, error):
    npdl.utils.set_seed(5)
    backup = BackupAndRestore(tmp_path / "backup", save_freq=freq)
    broken = make_model(metrics=["acc", "top_k"])
    try:
        assert fit(broken, backup, Interrupt(batches, error)).interrupted
    except OSError:
        assert error is OSError
    begun = backup.path.exists()
    assert begun == (batches > (3 if freq == "epoch" else freq))
    npdl.utils.set_seed(77 if begun else 5)
    again, spy = make_model(metrics=["acc", "top_k"]), Spy()
    history = fit(again, BackupAndRestore(tmp_path / "backup", save_freq=freq), spy)
    assert_same_weights(again, wanted[0])
    assert history.history == wanted[1].history
    assert history.epochs == [1, 2, 3]
    assert npdl.utils.get_rng_state() == wanted[2]
    done = batches - 1
    first = done // 3 * 3 if freq == "epoch" else max(done // freq * freq, done // 3 * 3)
    assert spy.seen == [(i // 3, i % 3) for i in range(first, 9)]
    assert not any((tmp_path / "backup").iterdir())


def test_a_generator_of_batches_continues(tmp_path):
    """The program creates it again; batches that were done are skipped."""

    def batches():
        rng = np.random.default_rng(8)
        while True:
            yield rng.normal(size=(6, 1, 4, 5)), rng.integers(0, 3, 6)

    def run(*callbacks):
        npdl.utils.set_seed(3)
        model = make_model()
        model.fit(batches(), epochs=3, steps_per_epoch=4, callbacks=[*callbacks], verbose=False)
        return model

    whole = run()
    run(BackupAndRestore(tmp_path, save_freq=3), Interrupt(8))
    npdl.utils.set_seed(4)
    assert_same_weights(run(BackupAndRestore(tmp_path, save_freq=3)), whole)


def test_a_schedule_that_depends_on_the_rate(tmp_path):
    def run(*more):
        model = make_model()
        schedule = LearningRateScheduler(lambda epoch, lr: lr * 0.5)
        train(model, 4, callbacks=[schedule, *more])
        return model.optimizer.lr

    lr = run()
    run(BackupAndRestore(tmp_path), Interrupt(7))
    assert run(BackupAndRestore(tmp_path)) == lr == 0.001 / 16


def test_a_rate_that_somebody_has_set(tmp_path):
    def run(*more):
        model = make_model()
        halve = LambdaCallback(
            on_epoch_end=lambda e, logs: setattr(model.optimizer, "lr", 1 / (e + 2))
        )
        train(model, 3, callbacks=[halve, *more])
        return model.optimizer.lr, model.state_dict()

    class Look(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(self.model.optimizer.lr)

    rates = []
    run(BackupAndRestore(tmp_path), Interrupt(4))
    run(BackupAndRestore(tmp_path), Look())
    assert rates == [1 / 2] * 3 + [1 / 3] * 3


def test_stopped_in_the_middle_of_an_epoch(tmp_path):
    """The end of the epoch runs, whether the process was killed before it or not."""

    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    class Die(Callback):
        def on_step_boundary(self, epoch, batch):
            if self.model.stop_training:
                raise OSError

    def run(*callbacks):
        npdl.utils.set_seed(1)
        return train(make_model(), 3, callbacks=[Stop(), *callbacks]).history

    wanted = run()
    assert len(wanted["loss"]) == 1
    with pytest.raises(OSError):
        run(BackupAndRestore(tmp_path, save_freq=1), Die())
    assert run(BackupAndRestore(tmp_path, save_freq=1)) == wanted


def test_a_training_that_was_about_to_stop(tmp_path):
    """Killed after the last epoch, in which a callback ended training, but before the end."""

    class Die(Callback):
        def on_step_boundary(self, epoch, batch):
            if epoch == 2:
                raise OSError

    backup = BackupAndRestore(tmp_path)
    stop = LambdaCallback(on_epoch_end=lambda e, logs: setattr(model, "stop_training", e == 1))
    model = make_model()
    with pytest.raises(OSError):
        train(model, 5, callbacks=[stop, backup, Die()])
    other = make_model()
    assert train(other, 5, callbacks=backup).epochs == [1, 2]
    assert_same_weights(other, model)


def test_a_backup_is_kept_and_is_a_model(tmp_path):
    model = make_model()
    train(model, callbacks=BackupAndRestore(tmp_path, delete_checkpoint=False))
    assert names(tmp_path) == ["backup.safetensors"]
    other = npdl.load_model(tmp_path / "backup.safetensors")
    assert_same_weights(other, model)
    # Two epochs are done, two more are requested.
    spy = Spy()
    train(other, 4, callbacks=[spy, BackupAndRestore(tmp_path)])
    assert [epoch for epoch, _ in spy.seen] == [2] * 3 + [3] * 3


def test_a_backup_of_something_else(tmp_path):
    backup = BackupAndRestore(tmp_path)
    small = npdl.Model([npdl.layers.Flatten(), npdl.layers.Softmax(3)])
    small.compile("scce", "adam")
    small.fit(*make_data(), verbose=False, callbacks=[backup, Interrupt(1)], epochs=1)
    assert not backup.path.exists()
    train(small, 2, callbacks=[backup, Interrupt(5)])
    model = make_model()
    before = None

    def remember(logs):
        nonlocal before
        before = model.state_dict()

    with pytest.raises(ValueError, match=r"is no backup of this training: .*Delete it"):
        train(model, callbacks=[LambdaCallback(on_train_begin=remember), backup])
    assert all(np.array_equal(before[name], a) for name, a in model.weights.items())
    for damaged in (b"", backup.path.read_bytes()[:-1], b"\0" * 100):
        backup.path.write_bytes(damaged)
        with pytest.raises(ValueError, match="no valid safetensors file"):
            train(model, callbacks=backup)
    model.save(backup.path)
    with pytest.raises(ValueError, match=r"is no backup of this training: 'loop'. Delete it"):
        train(model, callbacks=backup)
