"""The ready-made models: each is built, takes a step, and is saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl import models

RNG = np.random.default_rng(0)
IMAGES = {
    k: RNG.random((3, *s)).astype(np.float32) for k, s in {1: (1, 12, 8), 3: (3, 12, 8)}.items()
}
WORDS = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 2, 1, 0, 0], [4, 0, 0, 0, 0, 0]])
CLASSES = np.array([0, 1, 2])

#: name -> the model, its input, targets, the loss, the shape of the output.
CASES = {
    "mlp": (lambda: models.mlp(5, 3, (7, 6), dropout=0.2), RNG.random((3, 5)), CLASSES, (3, 3)),
    "lenet5": (lambda: models.lenet5((1, 16, 16), 3), RNG.random((3, 1, 16, 16)), CLASSES, (3, 3)),
    "vgg": (lambda: models.vgg((3, 12, 8), 3, (4, 6)), IMAGES[3], CLASSES, (3, 3)),
    "resnet": (
        lambda: models.resnet((3, 12, 8), 3, (4, 6, 8), blocks=2),
        IMAGES[3],
        CLASSES,
        (3, 3),
    ),
    "text_cnn": (
        lambda: models.text_cnn(9, 3, width=5, filters=4),
        WORDS,
        CLASSES,
        (3, 3),
    ),
    "char_rnn": (lambda: models.char_rnn(9, width=4, units=6, layers=2), WORDS, WORDS, (3, 6, 9)),
    "tagger": (lambda: models.tagger(9, 9, width=4, units=3, layers=2), WORDS, WORDS, (3, 6, 9)),
    "seq2seq": (
        lambda: models.seq2seq(9, 9, width=4, units=6),
        [WORDS, WORDS[:, :4]],
        WORDS[:, :4],
        (3, 4, 9),
    ),
    "autoencoder": (
        lambda: models.autoencoder((1, 12, 8), 5, (4, 6)),
        IMAGES[1],
        IMAGES[1],
        (3, 1, 12, 8),
    ),
    "unet": (
        lambda: models.unet((1, 12, 8), 2, (4, 6, 8)),
        IMAGES[1],
        (IMAGES[1][:, 0] > 0.5).astype(int),
        (3, 2, 12, 8),
    ),
    "transformer_encoder": (
        lambda: models.transformer_encoder(9, 3, 7, width=8, heads=2),
        WORDS,
        CLASSES,
        (3, 3),
    ),
}
LOSSES = {"autoencoder": "bce", "unet": npdl.objectives.get({"name": "scce", "axis": 1})}


def test_every_model_is_tried():
    assert sorted(CASES) == models.__all__
    assert npdl.models is models


@pytest.mark.parametrize("name", CASES)
def test_model(name, tmp_path):
    make, x, y, shape = CASES[name]
    model = make()
    model.compile(LOSSES.get(name, "scce"), npdl.optimizers.Adam(lr=0.01))
    before = model.evaluate(x, y)
    outputs = model.predict(x)
    assert outputs.shape == shape
    if name != "autoencoder":
        np.testing.assert_allclose(outputs.sum(axis=1 if name == "unet" else -1), 1, rtol=1e-5)
    model.fit(x, y, max_iter=15, batch_size=3, verbose=0)
    assert loss_of(model.evaluate(x, y)) < loss_of(before)
    model.save(tmp_path / "model.npdl")
    loaded = npdl.load_model(tmp_path / "model.npdl")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def loss_of(found):
    return found["loss"] if isinstance(found, dict) else found[0] if np.ndim(found) else found


def test_sizes_as_published():
    for make, wanted in [
        (models.lenet5, 61_706),
        (lambda: models.resnet(blocks=3), 269_722 + 2_752),  # ResNet-20, and its 1 x 1 shortcuts
    ]:
        model = make()
        model.compile()
        trained = sum(p.size for layer in model.layers for p in layer.params)
        assert trained == wanted


@pytest.mark.parametrize("name", ["tagger", "transformer_encoder"])
def test_padding_makes_no_difference(name):
    make, x, _, _ = CASES[name]
    model = make()
    model.compile()
    whole = model.predict(np.pad(x, [(0, 0), (0, 1)]))
    alone = model.predict(x[1:2, :4])
    wanted = whole[1:2, :4] if name == "tagger" else whole[1:2]
    np.testing.assert_allclose(alone, wanted, rtol=1e-5)
