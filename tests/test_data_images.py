"""npdl.data.ImageFolder, and the changes of images that interpolate or cover."""

import sys

import numpy as np
import pytest
from PIL import Image

from npdl import utils
from npdl.data import (
    Augment,
    Background,
    Brightness,
    Cutout,
    Flip,
    ImageFolder,
    Rotation,
    Zoom,
)
from npdl.data.images import read_image
from npdl.layers import Dense, Flatten
from npdl.model import Model


@pytest.fixture
def folder(tmp_path):
    """11 grey images of 6 by 8 in two classes, the brightness of each being its number."""
    number = 0
    for name, count in {"cats": 7, "dogs": 4, ".trash": 1}.items():
        (tmp_path / name / "more").mkdir(parents=True)
        for i in range(count):
            place = tmp_path / name / ("more" if i == 3 else "") / f"{i}.{'PNG' if i else 'bmp'}"
            Image.new("L", (8, 6), 10 * number).save(place)
            number += 1
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    (tmp_path / "cats" / ".hidden.png").write_text("not an image")
    (tmp_path / "readme.png").write_text("not in a class")
    return tmp_path


def test_each_folder_is_a_class(folder):
    images = ImageFolder(folder, (6, 8), batch_size=4, channels=1, shuffle=False)
    assert images.classes == ["cats", "dogs"] and len(images) == 3 and len(images.files) == 11
    assert images.labels.tolist() == [0] * 7 + [1] * 4
    batches = list(images)
    assert [x.shape for x, _ in batches] == [(4, 1, 6, 8), (4, 1, 6, 8), (3, 1, 6, 8)]
    x, y = (np.concatenate(arrays) for arrays in zip(*batches))
    assert x.dtype == np.float32 and y.dtype == np.int64
    names = [int(file.stem) for file in images.files]
    assert names == [0, 1, 2, 4, 5, 6, 3, 0, 1, 2, 3]  # a folder's own first
    numbers = np.array(names) + np.repeat([0, 7], [7, 4])
    np.testing.assert_allclose(x[:, 0, 2, 3], numbers * 10 / 255, rtol=1e-6)
    for i, (x, y) in enumerate(batches):
        np.testing.assert_array_equal(images[i][0], x)
        np.testing.assert_array_equal(images[i - 3][1], y)
    with pytest.raises(IndexError, match="A batch must be one of 3"):
        images[3]


def test_orders_follow_the_seed_and_a_pass_holds_each_image_once(folder):
    images = ImageFolder(folder, 2, batch_size=3, channels=1, seed=4)
    passes = [np.concatenate([x[:, 0, 0, 0] for x, _ in images]) for _ in range(2)]
    assert passes[0].tolist() != passes[1].tolist()
    assert sorted(passes[0]) == sorted(passes[1]) and len(set(passes[0])) == 11
    again = ImageFolder(folder, 2, batch_size=3, channels=1, seed=4)
    assert np.concatenate([x[:, 0, 0, 0] for x, _ in again]).tolist() == passes[0].tolist()
    assert len([*ImageFolder(folder, 2, batch_size=3, drop_last=True)]) == 3


def test_a_model_is_trained_on_a_folder(folder):
    utils.set_seed(2)
    train, valid = ImageFolder(folder, 4, batch_size=4, transform=Augment(Flip())).split(0.3)
    assert len(train.files) == 8 and len(valid.files) == 3
    assert not set(train.files) & set(valid.files) and sorted(valid.labels) == [0, 0, 1]
    model = Model([Flatten(input_shape=(None, 3, 4, 4)), Dense(2, activation="softmax")])
    model.compile("scce", "adam")
    history = model.fit(Background(train), epochs=2, validation_data=valid, verbose=0)
    assert len(history.history["val_loss"]) == 2
    assert len(model.predict(x for x, _ in valid)) == 3


