"""`npdl.saving`: what is loaded goes on as if it had never been saved."""

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from make_golden import INPUT
from saving_models import assert_same_weights, make_data, make_model, train

import npdl
from npdl import Model, saving
from npdl.layers import LSTM, Dense, Dropout, Embedding, Layer, Linear, Softmax
from npdl.objectives import MeanSquaredError
from npdl.utils import (
    get_dtype,
    get_rng,
    get_rng_state,
    set_dtype,
    set_rng,
    set_rng_state,
    set_seed,
)

joblib = pytest.importorskip("joblib")
safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.numpy")

X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(15, 4)
LABELS = np.arange(15) % 3
GOLDEN = sorted(Path(__file__).parent.glob("golden-*.safetensors"))


def small(*layers, **kwargs):
    model = Model([Dense(5, n_in=4), *layers, Softmax(3)])
    model.compile(**kwargs)
    return model


def through_file(model, tmp_path, *args, **kwargs):
    model.save(tmp_path / "model.safetensors")
    return npdl.load_model(tmp_path / "model.safetensors", *args, **kwargs)


def through_joblib(model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    return joblib.load(tmp_path / "model.joblib")


COPIES = {
    "file": through_file,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "joblib": through_joblib,
}
OPTIMIZERS = sorted({cls.__name__ for cls in npdl.optimizers._registry._classes.values()})


# --------------------------------------------------------------------------- nothing gets lost


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_trains_on_with_the_same_bits(tmp_path, copied, dtype):
    """Weights, running statistics, optimizer, shuffling and dropout."""
    set_dtype(dtype)
    model = make_model()
    train(model)
    other = copied(model, tmp_path)
    assert_same_weights(other, model)
    state = get_rng_state()
    history = train(model)
    set_rng_state(state)
    assert train(other).history == history.history
    assert_same_weights(other, model)
    x = make_data()[0]
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    assert other.predict(x).dtype == dtype


def test_a_file_restores_the_generator(tmp_path, trained):
    trained.save(tmp_path / "x")
    train(trained)
    after = get_rng().random()
    again = npdl.load_model(tmp_path / "x")
    train(again)
    assert get_rng().random() == after
    assert_same_weights(again, trained)
    before = get_rng_state()
    npdl.load_model(tmp_path / "x", restore_rng=False)
    assert get_rng_state() == before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on(tmp_path, name):
    model = small(optimizer={"name": name, "lr": 0.01, "decay": 0.1, "clip": 0.5})
    fit = {"epochs": 3, "shuffle": False, "batch_size": 4, "verbose": False}
    model.fit(X, LABELS, **fit)
    other = through_file(model, tmp_path)
    assert other.optimizer.iterations == 12
    assert other.optimizer.get_config() == model.optimizer.get_config()
    assert other.optimizer.current_lr == model.optimizer.current_lr
    for each in model, other:
        each.fit(X, LABELS, **fit)
    assert_same_weights(other, model)


@pytest.mark.parametrize(
    "options",
    [
        {"use_ema": True},
        {"gradient_accumulation_steps": 3},
        {"lr": npdl.schedules.CosineDecay(0.1, 20)},
        {"lr_min": 0.002, "weight_decay": 0.01},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_optimizers_go_on(tmp_path, options):
    model = small(optimizer=npdl.optimizers.Adam(**options))
    fit = {"epochs": 2, "shuffle": False, "batch_size": 4, "verbose": False}
    model.fit(X, LABELS, **fit)
    other = through_file(model, tmp_path)
    assert other.to_json() == model.to_json()
    for each in model, other:
        each.fit(X, LABELS, **fit)
    assert_same_weights(other, model)


def test_a_rate_that_was_lowered_stays_low(tmp_path):
    model = small(optimizer=npdl.optimizers.SGD(lr=0.5))
    model.optimizer.lr *= 0.1
    assert through_file(model, tmp_path).optimizer.lr == 0.05


@pytest.mark.parametrize("bits", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_any_generator_goes_on(tmp_path, bits):
    set_rng(np.random.Generator(getattr(np.random, bits)(3)))
    get_rng().random(7, np.float32)
    get_rng().spawn(2)
    small().save(tmp_path / "x")
    wanted = get_rng().random(9), get_rng().spawn(1)[0].random(3)
    set_seed(8)
    npdl.load_model(tmp_path / "x")
    np.testing.assert_array_equal(get_rng().random(9), wanted[0])
    np.testing.assert_array_equal(get_rng().spawn(1)[0].random(3), wanted[1])


def test_loading_draws_nothing(tmp_path, monkeypatch, trained):
    trained.save(tmp_path / "x")
    monkeypatch.setattr(npdl.initializations, "get_rng", None)
    assert_same_weights(npdl.load_model(tmp_path / "x", restore_rng=False), trained)


def test_frozen_and_mixed_parameters(tmp_path):
    set_dtype("float64")
    model = Model([Linear(4, n_in=4)])
    model.compile("mse")
    set_dtype("float32")
    model.add(Linear(2))
    model.compile("mse")
    model.layers[0].parameters[0].trainable = False
    model.layers[0].W += 1e-12
    other = through_file(model, tmp_path)
    assert_same_weights(other, model)
    assert [w.dtype.name for w in other.get_weights()] == ["float64"] * 2 + ["float32"] * 2
    assert [p.trainable for p in other.layers[0].parameters] == [False, True]
    assert get_dtype() == np.float32
    other.fit(X, X[:, :2], epochs=1, verbose=False)
    np.testing.assert_array_equal(other.layers[0].W, model.layers[0].W)


def test_a_given_table_is_kept_once(tmp_path):
    table = np.random.default_rng(1).normal(size=(50, 8))
    model = Model([Embedding(table), LSTM(n_out=3), Softmax(2)])
    model.compile()
    assert np.shape(model.to_json()["layers"][0]["config"]["embed_words"]) == (50, 8)
    other = through_file(model, tmp_path)
    assert_same_weights(other, model)
    assert not other.layers[0].parameters[0].trainable
    assert (tmp_path / "model.safetensors").stat().st_size < 50 * 8 * 4 + 4000


def test_a_model_that_is_built_but_not_compiled(tmp_path):
    model = Model([Dense(5, n_in=4), Softmax(3)])
    model.build()
    for layer, name in zip(model.layers, "ab"):
        layer.name = name
    other = through_file(model, tmp_path)
    assert not other.compiled
    np.testing.assert_array_equal(other.forward(X, train=False), model.forward(X, train=False))
    trained = small()
    trained.save(tmp_path / "x")
    other = npdl.load_model(tmp_path / "x", compile=False)
    assert not other.compiled
    np.testing.assert_array_equal(other.forward(X, train=False), trained.predict(X))


def test_a_copy_shares_nothing(trained):
    other = copy.deepcopy(trained)
    train(other)
    assert not np.array_equal(other.weights["softmax_1/W"], trained.weights["softmax_1/W"])
    for name, array in other.weights.items():
        assert not np.shares_memory(array, trained.weights[name])


def test_a_pickle_holds_no_arrays_of_the_last_step():
    model = small()
    empty = len(pickle.dumps(model))
    big = np.tile(X, (2000, 1))
    model.forward(big)
    with model.training():
        model.forward(big)
        inside = pickle.loads(pickle.dumps(model))
        assert len(pickle.dumps(model)) < empty + 1000
    assert not inside.layers[0].keep_buffers and inside.layers[0].need_input_grad


def test_copies_from_within_a_training():
    copies = []

    def copy_model(epoch, logs):
        copies.append(pickle.loads(pickle.dumps(model)))
        copies.append(copy.deepcopy(model))

    model = make_model()
    train(model, epochs=1, callbacks=[npdl.callbacks.LambdaCallback(on_epoch_end=copy_model)])
    for other in copies:
        assert other.loop is None
        assert_same_weights(other, model)
        train(other)


def test_joblib_runs_models_in_other_processes(trained):
    x = make_data()[0]
    found = joblib.Parallel(2)(
        joblib.delayed(trained.predict)(x[i : i + 5]) for i in (0, 5, 10, 15)
    )
    np.testing.assert_array_equal(np.concatenate(found), trained.predict(x))


# -------------------------------------------------------------------------------------- the file


def test_any_reader_opens_the_file(tmp_path, trained):
    path = tmp_path / "x"
    trained.save(path)
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
        for name, array in trained.weights.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
        others = set(file.keys()) - trained.weights.keys()
        np.testing.assert_array_equal(
            file.get_tensor("optimizer/slots/dense_1/W/mean"),
            trained.optimizer.get_state()["slots"]["dense_1/W"]["mean"],
        )
    assert all(name.startswith("optimizer/slots/") for name in others)
    assert metadata["format"] == "np"
    assert metadata["npdl.format"] == str(saving.FORMAT)
    assert metadata["npdl.version"] == npdl.__version__
    config = json.loads(metadata["npdl.model"], parse_constant=pytest.fail)
    assert [entry["class"] for entry in config["layers"][:2]] == ["Convolution", "BatchNormal"]
    json.loads(metadata["npdl.state"], parse_constant=pytest.fail)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files(path):
    """Every npdl reads the files of the ones before it; see make_golden.py."""
    wanted = json.loads(path.with_suffix(".json").read_text())
    model = npdl.load_model(path)
    np.testing.assert_allclose(model.predict(INPUT), wanted["outputs"], rtol=1e-4)
    assert model.optimizer.iterations == wanted["iterations"] == 6
    assert model.optimizer.current_lr == pytest.approx(wanted["rate"], rel=1e-12)
    assert model.optimizer.lr_max == np.inf and model.optimizer.clipnorm == 1.0
    assert [metric.name for metric in model.metrics] == ["acc", "top_k"]
    assert get_rng().random() == wanted["next"]
    assert np.isfinite(train(model).history["loss"]).all()


def test_the_present_version_has_a_golden_file():
    assert f"golden-format{saving.FORMAT}" in {path.stem for path in GOLDEN}


def test_a_file_of_a_later_version(tmp_path):
    texts = {"npdl.format": "2", "npdl.model": "{}"}
    npdl._safetensors.write(tmp_path / "x", {}, texts)
    with pytest.raises(ValueError, match=r"has version '2' of the format.*A newer npdl"):
        npdl.load_model(tmp_path / "x")
    with pytest.raises(ValueError, match=r"has version '2' of the format"):
        small().load_weights(tmp_path / "x")


# --------------------------------------------------------------------------------------- weights


def test_weights_alone(tmp_path, trained):
    other = make_model()
    trained.save_weights(tmp_path / "w")
    found = safetensors.numpy.load_file(tmp_path / "w")
    assert found.keys() == trained.weights.keys()
    assert other.load_weights(tmp_path / "w") == ([], [], [])
    assert_same_weights(other, trained)
    other = make_model()
    trained.save(tmp_path / "model")
    other.load_weights(tmp_path / "model")
    assert_same_weights(other, trained)
    with pytest.raises(ValueError, match=r"one that Model\.save wrote"):
        npdl.load_model(tmp_path / "w")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_another_program(tmp_path, dtype):
    one, other = small(), small()
    plain = {name: a.astype(dtype) for name, a in one.weights.items()}
    safetensors.numpy.save_file(plain, tmp_path / "w", {"format": "pt"})
    other.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(other.layers[0].W, plain["dense_1/W"].astype(np.float32))


def test_weights_that_do_not_fit(tmp_path):
    small().save_weights(tmp_path / "w")
    other = Model([Dense(5, n_in=4), Dense(3, activation="relu"), Softmax(7)])
    other.compile()
    before = other.state_dict()
    for match in (r"missing=\['dense_2/W', 'dense_2/b'\], unexpected=\[\]",):
        with pytest.raises(ValueError, match=match):
            other.load_weights(tmp_path / "w")
    assert all(np.array_equal(before[k], v) for k, v in other.weights.items())
    report = other.load_weights(tmp_path / "w", strict=False)
    assert report.missing_keys == ["dense_2/W", "dense_2/b"]
    assert report.unexpected_keys == []
    assert report.mismatched_keys == ["softmax_1/W", "softmax_1/b"]
    assert np.array_equal(other.weights["dense_2/W"], before["dense_2/W"])
    assert not np.array_equal(other.weights["dense_1/W"], before["dense_1/W"])


def test_all_weights_or_none():
    model = small()
    before = model.state_dict()
    new = {name: a + 1 for name, a in before.items()} | {"softmax_1/b": np.zeros(4, np.float32)}
    for wrong in (
        np.zeros(4, np.float32),
        np.zeros(3, int),
        np.zeros(3, bool),
        np.array(["a"] * 3),
    ):
        with pytest.raises(ValueError, match="'softmax_1/b' must"):
            model.load_state_dict(new | {"softmax_1/b": wrong})
        assert all(np.array_equal(before[k], v) for k, v in model.weights.items())


def test_state_dict_and_lists_are_copies():
    one, other = small(), small()
    state = one.state_dict()
    state["dense_1/W"][...] = 7
    assert not (one.layers[0].W == 7).any()
    other.load_state_dict(one.state_dict())
    assert_same_weights(one, other)
    weights = one.get_weights()
    assert [w.shape for w in weights] == [(4, 5), (5,), (5, 3), (3,)]
    other.set_weights([w + 1 for w in weights])
    np.testing.assert_array_equal(other.layers[0].W, one.layers[0].W + 1)
    with pytest.raises(ValueError, match=r"must be 4 arrays, one for each of dense_1/W.*: 3"):
        other.set_weights(weights[:3])
    with pytest.raises(RuntimeError, match="built before get_weights"):
        Model([Softmax(3)]).get_weights()


# -------------------------------------------------------------------------------- of users' own


class Twice(Layer):
    def __init__(self, factor=2.0):
        self.factor = factor

    def forward(self, input, train=True):
        return input * self.factor

    def backward(self, pre_grad):
        return pre_grad * self.factor


class Quartic(npdl.objectives.Objective):
    def __init__(self, power=4, *, reduction="mean"):
        super().__init__(reduction=reduction)
        self.power = power

    def forward(self, outputs, targets):
        return np.mean((outputs - targets) ** self.power)

    def backward(self, outputs, targets):
        return self.power * (outputs - targets) ** (self.power - 1) / outputs.size


class Cubic(npdl.activations.Activation):
    def forward(self, input):
        return input**3

    def derivative(self, input=None):
        return 3 * input**2


class Slow(npdl.optimizers.Momentum):
    pass


def with_own_objects():
    model = Model([Dense(3, n_in=4, activation=Cubic()), Twice(3.0)])
    model.compile(Quartic(6), Slow(0.5, lr=0.01))
    model.fit(X, X[:, :3], epochs=2, verbose=False)
    return model


OWN = {cls.__name__: cls for cls in (Twice, Quartic, Cubic, Slow)}


@pytest.fixture
def registered():
    known = dict(npdl._registry._registered)
    yield
    npdl._registry._registered.clear()
    npdl._registry._registered.update(known)


def check_own(model, other):
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    assert (type(other.loss), other.loss.power) == (Quartic, 6)
    assert (type(other.optimizer), other.optimizer.momentum) == (Slow, 0.5)
    assert other.layers[1].factor == 3.0


def test_classes_of_ones_own_are_passed(tmp_path):
    model = with_own_objects()
    for gone in OWN:
        with pytest.raises(ValueError, match=rf"{gone}"):
            through_file(model, tmp_path, {k: v for k, v in OWN.items() if k != gone})
    check_own(model, through_file(model, tmp_path, OWN))
    with saving.custom_objects(OWN):
        check_own(model, npdl.load_model(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=r"Unknown layer 'Twice'.*custom_objects.*register"):
        npdl.load_model(tmp_path / "model.safetensors", {"Cubic": Cubic})


@pytest.mark.usefixtures("registered")
def test_classes_of_ones_own_are_registered(tmp_path):
    assert saving.register(Twice) is Twice
    assert saving.register(name="fourth")(Quartic) is Quartic
    saving.register(Cubic)
    saving.register()(Slow)
    model = with_own_objects()
    assert model.to_json()["loss"]["name"] == "fourth"
    check_own(model, through_file(model, tmp_path))
    with pytest.raises(ValueError, match=r"npdl has a layer of this name.*'Dense'"):
        saving.register(name="Dense")(Twice)


def gap(y_true, y_pred):
    return abs(y_true - y_pred).mean(axis=-1)


class Longest(npdl.metrics.Metric):
    direction = "min"

    def __init__(self, scale=1.0, name=None):
        super().__init__(name)
        self.scale = scale

    def update_state(self, y_true, y_pred, sample_weight=None):
        self._sum = max(self._sum, float(abs(y_pred).max()))

    def result(self):
        return self._sum * self.scale

    def reset_state(self):
        self._sum = 0.0


def test_metrics_are_saved(tmp_path):
    model = Model([Linear(3, n_in=4)])
    metrics = ["mae", npdl.metrics.MeanSquaredError(name="square"), Longest(2.0), gap]
    model.compile("mse", metrics=metrics, weighted_metrics=["r2"])
    wanted = model.evaluate(X, X[:, :3], return_dict=True)
    other = through_file(model, tmp_path, {"Longest": Longest, "gap": gap})
    assert other.evaluate(X, X[:, :3], return_dict=True) == wanted
    assert [*wanted] == ["loss", "mae", "square", "longest", "gap", "r2"]
    assert copy.deepcopy(model).evaluate(X, X[:, :3], return_dict=True) == wanted
    with pytest.raises(ValueError, match="Unknown name 'gap'"):
        npdl.load_model(tmp_path / "model.safetensors", {"Longest": Longest})
    model.compile("mse", metrics=[lambda y_true, y_pred: 0.0])
    with pytest.raises(TypeError, match="can't hold a function"):
        model.save(tmp_path / "x")


def test_names_that_npdl_uses(tmp_path):
    """A file would be loaded with the wrong class."""

    class Dropout(Twice):
        pass

    class Adam(npdl.optimizers.Adam):
        pass

    with pytest.raises(ValueError, match=r"a name that npdl does not use.*'Dropout'"):
        small(Dropout()).save(tmp_path / "x")
    with pytest.raises(ValueError, match=r"a name that npdl does not use.*'Adam'"):
        small(optimizer=Adam()).save(tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_just_an_object(tmp_path):
    class Plain:
        def forward(self, outputs, targets):
            return MeanSquaredError().forward(outputs, targets)

        def backward(self, outputs, targets):
            return MeanSquaredError().backward(outputs, targets)

    model = Model([Linear(2, n_in=4)])
    model.compile(Plain())
    with pytest.raises(TypeError, match=r"objectives\.Objective.*register.*save_weights.*=Plain"):
        model.save(tmp_path / "x")
    assert not any(tmp_path.iterdir())
    model.save_weights(tmp_path / "x")
    Plain.get_config = lambda self: {}
    other = through_file(model, tmp_path, {"Plain": Plain})
    assert type(other.loss) is Plain
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


def test_state_of_generators_is_checked():
    set_rng(np.random.Generator(np.random.MT19937(3)))
    good = get_rng_state()
    for position in (-1, 625, 10**6):
        bad = {**good, "state": {**good["state"], "pos": position}}
        with pytest.raises(ValueError, match="no state of a random generator"):
            set_rng_state(bad)
    for bad in (
        {},
        {"bit_generator": "os"},
        {**good, "state": 3},
        None,
        {**good, "seed_sequence": 1},
    ):
        with pytest.raises(ValueError, match="no state of a random generator"):
            set_rng_state(bad)
    set_rng_state(good)
    out = io.StringIO()
    print(get_rng().random(), file=out)
    assert out.getvalue()


def test_dropout_goes_on_in_a_fresh_model(tmp_path):
    """The dropped values after loading are those that would have been dropped."""
    model = small(Dropout(0.5))
    model.save(tmp_path / "x")
    wanted = model.forward(X)
    set_seed(99)
    np.testing.assert_array_equal(npdl.load_model(tmp_path / "x").forward(X), wanted)
