"""Data, files and names from problems that users of similar libraries reported."""

import pickle
import threading

import numpy as np
import pytest
from fit_cases import fit

import npdl
from npdl import Model, callbacks
from npdl.data import Buckets, Standardizer, pad_sequences
from npdl.layers import LSTM, Dense, Embedding, Linear, Softmax
from npdl.objectives import SCCE
from npdl.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, RMSprop
from npdl.utils import one_hot, set_seed

R = np.random.default_rng(0)
X = R.normal(size=(60, 6)).astype("f4")
Y = (X[:, 0] > 0).astype(int)


def classifier(optimizer="sgd", **kwargs):
    set_seed(0)
    model = Model([Dense(8, n_in=6), Softmax(2)])
    model.compile("scce", optimizer, **kwargs)
    return model


# --------------------------------------------------------------------------------- Standardizer


@pytest.mark.parametrize("magnitude", [1e-150, 1e-12, 1e-9, 1.0, 1e12, 1e150])
@pytest.mark.parametrize("offset", [0, 1, -1e3])
@pytest.mark.parametrize("axis", [0, (0, 2)])
def test_data_of_any_magnitude(magnitude, offset, axis):
    z = R.normal(size=(500, 3, 4))
    x = (z + offset) * magnitude
    scale = Standardizer(axis)
    got = scale.fit_transform(x)
    np.testing.assert_allclose(got.mean(axis), 0, atol=1e-11)
    np.testing.assert_allclose(got.std(axis), 1, rtol=1e-11)
    np.testing.assert_allclose(scale.inverse(got), x, rtol=1e-11, atol=1e-12 * magnitude)
    np.testing.assert_allclose(scale.mean, x.mean(axis, keepdims=True)[0], atol=1e-11 * magnitude)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
@pytest.mark.parametrize("origin", [1_700_000_000_000, 2**60, 2**62 + 12345])
def test_times_and_large_integers(dtype, origin):
    if dtype == np.float64:
        origin = 1_700_000_000
    ticks = R.integers(0, 3_600_000, 1000)
    x = (ticks.astype(dtype) + dtype(origin))[:, None]
    scale = Standardizer()
    got = scale.fit_transform(x)[:, 0]
    want = (ticks - ticks.mean()) / ticks.std()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale.transform(x[::-1])[:, 0], got[::-1])
    assert scale.mean.dtype == np.float64
    np.testing.assert_allclose(scale.inverse(scale(x)), x.astype(float), rtol=1e-9)


def test_integers_over_the_whole_range():
    x = np.array([[-(2**63)], [2**63 - 1], [0]], np.int64)
    got = Standardizer().fit_transform(x)[:, 0]
    np.testing.assert_allclose(got, np.array([-1, 1, 0]) * np.sqrt(1.5), atol=1e-6)


def test_constant_features_but_for_their_rounding():
    x = np.array([[0.3, 5.0, 7], [0.1 + 0.2, 5.0, 8]])
    scale = Standardizer().fit(x)
    assert scale.std.tolist() == [1, 1, 0.5]
    assert Standardizer(epsilon=1).fit(x).std.tolist() == [1, 1, 1]


# ------------------------------------------------------------------------------ empty sequences


def test_padding_of_empty_sequences():
    padded, mask = pad_sequences([np.ones((2, 3)), [], np.zeros((0, 3))], return_mask=True)
    assert padded.shape == (3, 2, 3) and mask.sum(axis=1).tolist() == [2, 0, 0]
    assert pad_sequences([[], [1, 2]], padding="post").tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("padding", ["pre", "post"])
def test_buckets_of_which_many_sequences_are_empty(stepwise, padding):
    lengths = [0] * 9 + [1, 2, 3, 4, 5, 6] * 2
    words = [R.integers(1, 9, n) for n in lengths]
    labels = [w > 4 for w in words] if stepwise else [n % 2 for n in lengths]
    labels = [np.asarray(label, int) for label in labels] if stepwise else labels
    for boundaries in (None, [0, 3]):
        options = {"boundaries": boundaries, "padding": padding, "masks": True}
        data = Buckets(words, labels, batch_size=4, **options)
        assert sum(len(x) for (x, _), *_ in data) == len(words)
        model = Model(
            [Embedding(input_size=9, n_out=4), LSTM(n_out=4, return_sequence=stepwise), Softmax(2)]
        )
        model.compile("scce")
        history = fit(model, data, validation_data=data)
        assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
    features = Buckets([np.ones((n, 3)) for n in lengths[:9]] + [np.ones((2, 3))], batch_size=3)
    assert {x.shape[1:] for x in features} <= {(1, 3), (2, 3)}


