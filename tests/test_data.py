"""npdl.data: batches, sequences, and the thread that prepares them."""

import threading
import time

import numpy as np
import pytest

import npdl
from npdl import utils
from npdl._ext import kernels, use_backend
from npdl.data import (
    Augment,
    Background,
    Batches,
    Buckets,
    Flip,
    Noise,
    Shift,
    pad_sequences,
    train_test_split,
)

# ---------------------------------------------------------------------------------------- batches


def test_batches_hold_every_sample_once_and_rows_stay_together(rng):
    x, y = rng.random((11, 3)), np.arange(11)
    batches = Batches(x, y, batch_size=4)
    assert len(batches) == 3
    got = list(batches)
    assert [len(yb) for _, yb in got] == [4, 4, 3]
    labels = np.concatenate([yb for _, yb in got])
    assert sorted(labels) == list(range(11)) and labels.tolist() != list(range(11))
    for xb, yb in got:
        np.testing.assert_array_equal(xb, x[yb])
        assert xb.flags.owndata and xb.flags.c_contiguous


def test_batches_in_order_and_without_the_rest():
    batches = Batches(np.arange(7), batch_size=3, shuffle=False, drop_last=True)
    assert [b.tolist() for b in batches] == [[0, 1, 2], [3, 4, 5]] and len(batches) == 2
    assert len(Batches(np.arange(6), batch_size=3)) == len([*Batches(np.arange(6), batch_size=3)])
    assert [*Batches(np.arange(2), batch_size=3, drop_last=True)] == []


def orders(batches, epochs=2):
    return [np.concatenate([*batches]).tolist() for _ in range(epochs)]


def test_each_epoch_has_a_new_order_that_follows_from_the_seed():
    one, two = Batches(np.arange(50), seed=3), Batches(np.arange(50), seed=3)
    first, second = orders(one)
    assert first != second
    utils.set_seed(99)  # has no effect
    assert orders(two) == [first, second]
    assert orders(Batches(np.arange(50), seed=4))[0] != first


def test_without_a_seed_npdl_s_generator_decides_when_an_epoch_begins():
    batches = Batches(np.arange(50))
    utils.set_seed(5)
    wanted = orders(batches)
    utils.set_seed(5)
    running = iter(batches)
    utils.set_seed(77)
    assert np.concatenate([*running]).tolist() == wanted[0]


@pytest.mark.parametrize("wrap", [lambda b: b, Background], ids=["plain", "background"])
def test_the_state_of_a_seeded_source_goes_back(wrap):
    source = wrap(Batches(np.arange(50), seed=3))
    orders(source, 1)
    state = source.get_state()
    wanted = orders(source)
    source.set_state(state)
    assert orders(source) == wanted
    source = wrap(Batches(np.arange(50)))
    source.set_state(source.get_state())
    assert len(orders(source)) == 2


def test_numpy_s_global_state_is_left_alone(rng):
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    list(Batches(np.arange(9), transform=lambda x, rng: x))
    train_test_split(np.arange(9), stratify=[0, 1, 0] * 3)
    Augment(Shift(1), Flip(), Noise(1))(rng.random((2, 1, 3, 3)))
    after = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    np.testing.assert_array_equal(before, after)


def test_a_mapped_file_is_read_by_the_batch(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(20.0).reshape(10, 2))
    x = np.load(path, mmap_mode="r")
    for part in Batches(x, batch_size=3):
        assert type(part) is np.ndarray and not np.shares_memory(part, x)


def test_the_transform_gets_only_the_samples():
    batches = Batches(np.zeros(6), np.zeros(6), transform=lambda x, rng: x + rng.random(len(x)))
    (x, y), *_ = batches
    assert x.min() > 0 and y.max() == 0


@pytest.mark.parametrize(
    "arguments, options, error",
    [
        ((), {}, "at least one array"),
        ((np.zeros(3), np.zeros(4)), {}, "must have one length. Received: lengths=.3, 4."),
        ((np.zeros((0, 2)),), {}, "at least one sample"),
        ((5,), {}, "at least one sample"),
        (([1, 2],), {"batch_size": 0}, "`batch_size` must be an integer >= 1"),
    ],
)
def test_batches_say_what_is_wrong(arguments, options, error):
    with pytest.raises(ValueError, match=error):
        Batches(*arguments, **options)


