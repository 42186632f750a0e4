"""`npdl.sklearn`: scikit-learn's own checks, and its tools around networks of every kind."""

import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", "1.6", reason="needs scikit-learn")

import joblib
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingRandomSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

import npdl
from npdl.callbacks import Callback
from npdl.layers import GRU, LSTM, Convolution, Dropout, Embedding, Flatten, SimpleRNN
from npdl.sklearn import NPDLClassifier, NPDLRegressor

NETWORKS = {
    "cnn": {
        "layers": [Convolution(4, (1, 2), padding="same"), Flatten(), 16],
        "input_shape": (1, 1, -1),
    },
    "lstm": {"layers": [LSTM(8)], "input_shape": (-1, 1)},
    "gru": {"layers": [GRU(8, return_sequences=True), SimpleRNN(8)], "input_shape": (-1, 1)},
}
#: Those that depend on the layers, and take little time.
FEW = (
    *("check_estimators_pickle", "check_methods_subset_invariance", "check_estimators_dtypes"),
    *("check_sample_weight_equivalence_on_dense_data", "check_fit_idempotent", "check_fit1d"),
)


@parametrize_with_checks([NPDLClassifier(), NPDLRegressor()])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def checks():
    for network, options in NETWORKS.items():
        for kind in (NPDLClassifier, NPDLRegressor):
            for estimator, check in estimator_checks_generator(kind(**options)):
                name = getattr(check, "func", check).__name__
                marks = () if name in FEW and network != "gru" else pytest.mark.slow
                label = f"{network}-{kind.__name__}-{name}"
                yield pytest.param(estimator, check, marks=marks, id=label)


@pytest.mark.parametrize("estimator, check", [*checks()])
def test_checks_of_scikit_learn_on_other_networks(estimator, check):
    check(estimator)


# ------------------------------------------------------------------------------------------ data


@pytest.fixture(scope="module")
def rings():
    """Points on three circles, by names of colors."""
    rng = np.random.default_rng(5)
    k = rng.integers(0, 3, 240)
    angle = rng.uniform(0, 2 * np.pi, 240)
    radius = k + rng.normal(1, 0.1, 240)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x, np.array(["red", "green", "blue"])[k]


def same(one, other, x):
    """Whether two estimators have the same bits."""
    predict = "predict_proba" if hasattr(one, "predict_proba") else "predict"
    return np.array_equal(getattr(one, predict)(x), getattr(other, predict)(x))


# --------------------------------------------------------------------------------------- training


def test_strings_are_classes(rings):
    x, y = rings
    model = NPDLClassifier(random_state=0).fit(x, y)
    assert model.classes_.tolist() == ["blue", "green", "red"]
    assert model.score(x, y) > 0.97
    np.testing.assert_array_equal(model.predict_log_proba(x), np.log(model.predict_proba(x)))
    assert model.n_iter_ == 100 == len(model.loss_curve_) and model.loss_curve_[-1] < 0.2


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtype_follows_the_data(rings, dtype):
    x = rings[0].astype(dtype)
    regressor = NPDLRegressor(epochs=2).fit(x, x[:, 0])
    assert regressor.predict(x).dtype == regressor.predict(x.astype("f4")).dtype == dtype
    assert {w.dtype for w in regressor.model_.weights.values()} == {np.dtype(dtype)}
    integers = NPDLRegressor(epochs=2).fit(x.astype(int), x[:, 0])
    assert integers.predict(x.astype(int)).dtype == np.float64


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_targets_keep_their_shape(rings, shape):
    x, _ = rings
    y = np.broadcast_to(x[:, :1], (len(x), *shape)) if shape else x[:, 0]
    model = NPDLRegressor(epochs=60, random_state=1).fit(x, y)
    assert model.predict(x).shape == y.shape and model.score(x, y) > 0.95


def test_no_layers_is_a_linear_model(rings):
    x, _ = rings
    model = NPDLRegressor((), epochs=400, lr=0.05, random_state=0).fit(x, x @ [2.0, -1.0] + 3)
    linear = model.model_.layers[0]
    np.testing.assert_allclose(linear.W.ravel(), [2, -1], atol=1e-3)
    assert len(model.model_.layers) == 1


@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_training_continues_with_the_same_bits(rings, how):
    x, y = rings
    options = {"layers": [8, Dropout(0.2)], "batch_size": 50, "random_state": 3}
    whole = NPDLClassifier(epochs=4, **options).fit(x, y)
    parts = NPDLClassifier(epochs=2, warm_start=True, **options)
    for _ in range(4 if how == "partial_fit" else 2):
        (parts.partial_fit if how == "partial_fit" else parts.fit)(x, y)
        parts = pickle.loads(pickle.dumps(parts))
    assert same(whole, parts, x) and parts.loss_curve_ == whole.loss_curve_
    assert parts.n_iter_ == 4


