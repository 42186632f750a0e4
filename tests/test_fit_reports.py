"""Problems that users of similar libraries reported, tried on `Model.fit`."""

import threading
import warnings

import numpy as np
import pytest
from fit_cases import fit

import npdl
from npdl import Model
from npdl.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from npdl.layers import Dense, Linear, Softmax
from npdl.optimizers import SGD, Adam
from npdl.utils import get_rng, set_seed

R = np.random.default_rng(0)
X = R.normal(size=(200, 6)).astype("f4")
Y = (X[:, 0] > 0).astype(int)


def classifier(optimizer="sgd", **kwargs):
    set_seed(0)
    model = Model([Dense(8, n_in=6), Softmax(2)])
    model.compile("scce", optimizer, **kwargs)
    return model


# ------------------------------------------------------------- which way is better, names, floats


def my_accuracy(y_true, y_pred):
    return y_true == y_pred.argmax(-1)


class Error(npdl.metrics.MeanMetric):
    def values(self, y_true, y_pred):
        return y_true != y_pred.argmax(-1)


@pytest.mark.parametrize("metric, name", [(my_accuracy, "my_accuracy"), (Error(), "error")])
@pytest.mark.parametrize(
    "make",
    [
        EarlyStopping,
        ReduceLROnPlateau,
        lambda **kw: ModelCheckpoint("x", save_best_only=True, **kw),
    ],
)
def test_a_watched_metric_of_unknown_direction_asks_for_the_mode(make, metric, name):
    model = classifier(metrics=[metric])
    callback = make(monitor=f"val_{name}")
    with pytest.raises(ValueError, match=rf"must be told which way 'val_{name}' is better, by `m"):
        fit(model, X, Y, validation_split=0.2, callbacks=callback)
    assert model.optimizer.iterations == 0  # said at the start
    monitored = EarlyStopping(monitor=f"val_{name}", mode="max", restore_best_weights=True)
    history = fit(model, X, Y, validation_split=0.2, epochs=4, callbacks=monitored)
    assert monitored.best == max(history.history[f"val_{name}"])


def test_a_users_metric_may_set_its_direction():
    class Declared(Error):
        direction = "min"

    monitored = EarlyStopping(monitor="declared", patience=9)
    history = fit(classifier(metrics=[Declared()]), X, Y, epochs=4, callbacks=monitored)
    assert monitored.best == min(history.history["declared"])


def test_accuracy_is_known_by_keras_name_everywhere():
    seen = []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs.get("accuracy"), "accuracy" in logs, logs["val_accuracy"]))

    for names in (None, ["accuracy"], ["sparse_categorical_accuracy", "mse"]):
        model = classifier(metrics=names)
        if names:
            model = Model([Softmax(2, n_in=6)])
            model.compile("scce", metrics=names[:1])
        history = fit(model, X, Y, validation_split=0.2, callbacks=Look()).history
        for name in ["accuracy", *(names or [])[:1]]:
            for prefix in ("", "val_"):
                assert prefix + name in history and prefix + name in history.keys()
                assert (
                    history.get(prefix + name) == history[prefix + name] == history[f"{prefix}acc"]
                )
        assert list(history) == ["loss", "acc", "val_loss", "val_acc"]
        assert len({**history}) == 4
    assert all(value is not None and there for value, there, _ in seen)
    named = classifier(metrics=[npdl.metrics.Accuracy(name="accuracy")])
    score = named.evaluate(X, Y)
    assert score.accuracy == score.results["acc"] == score.figures["accuracy"]
    assert "f1" not in score.results and score.results.get("f1", 3) == 3


def test_plain_floats_everywhere():
    def whole(y_true, y_pred):
        return np.float32(0.5)

    class Own(Error):
        def result(self):
            return np.float32(super().result())

    model = classifier(metrics=["acc", "f1", "auc", whole, my_accuracy, Own()])
    history = fit(model, X, Y, validation_split=0.2)
    score = model.evaluate(X, Y)
    for value in [*score, *(v for values in history.history.values() for v in values)]:
        assert type(value) is float
    assert all(type(v) is float for v in model.train_on_batch(X, Y))


# -------------------------------------------------------------------------- functions as metrics


def f1(y, p):
    g = p.argmax(-1)
    return 2 * (g & y).sum() / max((g + y).sum(), 1)


