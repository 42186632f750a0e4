"""CTC as a loss, in models, and decoding of their outputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from objective_cases import REDUCTIONS, numeric_gradient, probabilities

import npdl
from npdl import Model, objectives
from npdl.data import ctc_decode, edit_distance
from npdl.layers import LSTM, Dense
from npdl.objectives import CTC
from npdl.testing import check_gradients

LABELS = np.array([[0, 1, 2], [3, 3, -1], [-1, 2, -1], [-1, -1, -1]])
MASK = np.ones((4, 8))
MASK[0, :2] = MASK[1, 6:] = MASK[2, 3:5] = 0
WEIGHTS = np.array([1, 0.5, 0, 2])


def logits(seed=3):
    return np.random.default_rng(seed).normal(size=(4, 8, 5))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weights"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_probabilities_logits_and_the_fused_form_are_one_loss(reduction, weights, mask):
    z = logits()
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    loss, of_logits = CTC(reduction=reduction), CTC(from_logits=True, reduction=reduction)
    value = loss.forward(p, LABELS, weights, mask)
    fused, q, cache = loss.forward_logits(z, LABELS, weights, mask)
    np.testing.assert_allclose(of_logits.forward(z, LABELS, weights, mask), value, rtol=1e-12)
    np.testing.assert_allclose(fused, value, rtol=1e-12)
    np.testing.assert_allclose(q, p, rtol=1e-12)
    wanted = numeric_gradient(lambda x: np.sum(of_logits.forward(x, LABELS, weights, mask)), z)
    for found in (of_logits.backward(z, LABELS, weights, mask), loss.backward_logits(cache)):
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)
    wanted = numeric_gradient(lambda x: np.sum(loss.forward(x, LABELS, weights, mask)), p, 1e-5)
    np.testing.assert_allclose(loss.backward(p, LABELS, weights, mask), wanted, 1e-6, 1e-8)


def test_the_mean_is_over_the_samples():
    values = CTC(from_logits=True, reduction="none").forward(logits(), LABELS)
    assert values.shape == (4,)
    assert CTC(from_logits=True).forward(logits(), LABELS) == pytest.approx(values.mean())
    loss = CTC(from_logits=True)
    assert loss.forward(logits(), LABELS, WEIGHTS, MASK) == pytest.approx(
        (CTC(from_logits=True, reduction="none").forward(logits(), LABELS, None, MASK) @ WEIGHTS)
        / 4
    )
    assert loss.count(logits(), LABELS, MASK) == 4


@pytest.mark.parametrize("blank", [0, 2, 4, -5, -1])
def test_the_blank_may_be_any_class(blank):
    labels = np.where(LABELS < 0, LABELS, (LABELS + blank % 5 + 1) % 5)
    order = [(k + blank % 5 + 1) % 5 for k in range(5)]  # the blank comes last
    value = CTC(blank, from_logits=True).forward(logits(), labels)
    assert value == pytest.approx(CTC(from_logits=True).forward(logits()[..., order], LABELS))


def test_what_cannot_be_aligned():
    p, t = probabilities(2, 3, 4), np.array([[0, 0, 1], [0, 1, -1]])
    loss, zero = CTC(reduction="none"), CTC(reduction="none", zero_infinity=True)
    assert loss.forward(p, t)[0] == np.inf and np.isfinite(loss.forward(p, t)[1])
    assert zero.forward(p, t)[0] == 0 and zero.forward(p, t)[1] == loss.forward(p, t)[1]
    assert CTC(zero_infinity=True).forward_logits(np.log(p), t)[0] == pytest.approx(
        zero.forward(p, t).mean()
    )
    for kind in (loss, zero):
        assert not kind.backward(p, t)[0].any() and kind.backward(p, t)[1].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_clipped(dtype):
    p = np.array([[[0, 1], [1, 0], [0, 1]], [[0, 1], [0, 1], [0, 1]]], dtype)
    loss, labels = CTC(epsilon=1e-6, reduction="none"), np.array([[0], [0]])
    # Of three blanks any of 1, or of 2 in a row, or all, may be the label.
    wanted = [0, -np.log(3e-6 + 2e-12 + 1e-18)]
    np.testing.assert_allclose(loss.forward(p, labels), wanted, rtol=1e-6, atol=3e-6)
    assert np.isfinite(loss.backward(p, labels)).all()
    assert not loss.backward(p, labels)[p == 0].any()
    assert loss.backward(p, labels).dtype == dtype


def test_a_padded_sample_is_the_same_as_one_that_is_shorter():
    z, longer = logits(), np.random.default_rng(0).normal(size=(4, 11, 5))
    mask = np.zeros((4, 11))
    for i in range(4):
        longer[i, i : i + 8], mask[i, i : i + 8] = z[i], 1
    loss = CTC(from_logits=True)
    assert loss.forward(longer, LABELS, None, mask) == loss.forward(z, LABELS)
    np.testing.assert_array_equal(
        loss.backward(longer, LABELS, None, mask)[mask != 0],
        loss.backward(z, LABELS).reshape(-1, 5),
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CTC().forward(np.ones((2, 3)), LABELS), r"Outputs must have shape \(N, T, K\)"),
        (lambda: CTC().forward(logits(), [1, 2, 3, 0]), r"labels of shape \(4, L\).*shape=\(4,\)"),
        (lambda: CTC().forward(logits(), LABELS[:3]), r"labels of shape \(4, L\).*shape=\(3, 3\)"),
        (lambda: CTC(5).forward(logits(), LABELS), "`blank` must be one of the 5 classes.*blank=5"),
        (lambda: CTC(-6).forward(logits(), LABELS), "`blank` must be one of the 5 classes"),
        (lambda: CTC(0.5), "`blank` must be an integer"),
        (lambda: CTC(3).forward(logits(), LABELS), "Labels must.*not the blank, 3.*label=3"),
        (lambda: CTC().forward(logits(), LABELS + 2), "Labels must.*not the blank, 4.*label=4"),
        (lambda: CTC().forward(logits(), LABELS - 1), "or -1 for no label.*label=-2"),
        (lambda: CTC().backward(logits(), LABELS / 2), "Labels must be class numbers"),
        (lambda: CTC().forward(logits(), LABELS, None, MASK[:, 1:]), r"`mask` must.*\(4, 8\)"),
        (lambda: CTC().forward(logits(), LABELS, MASK), r"for each item, shape \(4,\)"),
    ],
)
def test_ctc_says_what_is_wrong(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_names_and_configuration():
    loss = objectives.get({"name": "ctc", "blank": 0, "zero_infinity": True})
    assert type(loss) is CTC and loss.get_config()["blank"] == 0 and loss.zero_infinity


# ---------------------------------------------------------------------------------------- models


def reading(n=48, seed=0):
    """Sequences (n, 12, 4) that show each label for two or three steps, with padding in front."""
    rng = np.random.default_rng(seed)
    x, mask = np.zeros((n, 12, 4), np.float32), np.zeros((n, 12), np.uint8)
    y = np.full((n, 3), -1)
    for i in range(n):
        y[i, : rng.integers(1, 4)] = 0
        real = y[i] == 0
        y[i, real] = rng.integers(0, 3, real.sum())
        shown = [step for label in y[i, real] for step in [label] * rng.integers(2, 4) + [3]]
        x[i, 12 - len(shown) :] = np.eye(4)[shown]
        mask[i, 12 - len(shown) :] = 1
    return x + 0.1 * rng.normal(size=x.shape).astype(np.float32), mask, y


def reader(activation="softmax", units=16):
    npdl.utils.set_seed(2)
    lstm = LSTM(n_out=units, return_sequence=True)
    return Model([lstm, Dense(4, activation=activation)])


def test_a_model_learns_to_read(tmp_path):
    x, mask, y = reading()
    model = reader()
    model.compile(CTC(), npdl.optimizers.Adam(lr=0.03))
    untrained = model.evaluate((x, mask), y).loss
    model.fit((x, mask), y, epochs=60, batch_size=16, verbose=0, validation_data=((x, mask), y))
    assert model.evaluate((x, mask), y).loss < 0.05 * untrained
    p = model.predict((x, mask))
    loss = CTC().forward(p, y, mask=mask)
    assert model.evaluate((x, mask), y, batch_size=7).loss == pytest.approx(loss, rel=1e-4)
    for width in (1, 5):
        labels, log_p = ctc_decode(p, mask, beam_width=width)
        assert edit_distance(labels, y).sum() <= 2 and log_p.max() <= 0
    model.save(tmp_path / "reader.npdl")
    again = npdl.load_model(tmp_path / "reader.npdl")
    assert type(again.loss) is CTC
    assert again.evaluate((x, mask), y) == model.evaluate((x, mask), y)


def test_models_with_and_without_softmax_train_alike():
    x, mask, y = reading()
    weights = np.random.default_rng(1).uniform(size=48)
    histories = []
    for activation, loss in (("softmax", CTC()), ("linear", CTC(from_logits=True))):
        model = reader(activation)
        model.compile(loss, "sgd")
        history = model.fit(
            (x, mask), y, epochs=2, sample_weight=weights, shuffle=False, verbose=0
        ).history
        histories.append(history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_gradients_of_a_model(float64, activation):
    x, _, y = reading(2)
    model = reader(activation, 3)
    model.compile(CTC(from_logits=activation == "linear"), "sgd")
    check_gradients(model, x.astype(float), targets=y)


# -------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_a_wide_beam_finds_the_best_reading_of_all(blank):
    for seed in range(10):
        p = probabilities(1, 4, 3) if not seed else np.exp(1.5 * logits(seed))[:1, :4, :3]
        p /= p.sum(axis=-1, keepdims=True)
        found: dict[tuple[int, ...], float] = {}
        for path in itertools.product(range(3), repeat=4):
            merged = tuple(k for k, _ in itertools.groupby(path) if k != blank)
            found[merged] = found.get(merged, 0.0) + np.prod(p[0, range(4), path])
        best = max(found, key=found.__getitem__)
        labels, log_p = ctc_decode(p, beam_width=100, blank=blank)
        assert tuple(labels[0]) == best and np.exp(log_p[0]) == pytest.approx(found[best])
        values = -CTC(blank, reduction="none").forward(p, labels)
        np.testing.assert_allclose(log_p, values, rtol=1e-10)


@pytest.mark.parametrize("width", [1, 3])
def test_decoding_by_eye(width):
    path = np.array([[4, 0, 0, 4, 0, 1, 1, 4], [2, 2, 3, 3, 2, 2, 3, 4], [4] * 8])
    p = np.eye(5)[path]
    labels, log_p = ctc_decode(p, beam_width=width)
    assert labels.tolist() == [[0, 0, 1, -1], [2, 3, 2, 3], [-1] * 4]
    assert labels.dtype == np.int64 and log_p.tolist() == [0, 0, 0]
    mask = np.ones((3, 8))
    mask[0, :3] = mask[1, 5:] = 0
    labels, _ = ctc_decode(p.astype(np.float32), mask, beam_width=width)
    assert labels.tolist() == [[0, 1, -1], [2, 3, 2], [-1] * 3]
    assert ctc_decode(p, 0 * mask, beam_width=width)[0].shape == (3, 0)


@pytest.mark.parametrize("width", [1, 4])
def test_a_sample_is_decoded_the_same_alone(width):
    z = logits()
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    labels, log_p = ctc_decode(p, MASK, beam_width=width)
    from_logits = ctc_decode(z, MASK, beam_width=width, from_logits=True)
    np.testing.assert_array_equal(from_logits[0], labels)
    np.testing.assert_allclose(from_logits[1], log_p)
    for i in range(4):
        one, log_one = ctc_decode(p[i : i + 1], MASK[i : i + 1], beam_width=width)
        assert log_one[0] == log_p[i]
        np.testing.assert_array_equal(one[0], labels[i, : one.shape[1]])
    greedy = ctc_decode(p, MASK)[0]
    value = CTC(reduction="none")
    width_value = value.forward(p, ctc_decode(p, MASK, beam_width=30)[0], None, MASK)
    assert (width_value <= value.forward(p, greedy, None, MASK) + 1e-12).all()


def test_impossible_steps():
    p = np.zeros((1, 3, 2))
    for width in (1, 2):
        labels, log_p = ctc_decode(p, beam_width=width)
        assert log_p[0] == -np.inf
        assert labels.shape[0] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ctc_decode(np.ones((2, 3))), r"`outputs` must have shape \(N, T, K\)"),
        (lambda: ctc_decode(logits(), MASK[:2]), r"`mask` must have shape \(4, 8\)"),
        (lambda: ctc_decode(logits(), beam_width=0), "`beam_width` must"),
        (lambda: ctc_decode(logits(), blank=5), "`blank` must be one of 5 classes"),
        (lambda: ctc_decode(logits(), blank=-6), "`blank` must"),
        (lambda: edit_distance([1], [1]), "`found` and `wanted` must have shapes"),
    ],
)
def test_decoding_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_edit_distance():
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        change = slow(a[1:], b[1:]) + (a[0] != b[0])
        return min(change, slow(a[1:], b) + 1, slow(a, b[1:]) + 1)

    rng = np.random.default_rng(0)
    a, b = rng.integers(-1, 3, (30, 5)), rng.integers(-1, 3, (30, 4))
    wanted = [slow([k for k in x if k >= 0], [k for k in y if k >= 0]) for x, y in zip(a, b)]
    assert edit_distance(a, b).tolist() == wanted
