"""The data that `Model.fit`, `evaluate` and `predict` take, as Keras users pass them.

Kinds of data, masks and weights, and errors.
"""

import itertools
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from fit_cases import (
    BRIEFLY,
    COUNT,
    LABELS,
    RNG,
    WEIGHTS,
    Seen,
    X,
    classifier,
    fit,
    same_weights,
)

import npdl
from npdl import Model
from npdl.batch import Batch
from npdl.callbacks import Callback
from npdl.data import Background, Batches, Buckets
from npdl.feed import ArrayFeed
from npdl.layers import LSTM, Dense, Embedding, Linear, SimpleRNN, Softmax
from npdl.objectives import MSE
from npdl.optimizers import SGD
from npdl.utils import one_hot, set_seed


def seeing(data, **kwargs):
    """The batches that a training run sees."""
    layer = Seen()
    model = Model([layer, Linear(1, n_in=1)])
    model.compile(MSE, SGD(lr=0.0))
    set_seed(2)
    history = model.fit(*data, **{**BRIEFLY, **kwargs})  # here, as a warning names this file
    return layer.seen, history


def pairs(n=10, size=4):
    """Batches of COUNT."""
    return [(COUNT[i : min(i + size, n)],) * 2 for i in range(0, n, size)]


# ------------------------------------------------------------------------------- kinds of data


class Sequence:
    """Like Keras's PyDataset: a length and batches by number."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return pairs()[i]


class Again:
    def __iter__(self):
        return iter(pairs())


ORDER = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    "data",
    [
        pairs(),
        Again(),
        Sequence(),
        Batches(COUNT, COUNT, batch_size=4, shuffle=False),
        Background(Batches(COUNT, COUNT, batch_size=4, shuffle=False)),
        ((x, y) for _ in range(2) for x, y in pairs()),
    ],
    ids=["list", "iterable", "sequence", "Batches", "Background", "generator"],
)
def test_iterables_of_batches(data):
    steps = {"steps_per_epoch": 3} if hasattr(data, "send") else {}
    seen, history = seeing([data], validation_data=Again(), **steps)
    assert seen == ORDER * 2
    assert list(history.history) == ["loss", "val_loss"] and history.epochs == [1, 2]


def test_a_generator_continues_from_epoch_to_epoch():
    endless = ((x, y) for x, y in itertools.cycle(pairs()))
    seen, _ = seeing([endless], steps_per_epoch=2, epochs=3)
    assert seen == [ORDER[0], ORDER[1], ORDER[2], ORDER[0], ORDER[1], ORDER[2]]
    assert next(endless)[0][0] == 0  # not one batch more was taken


@pytest.mark.parametrize("steps", [None, 2])
def test_a_generator_that_ends_too_early_ends_training(steps):
    with pytest.warns(RuntimeWarning, match="X ran out of batches in epoch 2 of 5") as caught:
        seen, history = seeing([iter(pairs())], epochs=5, steps_per_epoch=steps)
    assert seen == ORDER and len(caught) == 1 and caught[0].filename == __file__
    assert history.epochs == ([1] if steps is None else [1, 2])


def test_an_iterable_starts_again_after_its_end():
    seen, _ = seeing([Again()], steps_per_epoch=2, epochs=3)
    assert seen == [ORDER[i] for i in (0, 1, 2, 0, 1, 2)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_steps_per_epoch_of_arrays_continue_through_the_passes(shuffle):
    seen, _ = seeing([COUNT, COUNT], batch_size=4, steps_per_epoch=2, epochs=3, shuffle=shuffle)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    for batches in (seen[:3], seen[3:]):
        assert sorted(itertools.chain(*batches)) == list(range(10))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "?", ">f4", "c8", "O"])
def test_batches_in_a_new_order_are_rows_of_the_data(dtype):
    x = RNG.integers(0, 2, (70, 3, 400)).astype(dtype)
    place = np.arange(70)
    seen = []
    for batch in ArrayFeed(Batch((x,), (place,)), 32, shuffle=True).epoch():
        (got,), (rows,) = batch.x, batch.y
        assert got.dtype == x.dtype and np.array_equal(got, x[rows])
        seen += rows.tolist()
    assert seen != sorted(seen) == [*range(70)]


def test_stop_training_ends_after_the_batch():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    seen, history = seeing([COUNT, COUNT], batch_size=4, shuffle=False, callbacks=Stop())
    assert seen == ORDER[:2] and history.epochs == [1]


def test_evaluate_and_predict_take_iterables_too():
    model = classifier()
    batches = Batches(X, LABELS, WEIGHTS, batch_size=9, shuffle=False)
    wanted = model.evaluate(X, LABELS, sample_weight=WEIGHTS)
    np.testing.assert_allclose(model.evaluate(batches), wanted, rtol=1e-5)
    np.testing.assert_allclose(model.predict(batches), model.predict(X), rtol=1e-5)
    alone = Batches(X, batch_size=9, shuffle=False)
    np.testing.assert_allclose(model.predict(alone), model.predict(X), rtol=1e-5)
    assert len(model.predict(iter(alone), steps=2)) == 18
    assert len(model.predict(X, batch_size=9, steps=2)) == 18
    first = model.evaluate(X[:18], LABELS[:18])
    assert model.evaluate(X, LABELS, 9, steps=2) == pytest.approx(first)
    assert model.evaluate(X, LABELS, 9, steps=2) == pytest.approx(first)  # from the start again
    with pytest.raises(ValueError, match="must yield at least one batch"):
        model.predict(iter([]))
    with pytest.raises(ValueError, match="must yield at least one batch"):
        model.evaluate(iter([]))


def test_validation_by_iterable_and_steps_is_the_same_each_epoch():
    model = classifier(lr=0.0)
    batches = Batches(X, LABELS, batch_size=9, shuffle=False)
    history = fit(model, X, LABELS, validation_data=batches, validation_steps=2, epochs=3)
    wanted = model.evaluate(X[:18], LABELS[:18]).loss
    assert history.history["val_loss"] == [pytest.approx(wanted)] * 3
    history = fit(model, X, LABELS, validation_data=(X, LABELS), validation_steps=1)
    assert (
        history.history["val_loss"] == [pytest.approx(model.evaluate(X[:64], LABELS[:64]).loss)] * 2
    )


def test_a_memory_mapped_file_is_read_batch_by_batch(tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "f4", X.shape)
    x[...] = X
    x.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, other = classifier(), classifier()
    assert fit(one, mapped, LABELS).history == fit(other, X, LABELS).history
    same_weights(one, other)
    np.testing.assert_array_equal(one.predict(mapped), one.predict(X))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_memory_mapped_file_larger_than_the_memory(tmp_path):
    code = f"""
        import resource
        import numpy as np, npdl
        n, d = 200_000, 1000  # 800 MB
        np.lib.format.open_memmap("{tmp_path}/x.npy", "w+", "f4", (n, d))[-1] = 1
        y = np.zeros(n, "i8")
        model = npdl.Model([npdl.layers.Softmax(2, n_in=d)])
        model.compile("scce")
        x = np.load("{tmp_path}/x.npy", mmap_mode="r")
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
        options = dict(epochs=1, batch_size=256, steps_per_epoch=50, verbose=0)
        model.fit(x, y, validation_split=0.1, validation_steps=20, **options)
        try:
            x + 1
        except MemoryError:
            print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "done\n"