def test_a_function_that_returns_one_number_sees_the_whole_set():
    model = classifier(metrics=[f1])
    wanted = f1(Y, model.predict(X))
    for size in (8, 64, 200):
        assert model.evaluate(X, Y, batch_size=size)[1] == pytest.approx(wanted)
    history = fit(model, X, Y, validation_data=(X, Y), epochs=1, batch_size=16)
    assert history.history["val_f1"] == [pytest.approx(f1(Y, model.predict(X)))]


def test_a_function_of_one_number_with_masks_weights_and_other_lengths():
    def mean(y_true, y_pred):
        return np.abs(y_true - y_pred).max()

    def weighted(y_true, y_pred, sample_weight):
        return np.average(np.abs(y_true - y_pred)[:, 0], weights=sample_weight)

    metric = npdl.metrics.get(mean)
    a, b = R.random((3, 4, 2)), R.random((2, 5, 2))
    for p in (a, b):
        metric.update_state(p + 1, p, np.ones(p.shape[:2]))
    assert metric.result() == pytest.approx(1)
    half = npdl.metrics.get(mean)
    half.set_state(metric.get_state())
    assert half.result() == metric.result() and not half.in_batch_logs
    with pytest.raises(ValueError, match="'mean' returns one number for all samples"):
        metric.update_state(a, a, np.full((3, 4), 2.0))
    model = Model([Linear(1, n_in=6)])
    model.compile("mse", metrics=[], weighted_metrics=[weighted])
    w = R.integers(0, 3, 200)
    off = np.abs(model.predict(X)[:, 0] - Y)
    figures = model.evaluate(X, Y, batch_size=32, sample_weight=w, return_dict=True)
    assert figures["weighted"] == pytest.approx(np.average(off, weights=w), rel=1e-5)


def test_a_function_gets_targets_of_the_shape_of_the_outputs():
    def my_mae(y_true, y_pred):
        assert y_true.shape == y_pred.shape
        return np.abs(y_true - y_pred)

    for targets in (X[:, 0], X[:, :1]):
        model = Model([Linear(1, n_in=6)])
        model.compile(
            lambda p, t: (np.abs(p - t).mean(), np.sign(p - t) / p.size), metrics=["mae", my_mae]
        )
        score = model.evaluate(X, targets)
        assert score[0] == pytest.approx(score[1]) and score[1] == score[2]
        history = fit(model, X, targets, epochs=3)
        assert history.history["loss"][-1] < history.history["loss"][0]
    model.compile("mse", metrics=[lambda y, p: y[:, 0] - p])
    with pytest.raises(
        ValueError, match=r"must return one number, or a value for each item.*\(200, 200\)"
    ):
        model.evaluate(X, X[:, 0])


def test_a_loss_of_ones_own_gets_targets_of_the_shape_of_the_outputs():
    class Own:
        def forward(self, outputs, targets):
            return np.square(outputs - targets).mean()

        def backward(self, outputs, targets):
            return 2 * (outputs - targets) / outputs.size

    results = []
    for loss in (Own(), "mse"):
        set_seed(0)
        model = Model([Linear(1, n_in=6)])
        model.compile(loss, SGD(lr=0.1))
        fit(model, X, X[:, 0])
        results.append(model.evaluate(X, X[:, 0]).loss)
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_a_function_whose_gradient_has_another_shape():
    model = Model([Linear(1, n_in=6)])
    model.compile(lambda p, t: (1.0, np.ones(3)))
    with pytest.raises(ValueError, match=r"must have the outputs' shape, \(64, 1\)"):
        fit(model, X, X[:, 0])


def test_a_function_as_loss_goes_through_a_file(tmp_path):
    def half_square(p, t):
        return 0.5 * np.square(p - t).mean(), (p - t) / p.size

    model = Model([Linear(1, n_in=6)])
    model.compile(half_square)
    fit(model, X, X[:, 0])
    model.save(tmp_path / "m")
    again = npdl.load_model(tmp_path / "m", custom_objects={"half_square": half_square})
    assert again.evaluate(X, X[:, 0]).loss == model.evaluate(X, X[:, 0]).loss


# ------------------------------------------------------------------------------ state that leaks


def test_an_optimizer_belongs_to_one_model():
    shared = Adam(lr=0.01)
    one, other = classifier(shared), classifier(shared)  # nothing is remembered yet
    fit(one, X, Y)
    with pytest.raises(ValueError, match=r"can train only one model.*Adam after 8 steps with anot"):
        fit(other, X, Y)
    with pytest.raises(ValueError, match="can train only one model"):
        classifier(shared)
    one.compile("scce", shared)
    fit(one, X, Y)
    del one, other
    with pytest.raises(ValueError, match="can train only one model"):
        classifier(shared)
    fit(classifier(npdl.optimizers.get({"name": "adam", **shared.get_config()})), X, Y)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("seed", [3, None])
