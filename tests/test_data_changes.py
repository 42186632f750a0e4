"""npdl.data: splits and scaling, and augmentation."""

import numpy as np
import pytest

from npdl import data, utils
from npdl.data import Augment, Crop, Flip, Noise, Shift, Standardizer, train_test_split

# ------------------------------------------------------------------------------ splits and scaling


def test_train_test_split():
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25)
    assert len(y_train) == 7 and len(y_test) == 3  # rounded up, as scikit-learn does
    assert sorted([*y_train, *y_test]) == list(range(10)) and y_test.tolist() != [7, 8, 9]
    np.testing.assert_array_equal(x_train, x[y_train])
    np.testing.assert_array_equal(x_test, x[y_test])
    assert not np.shares_memory(x_train, x)
    assert len(train_test_split(y, test_size=4)[1]) == 4


def test_the_same_seed_gives_the_same_parts():
    one, two = (train_test_split(np.arange(30), seed=2)[1] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.tolist() != train_test_split(np.arange(30), seed=3)[1].tolist()


@pytest.mark.parametrize("test_size", [7, 0.25, 0.5])
def test_a_stratified_split_keeps_the_shares(test_size):
    labels = np.repeat([0, 5, 9], [60, 30, 10])
    train, test = train_test_split(labels, test_size=test_size, stratify=labels)
    assert len(train) + len(test) == 100
    share = np.array([(test == k).sum() for k in (0, 5, 9)]) / len(test)
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.06)
    assert train.tolist() != sorted(train)


@pytest.mark.parametrize(
    "options, kind, error",
    [
        ({"test_size": 0.0}, ValueError, "fraction in .0, 1."),
        ({"test_size": 10}, ValueError, "divide 10 samples into two parts"),
        ({"test_size": 0.95}, ValueError, "divide 10 samples into two parts"),
        ({"test_size": True}, TypeError, "test_size=True"),
        ({"stratify": [0] * 9}, ValueError, "one length"),
        ({"stratify": [[0]] * 10}, ValueError, "shape .N,."),
        ({"stratify": True}, ValueError, "shape .N,., a class for each of 10 samples"),
        ({"stratify": [0] * 10, "shuffle": False}, ValueError, "needs shuffle=True"),
    ],
)
def test_train_test_split_says_what_is_wrong(options, kind, error):
    with pytest.raises(kind, match=error):
        train_test_split(np.arange(10), **options)


def test_standardizer_scales_and_goes_back(rng, monkeypatch):
    monkeypatch.setattr("npdl.data.scaling._PART", 100)  # in many parts
    x = (rng.standard_normal((503, 4)) * [1, 10, 0.1, 3] + [0, 100, -5, 1]).astype(np.float32)
    scale = Standardizer()
    z = scale.fit_transform(x)
    assert z.dtype == np.float32 and scale.mean.shape == (4,)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(scale.inverse(z), x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scale.transform(x[:3]), scale(x[:3]))