# ------------------------------------------------------------------------- what is no array yet


def test_sparse_matrices_have_a_way_out():
    sparse = pytest.importorskip("scipy.sparse")
    for X_ in (sparse.csr_matrix(X), sparse.coo_array(X)):
        for call in (
            lambda x: fit(classifier(), x, Y),
            lambda x: classifier().predict(x),
            lambda x: Standardizer().fit(x),
        ):
            with pytest.raises(TypeError, match=r"`X` must be a dense array: use `X.toarray\(\)`"):
                call(X_)
    with pytest.raises(TypeError, match="`Y` must be a dense array"):
        fit(classifier(), X, sparse.csr_matrix(one_hot(Y)))


def test_masked_arrays():
    bad = np.ma.masked_equal(np.where(X > 2, -9999, X), -9999)
    with pytest.raises(TypeError, match=r"`X` must have no masked values: use `X.filled\(...\)`"):
        fit(classifier(), bad, Y)
    whole = np.ma.masked_array(X)
    fit(classifier(), whole, np.ma.masked_array(Y))


class Frame:
    """The parts of a data frame that npdl uses."""

    def __init__(self, **columns):
        self.columns = [*columns]
        self.dtypes = [np.asarray(values).dtype for values in columns.values()]
        self._values = [*columns.values()]

    def __array__(self, dtype=None, copy=None):
        return np.array([*zip(*self._values)], object)

    def __len__(self):
        return len(self._values[0])


@pytest.mark.parametrize(
    "data, message",
    [
        (
            Frame(a=[1.0, 2], b=[True, False], c=[2.0, 3]),
            r"columns 'b' \(bool\).*astype\('float32'",
        ),
        (np.array([[1, 2.0], [True, 3]], object), r"`X` must be an array of numbers: use `.astype"),
        ([[1, 2, 3], [4]], r"`X` must hold samples of one shape: use npdl.data.pad_sequences"),
        (np.array([[1, 2], [4]], object), "use npdl.data.pad_sequences"),
    ],
)
def test_arrays_of_objects_and_ragged_lists_have_a_way_out(data, message):
    for call in (lambda: fit(classifier(), data, [0, 1]), lambda: classifier().predict(data)):
        with pytest.raises((TypeError, ValueError), match=message):
            call()


def test_one_hot_of_sizes_taken_on_trust():
    with pytest.raises(
        ValueError, match="`nb_classes` must be given where a label is 1000000 or m"
    ):
        one_hot([10**10])
    assert one_hot([3], 5).tolist() == [[0, 0, 0, 1, 0]]
    assert one_hot(np.zeros((2, 0), int), 3).shape == (2, 0, 3)


# ------------------------------------------------------------------------------------- read-only


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_models_out_of_read_only_memory_can_be_trained(name):
    model = classifier(name)
    fit(model, X, Y)
    buffers = []
    data = pickle.dumps(model, protocol=5, buffer_callback=buffers.append)
    other = pickle.loads(data, buffers=[bytes(b) for b in buffers])
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    for one in (model, other):
        fit(one, X, Y)
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_models_that_joblib_maps_into_memory_can_be_trained(tmp_path):
    joblib = pytest.importorskip("joblib")
    joblib.dump(classifier("adam"), tmp_path / "m")
    fit(joblib.load(tmp_path / "m", mmap_mode="r"), X, Y)


# ------------------------------------------------------------------------------------ at the start


def test_loggers_make_their_folders(tmp_path):
    fit(classifier(), X, Y, callbacks=callbacks.CSVLogger(tmp_path / "a" / "b" / "log.csv"))
    assert (tmp_path / "a" / "b" / "log.csv").exists()
    model = classifier()
    for make in (callbacks.CSVLogger, callbacks.ModelCheckpoint):
        with pytest.raises(IsADirectoryError):
            fit(model, X, Y, callbacks=make(tmp_path / "a"))
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize("backup", [False, True])
def test_models_that_cannot_be_saved_are_found_at_the_start(tmp_path, backup):
    def named(y, p):
        return y == p.argmax(-1)

    make = callbacks.BackupAndRestore if backup else callbacks.ModelCheckpoint
    model = classifier(metrics=[named, lambda y, p: y == p.argmax(-1)])
    with pytest.raises(TypeError, match=r"can't save this model. The metric '<lambda>' can't"):
        fit(model, X, Y, callbacks=make(tmp_path / "x"))
    assert model.optimizer.iterations == 0
    fit(classifier(metrics=[named]), X, Y, callbacks=make(tmp_path / "x"))
    if not backup:
        fit(model, X, Y, callbacks=make(tmp_path / "y", save_weights_only=True))