def test_forked_workers_draw_other_numbers(seed):
    multiprocessing = pytest.importorskip("multiprocessing")
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")

    def numbers():
        set_seed(seed)
        queue = multiprocessing.get_context("fork").SimpleQueue()
        found = [get_rng().random()]
        for _ in range(2):
            with npdl.use_rng(seed):
                worker = multiprocessing.get_context("fork").Process(target=_draw, args=(queue,))
                worker.start()
                worker.join()
            found += queue.get()
        return found

    found = numbers()
    assert len(set(found)) == 5 and not {get_rng().random()} & set(found)


def _draw(queue):
    queue.put([get_rng().random(), Model([Dense(3, n_in=2)]) and float(get_rng().random())])


def test_a_metric_object_in_two_models():
    metric = npdl.metrics.Accuracy()
    one = Model([Linear(1, n_in=6)])
    one.compile("hinge", metrics=[metric])
    other = Model([Dense(1, n_in=6, activation="sigmoid")])
    other.compile("bce", metrics=[metric])
    assert one.evaluate(X, Y)[1] == pytest.approx(((one.predict(X)[:, 0] > 0) == Y).mean())
    assert other.evaluate(X, Y)[1] == pytest.approx(((other.predict(X)[:, 0] > 0.5) == Y).mean())


def divides(bad):
    for i in range(3):
        x = X[:60].copy()
        if i == bad:
            x[0] = 0
        yield x / x.sum(1, keepdims=True), Y[:60]


@pytest.mark.parametrize("bad", [0, 1])
def test_generators_run_under_the_users_own_errstate(bad):
    with pytest.warns(RuntimeWarning) as w:
        fit(classifier(), divides(bad), epochs=1)
    assert any("divide" in str(one.message) and one.filename == __file__ for one in w)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        fit(classifier(), divides(bad), epochs=1)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        fit(classifier(), X, Y, validation_data=divides(bad), epochs=1)


def test_functions_and_callbacks_run_under_the_users_own_errstate():
    def bad(*args):
        return float(np.float32(0) / np.float32(0)) if len(args) > 1 else None

    class Bad(Callback):
        def on_train_batch_end(self, batch, logs=None):
            bad(1, 2)

    with np.errstate(all="raise"):
        for callbacks, metrics in ((Bad(), ["acc"]), ([], [bad])):
            with pytest.raises(FloatingPointError):
                fit(classifier(metrics=metrics), X, Y, callbacks=callbacks)
        far = X.copy()
        far[:, :] = 1e30  # npdl's own arithmetic is quiet
        model = Model([Linear(2, n_in=6)])
        model.compile("mse", metrics=["mse", "r2", "mae", "rmse"])
        with pytest.warns(RuntimeWarning, match="The loss is"):
            fit(model, far, far[:, :2])


# ------------------------------------------------------------------------------------ the data


def batches(n):
    for _ in range(n):
        yield X[:50], Y[:50]


def test_validation_batches_that_run_out_end_the_validation_only():
    with pytest.warns(
        RuntimeWarning, match=r"`validation_data` ran out of batches in epoch 3 of 4"
    ):
        history = fit(classifier(), X, Y, epochs=4, validation_data=batches(5), validation_steps=2)
    assert history.epochs == [1, 2, 3, 4] and len(history.history["val_loss"]) == 3
    with pytest.warns(RuntimeWarning, match="`validation_data` ran out of batches in epoch 2 of 3"):
        history = fit(classifier(), X, Y, epochs=3, validation_data=batches(4))
    assert history.epochs == [1, 2, 3] and len(history.history["val_loss"]) == 1


def test_empty_batches_are_passed_over():
    empty = X[:0], Y[:0]
    results = []
    for data in ([(X, Y), (X, Y)], [empty, (X, Y), empty, empty, (X, Y), empty]):
        model = classifier()
        history = fit(model, data, validation_data=data, epochs=2)
        model.fit(iter(data * 2), steps_per_epoch=2, epochs=2, verbose=0)
        results.append([history.history, model.evaluate(data), model.predict(data).tolist()])
        assert model.optimizer.iterations == 8
    assert results[0] == results[1]
    with pytest.raises(ValueError, match="must yield at least one batch"):
        fit(model, [empty, empty])