# ------------------------------------------------------------------------------------- background


def test_the_next_items_are_ready_while_one_is_in_use():
    made = [threading.Event() for _ in range(5)]

    def source():
        for i, event in enumerate(made):
            event.set()
            yield i

    items = iter(Background(source(), ahead=2))
    assert next(items) == 0
    assert made[1].wait(5) and made[2].wait(5)  # in advance
    time.sleep(0.02)
    assert not made[3].is_set()  # but no more than two
    assert [*items] == [1, 2, 3, 4]


def test_background_is_gone_through_again_and_knows_its_length():
    source = Background(Batches(np.arange(10), batch_size=3, seed=1))
    assert len(source) == 4
    again = Batches(np.arange(10), batch_size=3, seed=1)
    assert orders(source) == orders(again)


def test_an_exception_comes_where_its_item_would_have():
    def source():
        yield 1
        raise KeyError("lost")

    items = iter(Background(source()))
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)
    assert threads() == 0


def threads():
    return sum(t.name == "npdl-background" for t in threading.enumerate())


def test_who_stops_early_ends_the_thread_and_the_source():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = iter(Background(endless()))
    next(items)
    assert threads() == 1
    items.close()
    assert threads() == 0 and closed.is_set()
    for _ in Background(endless()):
        break
    assert threads() == 0


def test_a_background_that_is_never_asked_starts_no_thread():
    iter(Background([1]))
    assert threads() == 0


def test_the_backend_holds_in_the_thread_too():
    with use_backend("numpy"):
        assert [*Background(kernels().backend for _ in range(1))] == ["numpy"]


@pytest.mark.parametrize("seed", [None, 5])
def test_a_training_with_a_background_is_resumed_to_the_same_bits(tmp_path, seed):
    (x, y), _ = npdl.datasets.load_digits()
    x, y = x[:300], y[:300]

    class Killer(npdl.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 3):
                raise RuntimeError("killed")

    def train(*callbacks):
        changes = Augment(Shift(1), Noise(0.1))
        batches = Background(Batches(x, y, batch_size=50, seed=seed, transform=changes))
        model.fit(batches, epochs=2, verbose=0, callbacks=list(callbacks))
        return model.get_weights()

    def make():
        utils.set_seed(3)
        model = npdl.Model(
            [npdl.layers.Flatten(), npdl.layers.Dropout(0.2), npdl.layers.Softmax(10)]
        )
        model.compile("scce", "adam")
        return model

    model = make()
    wanted = train()
    model = make()
    with pytest.raises(RuntimeError, match="killed"):
        train(npdl.callbacks.BackupAndRestore(tmp_path, save_freq=2), Killer())
    assert threads() == 0
    model = make()
    utils.set_seed(77)  # has no effect: the backup has it
    for got, array in zip(train(npdl.callbacks.BackupAndRestore(tmp_path)), wanted):
        np.testing.assert_array_equal(got, array)


def test_background_wants_an_iterable():
    with pytest.raises(TypeError, match="`source` must be iterable"):
        Background(5)
    with pytest.raises(ValueError, match="`ahead`"):
        Background([], ahead=0)


# -------------------------------------------------------------------------------------- sequences


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, [[1, 2, 3], [0, 0, 4], [0, 0, 0]]),
        ({"padding": "post"}, [[1, 2, 3], [4, 0, 0], [0, 0, 0]]),
        ({"maxlen": 2}, [[2, 3], [0, 4], [0, 0]]),
        ({"maxlen": 2, "truncating": "post"}, [[1, 2], [0, 4], [0, 0]]),
        ({"maxlen": 4, "value": 9}, [[9, 1, 2, 3], [9, 9, 9, 4], [9, 9, 9, 9]]),
    ],
)
def test_pad_sequences(options, wanted):
    padded = pad_sequences([[1, 2, 3], [4], []], **options)
    np.testing.assert_array_equal(padded, wanted)
    assert padded.dtype == np.int64