@pytest.mark.parametrize("where", ["training", "validation"])
def test_faults_of_the_data_are_found_before_the_first_step(where):
    words = R.integers(0, 9, (60, 4))
    bad = words.copy()
    bad[37, 2] = 9
    model = Model([Embedding(input_size=9, n_out=3), LSTM(n_out=3), Softmax(2)])
    model.compile("scce")
    data = {"validation": (words, bad, Y), "training": (bad, words, Y)}[where]
    prefix = "In the validation data: .*" if where == "validation" else ""
    with pytest.raises(ValueError, match=rf"{prefix}9.*embedding_1"):
        fit(model, data[0], Y, validation_data=(data[1], Y))
    for held_out, message in (
        ((words, Y + 1), r"In the validation data: `Y` must lie in \[0, 2\)"),
        ((words, Y[:, None, None]), "In the validation data: Targets must have shape"),
        ((words[:3], Y), "In the validation data: `X` and `Y` must have the same number"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, words, Y, validation_data=held_out)
    assert model.optimizer.iterations == 0


def test_a_mask_that_changes_nothing_is_a_warning(recwarn):
    x, mask = R.normal(size=(6, 3, 2)).astype("f4"), np.ones((6, 3), "u1")
    for layers, y in (
        ([LSTM(n_out=2, n_in=2)], np.zeros((6, 2))),
        ([Linear(1, n_in=2)], np.zeros((6, 3, 1))),
    ):
        model = Model(layers)
        model.compile("mse")
        fit(model, (x, mask), y)
    assert not recwarn.list
    model = Model([npdl.layers.Flatten(), Linear(1)])
    model.compile("mse")
    with pytest.warns(RuntimeWarning, match="The mask changes nothing"):
        fit(model, (x, mask), np.zeros((6, 1)))


def test_outputs_that_are_no_probabilities_are_a_warning(recwarn):
    model = Model([Dense(1, n_in=6, activation="sigmoid")])
    model.compile("bce")
    fit(model, X, Y)
    assert not recwarn.list
    for layer, loss in ((Dense(1, n_in=6), "bce"), (Linear(2, n_in=6), "scce")):
        model = Model([layer])
        model.compile(loss)
        with pytest.warns(
            RuntimeWarning, match=r"takes probabilities, but outputs lie outside"
        ) as w:
            fit(model, X, Y)
        assert len(w) == 1
    model.compile(SCCE(from_logits=True))
    fit(model, X, Y)


def test_a_backup_of_other_data_or_of_more_epochs(tmp_path):
    class Stop(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise ZeroDivisionError

    def train(model, x=X, **options):
        return fit(model, x, Y, callbacks=[callbacks.BackupAndRestore(tmp_path), *more], **options)

    more = [Stop()]
    with pytest.raises(ZeroDivisionError):
        train(classifier(), epochs=4)
    more = []
    for other in (X + 1, X[:, ::-1].copy()):
        model = classifier()
        before = model.layers[0].W.copy()
        with pytest.raises(
            ValueError, match="is no backup of this training: it was made with other d"
        ):
            train(model, other, epochs=4)
        np.testing.assert_array_equal(model.layers[0].W, before)
    with pytest.warns(
        RuntimeWarning, match="has 2 epochs done, more than the 1 that are asked for"
    ):
        assert train(classifier(), epochs=1).epochs == [1, 2]


def test_a_checkpoint_of_a_second_model_starts_again(tmp_path):
    keep = callbacks.ModelCheckpoint(tmp_path / "x", "loss", save_best_only=True)
    one = classifier(SGD(lr=0.5))
    fit(one, X, Y, epochs=9, callbacks=keep)
    best = keep.best
    fit(one, X, Y, epochs=1, callbacks=keep)
    assert keep.best <= best
    fit(classifier(SGD(lr=1e-6)), X, Y, epochs=1, callbacks=keep)
    assert keep.best > best


def test_what_callbacks_say_of_an_epoch_comes_after_its_line(tmp_path, capsys):
    keep = callbacks.ModelCheckpoint(tmp_path / "x", verbose=1)
    for verbose, wanted in ((2, ["epoch 1/1", "epoch 1: saved"]), (0, ["epoch 1: saved"])):
        fit(classifier(), X, Y, epochs=1, callbacks=keep, verbose=verbose)
        lines = capsys.readouterr().out.splitlines()
        assert [line[: len(start)] for line, start in zip(lines, wanted, strict=True)] == wanted


def test_a_save_does_not_touch_other_files(tmp_path):
    for name in (".m.st.notes123.tmp", ".m.st.0123456.tmp", ".m.st.tmp", ".m.st.ABCDEF01.tmp"):
        (tmp_path / name).write_text("precious")
    classifier().save(tmp_path / "m.st")
    assert len([*tmp_path.iterdir()]) == 5


# ------------------------------------------------------------------------------ names and kinds


class Elliot(npdl.layers.Layer):
    """A layer that is called like an activation of npdl."""

    def forward(self, input):
        return np.maximum(input, 0)

    def backward(self, pre_grad):
        return pre_grad


def test_custom_objects_go_by_kind(tmp_path):
    model = Model([Dense(4, n_in=6, activation="elliot"), Elliot(), Linear(2)])
    model.compile("mse")
    model.save(tmp_path / "m")
    objects = {"Elliot": Elliot, "Linear": npdl.layers.Linear, "mse": lambda y, p: 0.0}
    again = npdl.load_model(tmp_path / "m", custom_objects=objects)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert type(again.layers[0].activation) is npdl.activations.Elliot
    assert type(again.layers[1]) is Elliot


# ------------------------------------------------------------------------------------ optimizers


@pytest.mark.parametrize(
    "make, usual, text",
    [
        (Adam, 0.9, r"`beta1`, and 0.01 is unusual.*Adam\(lr=0.01\)"),
        (RMSprop, 0.9, r"`rho`, and 0.01 is unusual"),
        (Momentum, 0.9, r"`momentum`, and 0.01 is unusual"),
        (Adagrad, 1e-6, r"`epsilon`, and 0.01 is unusual"),
    ],
)
def test_rates_in_the_place_of_other_arguments(make, usual, text, recwarn):
    make(usual), make(lr=0.01), SGD(0.01)
    first = {"Adam": "beta1", "RMSprop": "rho", "Momentum": "momentum"}.get(make.__name__)
    if first:
        make(**{first: 0.01})
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match=text) as w:
        make(0.01)
    assert w[0].filename == __file__


def test_momentum_of_keras_names_the_class():
    with pytest.raises(TypeError, match=r"argument 'momentum': .*npdl.optimizers.Momentum\("):
        SGD(lr=0.1, momentum=0.9)
    with pytest.raises(TypeError, match=r"npdl.optimizers.NesterovMomentum"):
        SGD(lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(TypeError, match="argument 'foo'"):
        SGD(foo=1)


def test_schedules_that_grow_without_bound():
    schedule = npdl.schedules.ExponentialDecay(1e-7, 1, 10.0)
    assert schedule(400) == np.inf and schedule(3) == pytest.approx(1e-4)
    assert SGD(lr=schedule, lr_max=0.1).current_lr == pytest.approx(1e-7)


@pytest.mark.parametrize("name", ["step", "_step"])
def test_the_step_of_an_optimizer_of_ones_own(name):
    def step(self, p, g, slots, lr):
        p -= lr * g

    cls = type("Own", (Optimizer,), {name: step})
    p = np.ones(3)
    cls(lr=0.5).update([p], [np.ones(3)])
    assert p.tolist() == [0.5] * 3


def test_threads_that_load_files_keep_the_dtype_of_others(tmp_path):
    with npdl.use_dtype("float64"):
        model = Model([Dense(4, n_in=6)])
        model.compile("mse")
        model.save(tmp_path / "m")
    done, wrong = threading.Event(), []

    def load():
        while not done.is_set():
            npdl.load_model(tmp_path / "m", compile=False)

    thread = threading.Thread(target=load)
    thread.start()
    for _ in range(300):
        wrong.append(npdl.utils.get_dtype() != np.float32)
    done.set()
    thread.join()
    assert not any(wrong)


def test_ignored_class_and_balanced_weights_of_steps():
    x, y = R.normal(size=(4, 3, 2)).astype("f4"), np.array([[0, 1, -1]] * 4)
    mask = np.ones((4, 3), "u1")
    mask[0, 1] = 0  # 4 times class 0, 3 times class 1
    model = Model([LSTM(n_out=3, n_in=2, return_sequence=True), Softmax(2)])
    model.compile(SCCE(ignore_class=-1), SGD(lr=0.0))
    p = model.predict((x, mask))
    history = fit(model, (x, mask), y, class_weight="balanced", epochs=1)
    kept = (mask == 1) & (y != -1)
    values = -np.log(np.take_along_axis(p, np.maximum(y, 0)[..., None], 2)[..., 0])[kept]
    want = (values * np.array([7 / 8, 7 / 6])[y[kept]]).mean()
    assert history.history["loss"] == [pytest.approx(want, rel=1e-6)]
