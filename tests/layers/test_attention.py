"""Attention: values, masks, the contract of layers, and independence of samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl import _ext
from npdl.graph import Input
from npdl.layers import (
    Attention,
    Embedding,
    GlobalMeanPooling,
    MultiHeadAttention,
    PositionEmbedding,
    Softmax,
)
from npdl.testing import check_layer

GOLDEN = Path(__file__).parents[1] / "golden"

QUERY, VALUE, KEY = (3, 4, 2), (3, 5, 3), (3, 5, 2)
Q_MASK = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]])
V_MASK = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
ALL_MASKS = [None, (Q_MASK, None, None), (None, V_MASK, None), (Q_MASK, V_MASK, V_MASK)]


@pytest.fixture(params=_ext.available_backends())
def backend_name(request):
    return request.param


def made(layer, *shapes):
    layer.connect_to(*(Input((None, *shape[1:])) for shape in shapes))
    return layer


def attended(q, k, v, allowed, scale=1.0):
    """Softmax attention of one sample, written out."""
    y = np.zeros((len(q), v.shape[1]))
    for i, keys in enumerate(allowed):
        if keys.any():
            e = np.exp(scale * (k[keys] @ q[i]))
            y[i] = e / e.sum() @ v[keys]
    return y


# ------------------------------------------------------------ the contract of layers


@pytest.mark.parametrize("masks", ALL_MASKS, ids=["none", "query", "value", "all"])
@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("score", ["dot", "scaled_dot", "additive"])
def test_attention(score, causal, masks):
    args = {} if masks is None else {"mask": masks}
    check_layer(
        (Attention, {"score": score, "causal": causal}), [QUERY, VALUE, KEY], forward_args=args
    )


@pytest.mark.parametrize("masks", ALL_MASKS, ids=["none", "query", "value", "all"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"use_bias": False, "value_size": 3},
        {"n_out": 5, "init": "lecun_uniform"},
    ],
    ids=str,
)
def test_multi_head_attention(options, masks):
    args = {} if masks is None else {"mask": masks}
    options = {"heads": 2, "key_size": 2, **options}
    check_layer((MultiHeadAttention, options), [QUERY, VALUE, KEY], forward_args=args)


@pytest.mark.parametrize("inputs", [[QUERY, KEY], QUERY], ids=["no key", "one input"])
@pytest.mark.parametrize(
    "layer",
    [
        (Attention, {"score": "additive"}),
        (MultiHeadAttention, {"heads": 2, "key_size": 3, "causal": True}),
    ],
    ids=["attention", "heads"],
)
def test_fewer_inputs(layer, inputs):
    check_layer(layer, inputs)
    mask = (Q_MASK, V_MASK) if isinstance(inputs, list) else Q_MASK
    check_layer(layer, inputs, forward_args={"mask": mask})


@pytest.mark.parametrize("mask", [None, Q_MASK], ids=["", "mask"])
def test_position_embedding(mask):
    args = {} if mask is None else {"mask": mask}
    if mask is None:
        check_layer((PositionEmbedding, {"length": 6, "init": "uniform"}), (3, 4, 2))
        return
    layer = made(PositionEmbedding(6), (3, 4, 2))
    x, dy = np.ones((3, 4, 2), np.float32), np.ones((3, 4, 2), np.float32)
    y = layer.forward(x, **args)
    np.testing.assert_array_equal(y, x + layer.positions[:4])
    dy[mask == 0] = np.nan
    dx = layer.backward(dy)
    np.testing.assert_array_equal(dx, np.repeat(mask[..., None], 2, axis=2))
    np.testing.assert_array_equal(layer.dpositions[:4, 0], mask.sum(axis=0))
    np.testing.assert_array_equal(layer.dpositions[4:], 0)


# ------------------------------------------------------------ values


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("score", ["dot", "scaled_dot"])
def test_values(backend_name, score, causal, rng):
    layer = made(Attention(score, causal=causal), QUERY, VALUE, KEY)
    q, v, k = (rng.normal(size=shape) for shape in (QUERY, VALUE, KEY))
    with npdl.use_backend(backend_name):
        y = layer.forward(q, v, k, mask=(Q_MASK, V_MASK, None))
        weights = layer.weights(q, v, k, mask=(Q_MASK, V_MASK, None))
    scale = 1 if score == "dot" else 2**-0.5
    for n in range(3):
        allowed = (Q_MASK[n][:, None] * V_MASK[n]).astype(bool)
        if causal:
            allowed &= np.arange(5) <= np.arange(4)[:, None]
        np.testing.assert_allclose(y[n], attended(q[n], k[n], v[n], allowed, scale), atol=1e-12)
        np.testing.assert_allclose(weights[n, 0] @ v[n], y[n], atol=1e-12)
        np.testing.assert_allclose(weights[n, 0].sum(axis=1), allowed.any(axis=1))


def test_heads_without_keys_give_0_with_any_bias(rng):
    layer = made(MultiHeadAttention(2, 3), QUERY, VALUE)
    layer.parameters[-1].value[...] = 1  # output_b
    y = layer.forward(rng.normal(size=QUERY), rng.normal(size=VALUE), mask=(Q_MASK, V_MASK))
    np.testing.assert_array_equal(y[2], 0)
    assert ((y[:2] == 0).all(axis=-1) == (Q_MASK[:2] == 0)).all()


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(
    "make",
    [
        lambda causal: Attention("scaled_dot", causal=causal),
        lambda causal: Attention("additive", causal=causal),
        lambda causal: MultiHeadAttention(2, 3, causal=causal),
    ],
    ids=["dot", "additive", "heads"],
)
def test_nothing_in_a_masked_step_matters(backend_name, make, causal, rng):
    found = []
    for filler in (0.0, np.nan, np.inf):
        generator = np.random.default_rng(3)
        layer = made(make(causal), QUERY, KEY)
        for parameter in layer.params:
            parameter[...] = generator.normal(size=parameter.shape)
        q, v, dy = (generator.normal(size=s).astype(np.float32) for s in (QUERY, KEY, QUERY))
        q[Q_MASK == 0] = v[V_MASK == 0] = dy[Q_MASK == 0] = filler
        with npdl.use_backend(backend_name):
            y = layer.forward(q, v, mask=(Q_MASK, V_MASK))
            found.append([y, *layer.backward(dy), *layer.grads])
    for arrays in found[1:]:
        assert all(np.isfinite(array).all() for array in arrays)
        for array, wanted in zip(arrays, found[0]):
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(
    "make", [lambda: Attention(causal=True), lambda: MultiHeadAttention(2, 3, causal=True)]
)
def test_causal_steps_do_not_see_later_ones(make, rng):
    x = rng.normal(size=(2, 9, 4)).astype(np.float32)
    layer = made(make(), x.shape)
    y = layer.forward(x, train=False)
    x[:, 6:] += 1
    np.testing.assert_array_equal(layer.forward(x, train=False)[:, :6], y[:, :6])
    assert (layer.forward(x, train=False)[:, 6:] != y[:, 6:]).any()


@pytest.mark.skipif(
    "cython" not in _ext.available_backends(), reason="the twins' sums promise no such"
)
@pytest.mark.parametrize("steps", [1, 7, 60])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Attention("scaled_dot"),
        lambda: Attention("additive", causal=True),
        lambda: MultiHeadAttention(4, 5, causal=True),
    ],
    ids=["dot", "additive", "heads"],
)
def test_bits_depend_on_neither_the_batch_nor_the_padding(make, steps, rng):
    q = rng.normal(size=(11, steps, 8)).astype(np.float32)
    v = rng.normal(size=(11, 13, 8)).astype(np.float32)
    mask = rng.random((11, 13)) < 0.7
    layer = made(make(), q.shape, v.shape)
    whole = layer.forward(q, v, train=False, mask=(None, mask))
    longer = np.pad(v, [(0, 0), (0, 9), (0, 0)]), np.pad(mask, [(0, 0), (0, 9)])
    padded = layer.forward(q, longer[0], train=False, mask=(None, longer[1]))
    assert padded.tobytes() == whole.tobytes()
    for n in range(11):
        one = slice(n, n + 1)
        y = layer.forward(q[one], v[one], train=False, mask=(None, mask[one]))
        assert y.tobytes() == whole[one].tobytes()


# ------------------------------------------------------------ against other libraries


def golden():
    """The cases that `tests/golden/make_attention.py` wrote."""
    for library in ("keras", "torch"):
        file = json.loads((GOLDEN / f"attention_{library}.json").read_text(encoding="utf-8"))
        for i, case in enumerate(file["cases"]):
            yield pytest.param(case, id=f"{library}-{case['layer']}-{i}")


@pytest.mark.parametrize("case", [*golden()])
def test_golden(case, float64):
    inputs = [np.array(x) for x in case["inputs"]]
    layer = made(
        {"Attention": Attention}.get(case["layer"], MultiHeadAttention)(**case["kwargs"]),
        *(x.shape for x in inputs),
    )
    layer.set_weights(case["weights"])
    q_mask, v_mask = case["masks"]
    y = layer.forward(*inputs, mask=(q_mask, v_mask, None))
    real = np.ones(y.shape[:2], bool) if q_mask is None else np.array(q_mask, bool)
    np.testing.assert_allclose(y[real], np.array(case["y"])[real], atol=1e-9)
    for dx, wanted in zip(layer.backward(case["dy"]), case["dxs"]):
        np.testing.assert_allclose(dx, wanted, atol=1e-9)
    for grad, wanted in zip(layer.grads, case["grads"], strict=True):
        np.testing.assert_allclose(grad, wanted, atol=1e-9)


# ------------------------------------------------------------ in a network


def test_in_a_network_with_masks(tmp_path):
    words = npdl.Input((None,), name="words")
    x = Embedding(input_size=7, n_out=6, mask_zero=True)(words)
    x = PositionEmbedding(8)(x)
    x = x + MultiHeadAttention(2, 3)(x)
    x = x + MultiHeadAttention(2, 3, causal=True)(x, x, x)
    out = Softmax(3)(GlobalMeanPooling()(x))
    model = npdl.Model(words, out)
    model.compile(loss="scce", optimizer="adam")
    data = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 1, 2, 3]])
    before = model.predict(data)
    np.testing.assert_allclose(model.predict(data[:1, :3]), before[:1], rtol=1e-6)
    model.fit(data, np.array([0, 1, 2]), max_iter=3, verbose=0)
    model.save(tmp_path / "model.npdl")
    again = npdl.load_model(tmp_path / "model.npdl")
    np.testing.assert_array_equal(again.predict(data), model.predict(data))


@pytest.mark.parametrize("use_bias", [False, True])
def test_frozen(use_bias, rng):
    layer = made(MultiHeadAttention(2, 3, use_bias=use_bias), QUERY)
    x = rng.normal(size=QUERY).astype(np.float32)
    layer.forward(x)
    dx = layer.backward(x)
    layer.trainable = False
    layer.forward(x)
    np.testing.assert_array_equal(layer.backward(x), dx)
    assert layer.grads == []


@pytest.mark.parametrize(
    "layer, shapes, words",
    [
        (lambda: Attention(), [(3, 4, 2), (3, 5, 3)], "query=2, key=3"),
        (lambda: Attention(), [(3, 4, 2), (3, 5, 2), (3, 6, 2)], "a step for each"),
        (lambda: Attention(), [(3, 4)], "3 axes"),
        (lambda: Attention(), [(3, 4, 2)] * 4, "inputs=4"),
        (lambda: Attention("cosine"), [], "score"),
        (lambda: MultiHeadAttention(0, 3), [], "heads"),
        (lambda: PositionEmbedding(3), [(2, 4, 2)], "at most 3 steps"),
    ],
)
def test_errors_of_construction(layer, shapes, words):
    with pytest.raises(ValueError, match=words):
        made(layer(), *shapes)


def test_errors_of_calls():
    layer = made(Attention(), QUERY, KEY)
    q, k = np.ones(QUERY), np.ones(KEY)
    with pytest.raises(ValueError, match="inputs must be 2"):
        layer.forward(q)
    with pytest.raises(ValueError, match="as many samples"):
        layer.forward(q, k[:2])
    with pytest.raises(ValueError, match="`value` must have shape"):
        layer.forward(q, k[..., :1])
    with pytest.raises(ValueError, match="mask"):
        layer.forward(q, k, mask=(Q_MASK, Q_MASK))
    with pytest.raises(ValueError, match="for each input"):
        layer.forward(q, k, mask=(Q_MASK,))
    with pytest.raises(ValueError, match="at most 3 steps"):
        made(PositionEmbedding(3), (1, None, 2)).forward(np.ones((1, 4, 2)))