def test_nothing_is_read_before_its_batch(folder):
    images = ImageFolder(folder, 4, batch_size=2, shuffle=False)
    images.files[4].write_bytes(b"not an image")
    running = iter(images)
    next(running), next(running)
    with pytest.raises(ValueError, match=r"cats.5\.PNG can't be read as an image"):
        next(running)
    images.files[0].write_bytes(Image.new("L", (8, 6)).tobytes())
    with pytest.raises(ValueError, match=r"0\.bmp can't be read"):
        images[0]
    content = images.files[2].read_bytes()
    images.files[2].write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"2\.PNG can't be read"):
        images[1]
    images.files[3].unlink()
    with pytest.raises(FileNotFoundError, match=r"4\.PNG"):
        read_image(images.files[3], (4, 4))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGBA", (5, 3), (255, 102, 0, 128)),
        Image.new("RGB", (5, 3), (255, 102, 0)).convert("P"),
        Image.new("CMYK", (5, 3), (0, 153, 255, 0)),
    ],
    ids=lambda image: image.mode,
)
def test_every_kind_of_image(tmp_path, image):
    path = tmp_path / ("a.tif" if image.mode == "CMYK" else "a.png")
    image.save(path)
    rgb = read_image(path, (2, 4))
    assert rgb.shape == (3, 2, 4)
    np.testing.assert_allclose(rgb[:, 1, 2], [1, 0.4, 0], atol=0.02)
    np.testing.assert_allclose(read_image(path, (2, 4), 1), 0.299 + 0.587 * 0.4, atol=0.02)


def test_sixteen_bits_and_images_that_lie_on_their_side(tmp_path):
    deep = np.full((3, 5), 0x8000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_image(tmp_path / "deep.png", (3, 5), 1), 128 / 255, rtol=1e-6)
    image = Image.new("L", (40, 20))
    image.paste(255, (0, 0, 40, 10))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    image.save(tmp_path / "turned.jpg", exif=exif)
    turned = read_image(tmp_path / "turned.jpg", (40, 20), 1)[0]
    assert turned[:, 15:].min() > 0.9 and turned[:, :5].max() < 0.1


def test_image_folder_says_what_is_wrong(folder, monkeypatch):
    for arguments, options, error in [
        ((folder / "cats" / "notes.txt", 4), {}, "`path` must be a folder.*notes.txt"),
        ((folder / "cats" / "more", 4), {}, "at least one image.*more"),
        ((folder, 0), {}, "`size` must"),
        ((folder, 4), {"channels": 4}, "`channels` must be 3 or 1"),
    ]:
        with pytest.raises(ValueError, match=error):
            ImageFolder(*arguments, **options)
    with pytest.raises(ValueError, match="`test_size` must leave"):
        ImageFolder(folder, 4).split(0.01)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Pillow: pip install 'npdl\[images\]'"):
        ImageFolder(folder, 4)


# ----------------------------------------------------------------------------------- augmentation