def test_fit_starts_again(rings):
    x, y = rings
    model = NPDLClassifier(epochs=2, random_state=0).fit(x[:, :1], y != "red")
    assert same(model.fit(x, y), NPDLClassifier(epochs=2, random_state=0).fit(x, y), x)


def test_partial_fit_knows_classes_that_come_later(rings):
    x, y = rings
    model = NPDLClassifier(random_state=0)
    red = y == "red"
    model.partial_fit(x[red], y[red], classes=["red", "green", "blue"])
    for _ in range(100):
        model.partial_fit(x, y)
    assert model.score(x, y) > 0.9


def test_early_stopping_keeps_the_best_weights(rings):
    x, y = rings
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.3, "red", y)  # there is noise to learn
    model = NPDLClassifier((64,), lr=0.05, epochs=300, early_stopping=True, random_state=2)
    model.set_params(n_iter_no_change=5, validation_fraction=0.25).fit(x, y)
    losses = model.history_["val_loss"]
    assert 5 < model.n_iter_ < 300
    best = int(np.argmin(losses))
    assert model.n_iter_ - 1 - best >= 5
    # The same training, ended at the best epoch, has these weights.
    short = clone(model).set_params(epochs=best + 1).fit(x, y)
    assert short.history_["val_loss"] == losses[: best + 1]
    assert same(short, model, x)


def test_weights_say_how_often_a_row_counts(rings):
    x, y = rings
    times = np.random.default_rng(1).integers(0, 4, 60)
    for kind, target in ((NPDLClassifier, y), (NPDLRegressor, x[:, 0])):
        model = kind(epochs=30, random_state=0)
        weighted = clone(model).fit(x[:60], target[:60], sample_weight=2.5 * times)
        repeated = model.fit(np.repeat(x[:60], times, 0), np.repeat(target[:60], times))
        predict = "predict_proba" if kind is NPDLClassifier else "predict"
        np.testing.assert_allclose(
            getattr(weighted, predict)(x), getattr(repeated, predict)(x), rtol=1e-9, atol=1e-12
        )


# ----------------------------------------------------------------------------------------- layers


def branches(x):
    """A network with two ways from the input to the head."""
    return npdl.layers.Concatenate()([x, npdl.layers.Dense(16, activation="relu")(x)])


@pytest.mark.parametrize("network", [*NETWORKS, "graph"])
def test_networks(network, rings):
    x, y = rings
    options = {"layers": branches} if network == "graph" else NETWORKS[network]
    model = NPDLClassifier(random_state=0, **{**options, "lr": 0.03}).fit(x, y)
    assert model.score(x, y) > 0.9
    assert same(model, pickle.loads(pickle.dumps(model)), x)


def test_words_are_numbers_of_an_embedding():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (150, 6))
    y = (x == 7).any(axis=1)
    model = NPDLClassifier([Embedding(20, 8), LSTM(16)], lr=0.02, random_state=0).fit(x, y)
    assert model.score(x, y) > 0.95
    with pytest.raises(ValueError, match="An Embedding takes whole numbers"):
        model.predict(x + 0.5)


def test_templates_are_left_alone(rings):
    x, y = rings
    layers = [npdl.layers.Dense(4), Dropout(0.1)]
    optimizer = npdl.optimizers.Adam(lr=0.02)
    model = NPDLClassifier(layers, optimizer=optimizer, epochs=2, random_state=0).fit(x, y)
    assert layers[0].out_shape is None and optimizer.iterations == 0
    assert model.model_.optimizer.iterations > 0 and model.model_.optimizer.lr == 0.02
    assert same(clone(model).fit(x, y), model, x)


def test_npdls_generator_is_left_alone(rings):
    x, y = rings
    before = npdl.utils.get_rng_state()
    one = NPDLClassifier(epochs=2, random_state=4).fit(x, y)
    npdl.utils.set_seed(9)
    other = NPDLClassifier(epochs=2, random_state=np.random.RandomState(4)).fit(x, y)
    assert same(one, other, x)
    npdl.utils.set_rng_state(before)
    NPDLRegressor(epochs=2).fit(x, x[:, 0])
    assert npdl.utils.get_rng_state() == before


def test_callbacks_hear_of_each_epoch(rings):
    x, y = rings

    class Heard(Callback):
        epochs = ()

        def on_epoch_end(self, epoch, logs=None):
            self.epochs = (*self.epochs, epoch)

    heard = Heard()
    model = NPDLClassifier(epochs=2, warm_start=True, callbacks=[heard]).fit(x, y)
    model.fit(x, y).partial_fit(x, y)
    assert heard.epochs == (0, 1, 2, 3, 4)


def test_ctrl_c_ends_a_search_too(rings):
    x, y = rings

    class Stop(Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = NPDLClassifier(callbacks=[Stop()])
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y)
    assert model.predict(x).shape == y.shape


# -------------------------------------------------------------------------- scikit-learn's tools