@pytest.mark.parametrize("what", ["X", "Y", "sample_weight"])
def test_data_that_is_not_finite_is_named(what):
    arrays = {"X": X.copy(), "Y": X[:, 0].copy(), "sample_weight": np.ones(200)}
    arrays[what][3] = np.nan
    model = Model([Linear(1, n_in=6)])
    model.compile("mse")
    with pytest.warns(
        RuntimeWarning, match=rf"epoch 1: {what}( itself)? holds values that are not"
    ):
        fit(model, arrays["X"], arrays["Y"], sample_weight=arrays["sample_weight"])


@pytest.mark.parametrize("reduction", ["mean"])
@pytest.mark.parametrize("kind", ["samples", "ignored", "mask"])
def test_accumulated_batches_that_count_differently(kind, reduction):
    """Accumulating batches equals one large batch, huggingface/transformers#34191."""
    x, y = R.normal(size=(8, 6, 3)).astype("f4"), R.integers(0, 2, (8, 6))
    mask = np.ones((8, 6), "u1")
    if kind == "mask":
        mask[:4, 1:] = 0
    if kind == "ignored":
        y[:4, 1:] = -1
    size = 5 if kind == "samples" else 4
    results = []
    for batch_size, steps in ((8, None), (size, 2)):
        set_seed(1)
        model = Model([npdl.layers.LSTM(n_out=4, n_in=3, return_sequence=True), Softmax(2)])
        loss = npdl.objectives.SCCE(ignore_class=-1, reduction=reduction)
        model.compile(loss, SGD(lr=1.0, gradient_accumulation_steps=steps))
        fit(model, (x, mask), y, batch_size=batch_size, shuffle=False, epochs=2)
        assert model.optimizer.iterations == 2
        results.append(model.layers[0].AllW)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------- threads


def test_two_threads_that_train_one_model_get_an_error():
    model, entered, go = classifier(), threading.Event(), threading.Event()

    class Wait(Callback):
        def on_epoch_end(self, epoch, logs=None):
            model.train_on_batch(X, Y)  # the same thread may
            entered.set()
            assert go.wait(20)

    thread = threading.Thread(target=fit, args=(model, X, Y), kwargs={"callbacks": Wait()})
    thread.start()
    try:
        assert entered.wait(20)
        for train in (fit, lambda m, *data: m.train_on_batch(*data)):
            with pytest.raises(RuntimeError, match="Another thread is training this model"):
                train(model, X, Y)
        model.predict(X)
    finally:
        go.set()
        thread.join()
    model.train_on_batch(X, Y)


def test_dtype_and_random_numbers_of_a_block_are_those_of_its_thread():
    seen, state = [], get_rng().bit_generator.state

    def look():
        seen.append((npdl.utils.get_dtype().name, get_rng()))

    with npdl.use_dtype("float64"), npdl.use_rng(3):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
        layer = Dense(2, n_in=3)
        Model([layer]).build()
        assert layer.W.dtype == np.float64
        with npdl.use_dtype("float32"):
            npdl.utils.set_dtype("float64")
            assert npdl.utils.get_dtype() == np.float64
        set_seed(4)
        first = get_rng().random()
    assert seen[0][0] == "float32" and seen[1][0] == "float64" and seen[0][1] is get_rng()
    assert npdl.utils.get_dtype() == np.float32
    assert get_rng().bit_generator.state == state
    with npdl.use_rng(np.random.default_rng(4)):
        assert get_rng().random() == first
    for wrong in ("float16", None):
        with (
            pytest.raises(ValueError, match="`dtype` must be float32 or float64"),
            npdl.use_dtype(wrong),
        ):
            pass
    with (
        pytest.raises(TypeError, match="`rng` must be a numpy"),
        npdl.use_rng("a"),
    ):
        pass


# --------------------------------------------------------------------------- validation_freq


def test_epochs_without_a_validation_are_meant_to_be_there(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for callback in (
            EarlyStopping(patience=9),
            ReduceLROnPlateau(),
            CSVLogger(tmp_path / "log.csv"),
            ModelCheckpoint(tmp_path / "{epoch}-{val_loss:.2f}"),
            ModelCheckpoint(tmp_path / "best", save_best_only=True),
        ):
            fit(
                classifier(),
                X,
                Y,
                epochs=4,
                validation_split=0.2,
                validation_freq=2,
                callbacks=callback,
            )
    assert sorted(p.name[0] for p in tmp_path.iterdir()) == ["2", "4", "b", "l"]
