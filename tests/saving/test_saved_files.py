"""Saved files: for any reader and later versions, with weights only, with users' classes."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from make_golden import INPUT
from saving_models import X, assert_same_weights, make_model, small, through_file, train

import npdl
from npdl import Model, saving
from npdl.layers import Dense, Layer, Linear, Softmax
from npdl.objectives import MeanSquaredError
from npdl.utils import get_rng

safetensors = pytest.importorskip("safetensors")
pytest.importorskip("safetensors.numpy")

GOLDEN = sorted(Path(__file__).parent.glob("golden-*.safetensors"))


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
    for version in ("2", "3"):  # graphs have 2, but this is none
        texts = {"npdl.format": version, "npdl.model": "{}"}
        npdl._safetensors.write(tmp_path / "x", {}, texts)
        with pytest.raises(ValueError, match=rf"has version '{version}' of the.*A newer npdl"):
            npdl.load_model(tmp_path / "x")
        with pytest.raises(ValueError, match=rf"has version '{version}' of the format"):
            small().load_weights(tmp_path / "x")


# --------------------------------------------------------------------------------------- weights


def test_weights_only(tmp_path, trained):
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