def test_masks_say_which_steps_are_real(rng):
    rows = [rng.random((3, 2), np.float32), rng.random((1, 2), np.float32)]
    padded, mask = pad_sequences(rows, padding="post", return_mask=True)
    assert padded.shape == (2, 3, 2) and padded.dtype == np.float32 and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(padded[1], [*rows[1], [0, 0], [0, 0]])
    assert pad_sequences([[1, 2]], dtype="float64").dtype == np.float64


@pytest.mark.parametrize(
    "rows, options, kind, error",
    [
        ([], {}, ValueError, "at least one sequence"),
        ([[], []], {}, ValueError, "empty sequences only"),
        ([1, 2], {}, TypeError, "must be sequences of numbers"),
        (["ab"], {}, TypeError, "must be sequences of numbers"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], {}, ValueError, "must have one shape"),
        ([[1]], {"padding": "front"}, ValueError, "`padding` must be one of 'pre', 'post'"),
        ([[1]], {"maxlen": 0}, ValueError, "`maxlen`"),
    ],
)
def test_pad_sequences_says_what_is_wrong(rows, options, kind, error):
    with pytest.raises(kind, match=error):
        pad_sequences(rows, **options)


def some_sequences(rng, n=200):
    """Sequence i holds the number i, as often as it is long."""
    return [np.full(length, i) for i, length in enumerate(rng.integers(1, 40, n))]


def test_buckets_hold_every_sequence_once_with_little_padding(rng):
    rows = some_sequences(rng)
    buckets = Buckets(rows, np.arange(200), batch_size=8, value=-1)
    got = list(buckets)
    assert len(got) == len(buckets)
    assert sorted(np.concatenate([y for _, y in got])) == list(range(200))
    steps = sum(map(len, rows))
    assert sum(x.size for x, _ in got) < 1.15 * steps < 1.5 * steps < pad_sequences(rows).size
    for x, y in got:
        for padded, i in zip(x, y):
            kept = padded[padded != -1]
            np.testing.assert_array_equal(kept, rows[i])
            np.testing.assert_array_equal(padded[len(padded) - len(kept) :], kept)


def test_boundaries_of_buckets():
    rows = [np.ones(n) for n in (1, 2, 3, 4, 5, 9, 12)]
    buckets = Buckets(rows, batch_size=10, boundaries=[2, 5], shuffle=False)
    assert [x.shape for x in buckets] == [(2, 2), (3, 5), (2, 12)]
    assert len(Buckets(rows, batch_size=2, boundaries=[2, 5], drop_last=True)) == 3


def test_targets_of_each_step_are_padded_and_weighed(rng):
    rows = some_sequences(rng, 20)
    buckets = Buckets(rows, [row + 1 for row in rows], batch_size=4, masks=True, padding="post")
    for (x, mask), y, weight in buckets:
        assert mask.dtype == np.uint8 and weight.dtype == np.float32
        np.testing.assert_array_equal(mask, weight)
        np.testing.assert_array_equal(y, (x + 1) * mask)
        assert (mask.sum(axis=1) == [len(rows[i]) for i in x[:, 0]]).all()


def test_buckets_follow_the_seed_and_change_from_epoch_to_epoch(rng):
    rows = some_sequences(rng, 50)
    first, second = ([x.tolist() for x in Buckets(rows, batch_size=4, seed=s)] for s in (1, 1))
    assert first == second
    one = Buckets(rows, batch_size=4)
    assert [x.tolist() for x in one] != [x.tolist() for x in one]


def test_buckets_go_into_a_recurrent_model():
    rows, labels = [[3] * n for n in range(1, 9)], np.arange(8) % 2
    model = npdl.Model([npdl.layers.Embedding(input_size=4, n_out=2), npdl.layers.LSTM(n_out=3)])
    model.compile(loss="mse")
    for x, y in Buckets(rows, labels, batch_size=2):
        assert model.predict(x).shape == (len(y), 3)


@pytest.mark.parametrize(
    "targets, error",
    [([1], "as many as the sequences, 2"), ([[1], [2, 3, 4]], "index=1, shape=.3,.")],
)
def test_buckets_say_what_is_wrong_with_targets(targets, error):
    with pytest.raises(ValueError, match=error):
        Buckets([[1], [1, 2]], targets)