@pytest.fixture
def pipeline():
    network = NPDLClassifier([16, Dropout(0.1)], epochs=15, lr=0.05, batch_size=40, random_state=0)
    return make_pipeline(StandardScaler(), network)


def test_threads_give_the_same_bits(rings, pipeline):
    x, y = rings

    def scores():
        options = {"scoring": "neg_log_loss", "cv": 4, "error_score": "raise"}
        return cross_val_score(pipeline, x, y, n_jobs=4, **options).tolist()

    with joblib.parallel_config("sequential"):
        alone = scores()
    with joblib.parallel_config("threading"):
        assert scores() == alone


def test_grid_search_in_processes(rings, pipeline):
    x, y = rings
    grid = {"npdlclassifier__layers": [(2,), [16, Dropout(0.1)]]}
    results = [
        GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs, error_score="raise").fit(x, y)
        for jobs in (2, None)
    ]
    for search in results:
        assert search.best_score_ > 0.85 and len(search.best_params_[next(iter(grid))]) == 2
    one, other = (search.cv_results_["mean_test_score"].tolist() for search in results)
    assert one == other


def test_halving_search_over_epochs(rings):
    x, y = rings
    search = HalvingRandomSearchCV(
        NPDLClassifier(random_state=0),
        {"lr": [1e-4, 1e-3, 0.01, 0.03, 0.1], "layers": [(4,), (16,), (32, 16)]},
        resource="epochs",
        max_resources=45,
        min_resources=5,
        n_candidates=9,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(x, y)
    assert search.n_candidates_ == [9, 3, 1] and search.n_resources_ == [5, 15, 45]
    assert search.best_params_["epochs"] == 45 and search.best_score_ > 0.9


def test_calibration(rings, pipeline):
    x, y = rings
    model = CalibratedClassifierCV(pipeline, cv=2).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1)
    assert model.score(x, y) > 0.85


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": ["many"]}, "`layers` must hold numbers of units"),
        ({"layers": [0]}, "`layers` must be an integer >= 1"),
        ({"layers": 5}, "`layers` must be a function, or a list"),
        ({"layers": [Convolution(2, 1)], "input_shape": (1, 1, 2)}, "a row for each sample"),
        ({"layers": lambda x: Convolution(2, 1)(x), "input_shape": (1, 1, 2)}, "a row for each"),
        ({"layers": lambda x: 3}, "must return a symbolic value"),
        ({"input_shape": (3,)}, "`input_shape` must be a shape of the 2 features"),
        ({"input_shape": "wide"}, "`input_shape` must be a shape of the 2 features"),
        ({"epochs": 0}, "`epochs` must be an integer >= 1"),
        ({"optimizer": "adma"}, "adma"),
        ({"early_stopping": True, "validation_fraction": 1.0}, r"must be a number in \(0, 1\)"),
    ],
)
def test_wrong_parameters(rings, options, message):
    x, y = rings
    with pytest.raises((ValueError, TypeError), match=message):
        NPDLClassifier(**options).fit(x, y)


def test_wrong_data(rings):
    x, y = rings
    with pytest.raises(NotFittedError):
        NPDLClassifier().predict(x)
    with pytest.raises(AttributeError, match="not fitted"):
        _ = NPDLClassifier().loss_curve_
    with pytest.raises(ValueError, match=r"at least 2 classes\. Received: 1 class, 'red'"):
        NPDLClassifier().fit(x, ["red"] * len(x))
    model = NPDLClassifier(epochs=1, warm_start=True).fit(x, y)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=r"`y` must hold the classes .*Received: y=\['pink'"):
            call(x, np.where(y == "red", "pink", y))
    for weight, rule in ((-1.0, "must not be negative"), (0.0, "must (have a value|contain)")):
        with pytest.raises(ValueError, match=rule):
            model.fit(x, y, np.full(len(x), weight))
    regressor = NPDLRegressor(epochs=1).fit(x, x)
    with pytest.raises(ValueError, match="`y` must have 2 targets"):
        regressor.partial_fit(x, x[:, 0])


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "npdl.sklearn")
    with pytest.raises(ImportError, match=r"pip install 'npdl\[sklearn\]'"):
        importlib.import_module("npdl.sklearn")


@pytest.mark.slow
def test_a_search_on_dask_gives_the_scores_of_one_here():
    pytest.importorskip("distributed", reason="needs 'dask[distributed]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that package itself
        from dask.distributed import Client, LocalCluster

        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
        search = GridSearchCV(
            NPDLClassifier(epochs=5, random_state=0), {"layers": [(4,), (8,)]}, cv=2, refit=False
        )
        here = search.fit(x, y).cv_results_["mean_test_score"]
        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        with (
            LocalCluster(host="127.0.0.1", **options) as cluster,
            Client(cluster),
            joblib.parallel_config("dask"),
        ):
            there = search.fit(x, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(here, there)