def test_a_model_that_is_not_built_takes_its_shape_from_the_first_batch():
    model = Model([Dense(8), Softmax(3)])
    model.compile("scce")
    fit(model, Batches(X, LABELS))
    assert model.layers[0].W.shape == (4, 8) and model.layers[1].need_input_grad


# --------------------------------------------------------------------------- masks and weights


def test_masks_reach_the_recurrent_layers_and_the_loss():
    """Padded sequences train as those without padding do, one by one."""
    lengths = [2, 5, 3, 5]
    rows = [RNG.normal(size=(n, 2)).astype("f4") for n in lengths]
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(int)
    x = np.full((4, 5, 2), 9, "f4")
    y = np.zeros((4, 5), int)
    for i, row in enumerate(rows):
        x[i, : len(row)], y[i, : len(row)] = row, row[:, 0] > 0
    one, other = [], []
    for models in (one, other):
        set_seed(1)
        for head in (True, False):
            layers = [SimpleRNN(n_out=3, n_in=2, return_sequence=True), Softmax(2)]
            if not head:
                layers = [LSTM(n_out=3, n_in=2), Softmax(2)]
            model = Model(layers)
            model.compile("scce", SGD(lr=0.5))
            models.append(model)
    fit(one[0], (x, mask), y, epochs=1)
    grads = [np.zeros_like(g) for g in other[0].grads]
    for row in rows:
        _, _, cache = other[0].loss_forward(row[None], (row[None, :, 0] > 0).astype(int))
        other[0].loss_backward(cache)
        for total, grad in zip(grads, other[0].grads):
            total += grad * len(row) / sum(lengths)
    other[0].optimizer.update(other[0].params, grads)
    same_weights(one[0], other[0], rtol=1e-4)

    labels = np.array([0, 1, 1, 0])
    fit(one[1], {"input": x, "mask": mask}, labels, epochs=1)
    grads = [np.zeros_like(g) for g in other[1].grads]
    for row, label in zip(rows, labels):
        _, _, cache = other[1].loss_forward(row[None], np.array([label]))
        other[1].loss_backward(cache)
        for total, grad in zip(grads, other[1].grads):
            total += grad / 4
    other[1].optimizer.update(other[1].params, grads)
    same_weights(one[1], other[1], rtol=1e-4)


