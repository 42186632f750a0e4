"""`npdl.saving`: a loaded model continues as if it had never been saved."""

import copy
import io
import pickle

import numpy as np
import pytest
from saving_models import (
    LABELS,
    X,
    assert_same_weights,
    make_data,
    make_model,
    small,
    through_file,
    train,
)

import npdl
from npdl import Model
from npdl.layers import LSTM, Dense, Dropout, Embedding, Linear, Softmax
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
def test_every_optimizer_continues(tmp_path, name):
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
def test_options_of_optimizers_continue(tmp_path, options):
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
def test_any_generator_continues(tmp_path, bits):
    set_rng(np.random.Generator(getattr(np.random, bits)(3)))
    get_rng().random(7, np.float32)
    get_rng().spawn(2)
    small().save(tmp_path / "x")
    wanted = get_rng().random(9), get_rng().spawn(1)[0].random(3)
    set_seed(8)
    npdl.load_model(tmp_path / "x")
    np.testing.assert_array_equal(get_rng().random(9), wanted[0])
    np.testing.assert_array_equal(get_rng().spawn(1)[0].random(3), wanted[1])


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


def test_dropout_continues_in_a_fresh_model(tmp_path):
    """The dropped values after loading are those that would have been dropped."""
    model = small(Dropout(0.5))
    model.save(tmp_path / "x")
    wanted = model.forward(X)
    set_seed(99)
    np.testing.assert_array_equal(npdl.load_model(tmp_path / "x").forward(X), wanted)


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


def test_copies_during_training():
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