class Fixed:
    """A generator whose uniform numbers are given."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def uniform(self, low, high, size):
        return np.resize(self.numbers, size)


@pytest.mark.parametrize("shape", [(5, 5), (6, 6), (4, 7), (1, 1)])
def test_rotation_by_quarters_is_exact(rng, shape):
    x = rng.random((4, 2, *shape))
    for fill in (0.0, "edge"):
        np.testing.assert_array_equal(Rotation(0, fill)(x, rng), x)
        y = Rotation(180, fill)(x, Fixed(180))
        np.testing.assert_allclose(y, x[:, :, ::-1, ::-1], atol=1e-12)
    if shape[0] == shape[1]:
        y = Rotation(90)(x, Fixed(0, 90, 180, -90))
        wanted = [np.rot90(image, k, (1, 2)) for image, k in zip(x, (0, 1, 2, -1))]
        np.testing.assert_allclose(y, wanted, atol=1e-12)


def test_rotation_interpolates_and_meets_the_fill_half_a_pixel_outside():
    """A rotated linear gradient is linear; outside is the fill value, interpolated at the edge."""
    rows, cols = np.mgrid[-4.0:5, -4.0:5]
    angle = np.deg2rad(30)
    y = Rotation(30, fill=100)((2 * rows + 3 * cols)[None, None], Fixed(30))[0, 0]
    back = np.cos(angle) * rows + np.sin(angle) * cols, np.cos(angle) * cols - np.sin(angle) * rows
    reach = np.maximum(*map(np.abs, back))
    np.testing.assert_allclose(y[reach <= 4], (2 * back[0] + 3 * back[1])[reach <= 4], atol=1e-12)
    assert (reach >= 5).any() and (y[reach >= 5] == 100).all()
    between = (reach > 4) & (reach < 5)
    assert between.any() and (y[between] < 100).all()
    edge = Rotation(30, fill="edge")(np.ones((1, 1, 9, 9), np.float32), Fixed(30))
    np.testing.assert_allclose(edge, 1, rtol=1e-6)


def test_zoom_about_the_centre():
    cols = np.arange(9.0)
    x = np.tile(cols, (3, 2, 9, 1))
    y = Zoom(2, fill="edge")(x, Fixed(np.log(2), 0, np.log(0.5)))
    np.testing.assert_allclose(y[0, 0, 0], 4 + (cols - 4) / 2, atol=1e-12)
    np.testing.assert_array_equal(y[1], x[1])
    np.testing.assert_allclose(y[2, 1, 8], np.clip(4 + (cols - 4) * 2, 0, 8), atol=1e-12)
    smaller = Zoom((0.5, 0.5))(x)[0, 0]
    assert not smaller[:2].any() and smaller[4, 3:6].tolist() == [2, 4, 6]
    assert (Zoom(4).low, Zoom(0.25).high, Zoom((0.5, 3)).high) == (0.25, 4, 3)


def test_brightness_adds_one_number_to_an_image(rng):
    x = rng.random((50, 2, 3, 4), np.float32)
    added = (Brightness(0.2)(x, rng) - x).reshape(50, -1)
    np.testing.assert_allclose(added, added[:, :1].repeat(24, 1), atol=1e-6)
    assert -0.2 < added.min() < -0.1 and 0.1 < added.max() < 0.2
    bright = Brightness(0.5, low=0, high=1)(x, rng)
    assert bright.dtype == np.float32 and bright.min() == 0 and bright.max() == 1
    pixels = np.array([[[[0, 250]]]], np.uint8)
    y = Brightness(20)(pixels, Fixed(9.6))
    assert y.dtype == np.uint8 and y.tolist() == [[[[10, 255]]]]


@pytest.mark.parametrize("size", [1, (2, 3), 4, 20])
def test_cutout_covers_one_rectangle(rng, size):
    x = np.ones((300, 2, 5, 6), np.float32)
    y = Cutout(size, fill=-2)(x, rng)
    height, width = (size, size) if isinstance(size, int) else size
    sizes = set()
    for image in y:
        np.testing.assert_array_equal(image[0], image[1])
        rows, cols = (np.flatnonzero((image[0] == -2).any(axis=k)) for k in (1, 0))
        assert (image[0][np.ix_(rows, cols)] == -2).all()
        assert (image[0] == -2).sum() == len(rows) * len(cols)
        assert rows.size == np.ptp(rows) + 1 and cols.size == np.ptp(cols) + 1
        sizes.add((len(rows), len(cols)))
    assert max(sizes) == (min(height, 5), min(width, 6))
    covered = (y[:, 0] == -2).mean(axis=0)
    assert covered.min() > 0


@pytest.mark.parametrize(
    "change", [Rotation(20), Zoom(1.5), Brightness(0.2), Cutout(2), Rotation(9, fill="edge")]
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_each_image_is_changed_independently(change, dtype):
    x = (np.arange(1, 2401).reshape(40, 2, 5, 6) % 250).astype(dtype)
    before = x.copy()
    one, two = (Augment(change)(x, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(x, before)
    assert one.dtype == x.dtype and one.shape == x.shape and one.flags.c_contiguous
    same = np.tile(x[:1], (40, 1, 1, 1))
    if dtype != "uint8":
        assert len({image.tobytes() for image in change(same)}) > 10
    utils.set_seed(4)
    first = change(x)
    utils.set_seed(4)
    np.testing.assert_array_equal(first, change(x))
    assert change(x[:0]).shape == (0, 2, 5, 6)


def test_many_pixels_are_warped_in_parts(rng, monkeypatch):
    x = rng.random((7, 3, 8, 9))
    whole = Rotation(30)(x, np.random.default_rng(1))
    monkeypatch.setattr("npdl.data.augment._PIXELS", 500)
    np.testing.assert_array_equal(Rotation(30)(x, np.random.default_rng(1)), whole)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Rotation(-1), "`degrees` must"),
        (lambda: Rotation(1, fill="reflect"), "`fill` must be a number or 'edge'"),
        (lambda: Zoom(0), "`factor` must"),
        (lambda: Zoom((1, 2, 3)), "`factor` must be a number or two"),
        (lambda: Zoom((0, 2)), "`factor` must"),
        (lambda: Brightness(-1), "`amount` must"),
        (lambda: Brightness(1, low=1, high=1), "`low` must be below `high`"),
        (lambda: Cutout(0), "`size` must"),
    ],
)
def test_changes_say_what_is_wrong(make, error):
    with pytest.raises(ValueError, match=error):
        make()