@pytest.mark.parametrize("stepwise", [False, True])
def test_buckets_with_masks_train(stepwise):
    rows = [RNG.integers(1, 9, n) for n in RNG.integers(2, 9, 40)]
    labels = [row > 4 for row in rows] if stepwise else [row[0] > 4 for row in rows]
    layers = [Embedding(input_size=9, n_out=4), LSTM(n_out=8, return_sequence=stepwise), Softmax(2)]
    model = Model(layers)
    model.compile("scce", npdl.optimizers.Adam(lr=0.05))
    y = [np.asarray(label, int) for label in labels]
    history = fit(model, Buckets(rows, y, batch_size=8, masks=True, padding="post"), epochs=30)
    assert history.history["acc"][-1] > 0.95


def test_masks_reach_prediction():
    rows = [RNG.normal(size=(n, 2)).astype("f4") for n in (2, 5, 3)]
    model = Model([LSTM(n_out=3, n_in=2), Softmax(2)])
    model.compile("scce")
    alone = np.concatenate([model.predict(row[None]) for row in rows])
    for padding in ("pre", "post"):
        x, mask = npdl.data.pad_sequences(rows, padding=padding, return_mask=True)
        np.testing.assert_allclose(model.predict((x, mask)), alone, rtol=1e-4)
        np.testing.assert_allclose(model.predict_on_batch((x, mask)), alone, rtol=1e-4)
        buckets = Buckets(rows, batch_size=9, boundaries=[9], shuffle=False, masks=True)
        np.testing.assert_allclose(model.predict(buckets), alone, rtol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_a_sample_weight_of_0_leaves_out_and_2_counts_twice(fused):
    one, other = classifier(), classifier()
    if not fused:
        for model in (one, other):
            model.layers[-1] = Dense(3, activation="softmax")
            model.compile("hed", SGD(lr=0.1))
        set_seed(1)
        other.layers[-1].W[...] = one.layers[-1].W
    index = np.repeat(np.arange(70), WEIGHTS.astype(int))
    scale = WEIGHTS * 70 / WEIGHTS.sum()  # the mean is over the number of samples, as in Keras
    fit(one, X, LABELS, sample_weight=scale, batch_size=70)
    fit(other, X[index], LABELS[index], batch_size=len(index))
    same_weights(one, other, rtol=1e-4)


@pytest.mark.parametrize("labels", ["numbers", "one-hot"])
def test_class_weights_are_sample_weights(labels):
    y = one_hot(LABELS) if labels == "one-hot" else LABELS
    table = {0: 2.0, 2: 0.5}
    weights = np.array([2.0, 1.0, 0.5])[LABELS]
    runs = [
        ((X, y), {"class_weight": table}),
        ((X, y), {"sample_weight": weights}),
        ((Batches(X, y, batch_size=70, shuffle=False),), {"class_weight": table}),
    ]
    models = []
    for data, more in runs:
        models.append(classifier())
        fit(models[-1], *data, batch_size=70, **more)
    same_weights(models[0], models[1])
    same_weights(models[0], models[2], rtol=1e-4)
    both, product = classifier(), classifier()
    fit(both, X, y, class_weight=table, sample_weight=WEIGHTS)
    fit(product, X, y, sample_weight=WEIGHTS * weights)
    same_weights(both, product)


def test_class_weights_of_yes_and_no():
    y = (LABELS > 0).astype(int)
    for targets in (y, y[:, None]):
        model = Model([Dense(1, n_in=4, activation="sigmoid")])
        model.compile("bce", SGD(lr=0.0))
        history = fit(model, X, targets, class_weight={1: 3.0}, epochs=1)
        p = model.predict(X)[:, 0]
        wanted = (-np.log(np.where(y, p, 1 - p)) * np.where(y, 3, 1)).mean()
        assert history.history["loss"] == [pytest.approx(wanted, rel=1e-5)]


def test_validation_data_with_weights():
    model = classifier(lr=0.0)
    history = fit(model, X, LABELS, validation_data=(X, LABELS, WEIGHTS))
    wanted = model.evaluate(X, LABELS, sample_weight=WEIGHTS).loss
    assert wanted != pytest.approx(model.evaluate(X, LABELS).loss)
    assert history.history["val_loss"] == [pytest.approx(wanted)] * 2


def test_validation_split_takes_the_weights_along():
    model = classifier(lr=0.0)
    history = fit(model, X, LABELS, sample_weight=WEIGHTS, validation_split=0.2)
    wanted = model.evaluate(X[56:], LABELS[56:], sample_weight=WEIGHTS[56:]).loss
    assert history.history["val_loss"] == [pytest.approx(wanted)] * 2


def test_a_loss_of_ones_own_and_weights():
    class Plain:
        def forward(self, outputs, targets):
            return np.square(outputs - targets).mean()

        def backward(self, outputs, targets):
            return 2 * (outputs - targets) / outputs.size

    model = Model([Linear(1, n_in=1)])
    model.compile(Plain(), SGD(lr=0.01))
    history = fit(model, COUNT, COUNT, epochs=20)
    assert history.history["loss"][-1] < history.history["loss"][0]
    with pytest.raises(ValueError, match=r"must take sample_weight. Received: loss='Plain'"):
        fit(model, COUNT, COUNT, sample_weight=np.ones(10))


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "data, options, error, message",
    [
        ((X,), {}, ValueError, "`Y` must be given"),
        (([(COUNT, COUNT, COUNT, COUNT)],), {}, ValueError, "Received: 4 items"),
        ((Again(), COUNT), {}, ValueError, "`Y` must be None where `X` is an iterable"),
        ((Again(),), {"sample_weight": [1]}, ValueError, "`sample_weight` must be None"),
        ((Again(),), {"validation_split": 0.2}, ValueError, "`validation_split` needs arrays"),
        ((iter([COUNT]),), {}, ValueError, "`Y` must be given, or come with the batches"),
        ((iter([(1, 2, 3, 4)]),), {}, ValueError, r"must be \(x, y\) or .*Received: 4 items"),
        ((iter([]),), {}, ValueError, "`X` must yield at least one batch"),
        ((X, LABELS), {"sample_weight": np.ones(3)}, ValueError, r"each of 70 .*shape=\(3,\)"),
        ((X, LABELS), {"sample_weight": ["a"] * 70}, TypeError, "`sample_weight` must be an array"),
        ((X, LABELS), {"sample_weight": np.ones((70, 2))}, ValueError, r"shape \(70,\) or its l"),
        ((X, LABELS), {"class_weight": [1, 2]}, TypeError, "`class_weight` must be a dict"),
        ((X, LABELS), {"class_weight": {"a": 1}}, ValueError, "class numbers as keys.*key='a'"),
        ((X, LABELS), {"class_weight": {-1: 1}}, ValueError, "class numbers as keys.*key=-1"),
        ((X, LABELS), {"steps_per_epoch": 0}, ValueError, "`steps` must be an integer >= 1"),
        ((X, LABELS), {"initial_epoch": -1}, ValueError, "`initial_epoch` must be an integer >= 0"),
        ((X, LABELS), {"validation_freq": 0}, ValueError, "`validation_freq`"),
        ((X, LABELS), {"verbose": 3}, ValueError, "`verbose` must be 0, 1, 2 or 'auto'.*verbose=3"),
        ((X, LABELS), {"verbose": "bar"}, ValueError, "`verbose` must be 0, 1, 2 or 'auto'"),
        ((X, LABELS), {"callbacks": [print]}, TypeError, "must be instances of Callback.*print"),
        ((X, LABELS), {"callbacks": 3}, TypeError, "must be instances of Callback. Received: 3"),
        (({"x": X}, LABELS), {}, ValueError, r"must hold 'input'.*keys=\['x'\]"),
        (((X, X[:, :3]), LABELS), {}, ValueError, r"`mask` must be numbers of shape \(70, 4\)"),
    ],
)  # fmt: skip
def test_what_fit_cannot_take(data, options, error, message):
    model = classifier()
    before = model.layers[0].W.copy()
    with pytest.raises(error, match=message):
        fit(model, *data, **options)
    np.testing.assert_array_equal(model.layers[0].W, before)
    assert model.loop is None


def test_the_error_about_the_shape_of_a_sample_says_how_many_there_are():
    model = classifier()
    model.build()
    with pytest.raises(ValueError, match=r"shape=\(1, 3\)") as caught:
        fit(model, X[:, :3], LABELS)
    assert caught.value.__notes__ == ["This was the first of 70 samples, which is tried by itself."]


def test_no_warning_without_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(classifier(), X, LABELS, epochs=3, validation_split=0.2, sample_weight=WEIGHTS)