def test_standardizer_by_channel_and_of_integers(rng):
    x = rng.integers(0, 256, (20, 3, 5, 4), dtype=np.uint8)
    scale = Standardizer(axis=(0, 2, 3)).fit(x)
    assert scale.mean.shape == (3, 1, 1) and scale.mean.dtype == np.float32
    np.testing.assert_allclose(scale.mean.ravel(), x.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(scale.std.ravel(), x.std(axis=(0, 2, 3)), rtol=1e-6)
    assert scale(x).dtype == np.float32


def test_a_constant_feature_is_only_shifted():
    z = Standardizer().fit_transform(np.full((5, 2), 1000.1, np.float32))
    assert np.isfinite(z).all() and np.abs(z).max() < 1e-3


def test_standardizer_says_what_is_wrong():
    with pytest.raises(RuntimeError, match="fit must be called"):
        Standardizer()([[1.0]])
    with pytest.raises(ValueError, match="`axis` must include 0"):
        Standardizer(axis=1)
    with pytest.raises(ValueError, match="must be finite"):
        Standardizer().fit([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="at least one sample"):
        Standardizer().fit([])
    with pytest.raises(TypeError, match="array of numbers"):
        Standardizer().fit(["a"])


# ----------------------------------------------------------------------------------- augmentation


@pytest.fixture
def pictures():
    """Images (40, 2, 5, 6) in which all pixels differ, from 1 on."""
    return np.arange(1, 2401, dtype=np.float32).reshape(40, 2, 5, 6)


def test_shift_moves_the_whole_picture(pictures, rng):
    shifted = Shift((1, 2), fill=-1)(pictures, rng)
    places = set()
    for new, old in zip(shifted, pictures):
        down, right = (
            int(np.argwhere(new[0] > 0)[0][k] - np.argwhere(old == new[0][new[0] > 0][0])[0][k + 1])
            for k in (0, 1)
        )
        places.add((down, right))
        wanted = np.full_like(old, -1)
        rows, cols = np.mgrid[:5, :6]
        keep = (0 <= rows + down) & (rows + down < 5) & (0 <= cols + right) & (cols + right < 6)
        wanted[:, rows[keep] + down, cols[keep] + right] = old[:, rows[keep], cols[keep]]
        np.testing.assert_array_equal(new, wanted)
    assert {down for down, _ in places} == {-1, 0, 1}
    assert {right for _, right in places} == {-2, -1, 0, 1, 2}


def test_crop_cuts_a_window(pictures, rng):
    cut = Crop((3, 4))(pictures, rng)
    assert cut.shape == (40, 2, 3, 4) and cut.flags.c_contiguous
    corners = set()
    for new, old in zip(cut, pictures):
        (_, top, left) = np.argwhere(old == new[0, 0, 0])[0]
        np.testing.assert_array_equal(new, old[:, top : top + 3, left : left + 4])
        corners.add((int(top), int(left)))
    assert {top for top, _ in corners} == {left for _, left in corners} == {0, 1, 2}
    assert Crop(7, padding=1)(pictures, rng).shape == (40, 2, 7, 7)
    with pytest.raises(ValueError, match="fit into the image with its padding, 5 by 6"):
        Crop(6)(pictures, rng)


@pytest.mark.parametrize("vertical", [False, True])
def test_flip_mirrors_some(pictures, rng, vertical):
    flipped = Flip(vertical=vertical)(pictures, rng)
    mirrored = pictures[:, :, ::-1] if vertical else pictures[..., ::-1]
    same = (flipped == pictures).all(axis=(1, 2, 3))
    turned = (flipped == mirrored).all(axis=(1, 2, 3))
    assert (same ^ turned).all() and 8 < same.sum() < 32
    np.testing.assert_array_equal(Flip(1.0, vertical)(pictures, rng), mirrored)
    np.testing.assert_array_equal(Flip(0.0, vertical)(pictures, rng), pictures)


def test_noise_is_normal_and_stays_within_its_limits(rng):
    x = np.full((50, 1, 20, 20), 0.5, np.float32)
    noisy = Noise(0.1)(x, rng)
    assert noisy.dtype == np.float32 and noisy.std() == pytest.approx(0.1, rel=0.05)
    clipped = Noise(1.0, low=0, high=1)(x, rng)
    assert clipped.min() == 0 and clipped.max() == 1
    with pytest.raises(TypeError, match="Noise needs float images"):
        Noise(1)(np.zeros((1, 1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        Noise(1, low=1, high=0)


def test_changes_follow_each_other_and_keep_the_pictures(pictures):
    before = pictures.copy()
    change = Augment(Shift(1), Flip(), Noise(0.1), lambda x, rng: x * 2)
    one, two = (change(pictures, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(pictures, before)
    assert one.dtype == np.float32 and one.shape == pictures.shape
    utils.set_seed(4)
    three = change(pictures)
    utils.set_seed(4)
    np.testing.assert_array_equal(three, change(pictures))
    np.testing.assert_array_equal(Augment()(pictures), pictures)
    with pytest.raises(TypeError, match="`changes` must be callable"):
        Augment(3)
    with pytest.raises(ValueError, match="Images must have shape"):
        change(pictures[0])


def test_labels_are_made_here_too():
    assert data.one_hot is utils.one_hot and data.unhot is utils.unhot
