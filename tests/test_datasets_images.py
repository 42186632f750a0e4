"""MNIST, Fashion-MNIST, CIFAR-10: their files are read right, and wrong ones are refused."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl.datasets import _files, images, load_cifar10, load_fashion_mnist, load_mnist
from npdl.layers import Convolution, Dense, Dropout, Flatten, MaxPooling, Softmax

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A folder with files of the right sizes: image i has the pixel i mod 28 of row 1 set."""
    folder = tmp_path_factory.mktemp("blank")
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = np.zeros((count, 28, 28), np.uint8)
        pixels[np.arange(count), 1, np.arange(count) % 28] = 255
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return folder


@pytest.mark.parametrize("load", [load_mnist, load_fashion_mnist])
def test_idx_files_are_read(blank, load):
    (x_train, y_train), (x_test, y_test) = load(blank)
    assert x_train.shape == (60_000, 1, 28, 28) and x_test.shape == (10_000, 1, 28, 28)
    assert x_train.dtype == np.float32 and y_train.dtype == y_test.dtype == np.int64
    for i in (0, 29, 9_999):
        wanted = np.zeros((28, 28))
        wanted[1, i % 28] = 1
        np.testing.assert_array_equal(x_train[i, 0], wanted)
        np.testing.assert_array_equal(x_test[i, 0], wanted)
        assert y_train[i] == y_test[i] == i % 10
    x_train[...] = 0  # the caller's own


def test_dtypes(blank):
    (_, _), (x, _) = load_mnist(str(blank), dtype="uint8")
    assert x.dtype == np.uint8 and x.max() == 255 and x.flags.writeable
    with pytest.raises(ValueError, match="`dtype` must be uint8, float32 or float64"):
        load_mnist(blank, dtype="float16")


def linked(folder, blank):
    for path in blank.iterdir():
        (folder / path.name).hardlink_to(path)
    return folder


def test_compressed_files_are_read_too(tmp_path, blank):
    linked(tmp_path, blank)
    for name in (IMAGES, LABELS):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data, 1))
    np.testing.assert_array_equal(load_mnist(tmp_path)[1][0], load_mnist(blank)[1][0])


@pytest.mark.parametrize(
    "name, data, error",
    [
        (IMAGES, b"", "must hold bytes of shape .10000, 28, 28.. Received: 0 bytes"),
        (IMAGES, idx(np.zeros((9_999, 28, 28))), "must hold bytes of shape"),
        (IMAGES, idx(np.zeros((10_000, 28, 28))) + b"x", "must hold bytes of shape"),
        (IMAGES, idx(np.zeros((10_000, 28, 28)))[:-1], "must hold bytes of shape"),
        (IMAGES, b"<html>" * 2_000_000, "that begin 3c 68 74 6d 6c"),
        (LABELS, idx(np.full(10_000, 10)), "must lie in .0, 10.. Received: label=10"),
        (LABELS + ".gz", gzip.compress(bytes(10_008))[:-9], "damaged"),
        (LABELS + ".gz", b"not gzip at all", "damaged"),
        (LABELS + ".gz", gzip.compress(idx(np.zeros(10_000)))[:-8] + bytes(8), "damaged.*CRC"),
        (LABELS + ".gz", gzip.compress(bytes(10**7)), "must hold bytes of shape"),
    ],
)
def test_wrong_files_are_refused(tmp_path, blank, name, data, error):
    linked(tmp_path, blank)
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=error):
        load_mnist(tmp_path)


def test_a_missing_file_is_named(tmp_path, blank):
    linked(tmp_path, blank)
    (tmp_path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"must hold {LABELS}.gz or {LABELS}"):
        load_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must hold cifar-10-binary\.tar\.gz or data"):
        load_cifar10(tmp_path)


def cifar_file(k):
    """10,000 records; the image i of file k is of color (k, i mod 256, 7), of class i mod 10."""
    i = np.arange(10_000)
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = i % 10
    records[:, 1:1025], records[:, 1025:2049], records[:, 2049:] = k, (i % 256)[:, None], 7
    return records.tobytes()


CIFAR_NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def write_tar(path, files):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", ["tar", "folder", "flat"])
def test_cifar_is_read(tmp_path, form):
    files = {name: cifar_file(k) for k, name in enumerate(CIFAR_NAMES)}
    if form == "tar":
        shuffled = dict(sorted(files.items(), key=lambda item: item[0][::-1]))
        write_tar(tmp_path / "cifar-10-binary.tar.gz", {"readme.html": b"hello", **shuffled})
    else:
        folder = tmp_path / "cifar-10-batches-bin" if form == "folder" else tmp_path
        folder.mkdir(exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    (x_train, y_train), (x_test, y_test) = load_cifar10(tmp_path, dtype="uint8")
    assert x_train.shape == (50_000, 3, 32, 32) and x_test.shape == (10_000, 3, 32, 32)
    for k in range(5):
        wanted = np.broadcast_to(np.array([k, 3, 7])[:, None, None], (3, 32, 32))
        np.testing.assert_array_equal(x_train[10_000 * k + 259], wanted)
    assert (x_test[:, 0] == 5).all()
    np.testing.assert_array_equal(y_train, np.tile(np.arange(10), 5000))
    np.testing.assert_array_equal(y_test, np.tile(np.arange(10), 1000))
    if form == "flat":
        assert load_cifar10(tmp_path)[1][0][3, 1, 0, 0] == np.float32(3) / 255


def test_wrong_cifar_files_are_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_tar(path, {"data_batch_1.bin": bytes(5)})
    with pytest.raises(ValueError, match=r"data_batch_1.bin .* must have 30,730,000 bytes.* 5$"):
        load_cifar10(tmp_path)
    write_tar(path, {"data_batch_1.bin": bytes(30_730_001)})
    with pytest.raises(ValueError, match="Received: more"):
        load_cifar10(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_cifar10(tmp_path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("source", [images.MNIST, images.FASHION_MNIST, images.CIFAR10])
def test_sources_are_complete(source):
    assert all(url.startswith("http") and url.endswith("/") for url in source.urls)
    for size, digest in source.files.values():
        assert size > 0 and len(bytes.fromhex(digest)) == 32
    assert len({digest for _, digest in source.files.values()}) == len(source.files)


def test_without_path_the_cache_is_read(tmp_path, blank, monkeypatch):
    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in blank.iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    assert load_mnist()[1][0].shape == (10_000, 1, 28, 28)


def test_offline_says_what_to_do(tmp_path, monkeypatch):
    from npdl.datasets import _download

    monkeypatch.setenv("NPDL_DATA", str(tmp_path))
    monkeypatch.setattr(_download, "RETRIES", 0)
    here = _files.Source("mnist", ["http://127.0.0.1:9/"], images.MNIST.files)
    monkeypatch.setattr(images, "MNIST", here)
    with pytest.raises(OSError, match="mnist could not be downloaded") as caught:
        load_mnist()
    for word in (*here.files, "http://127.0.0.1:9/", str(tmp_path / "mnist"), "path="):
        assert word in str(caught.value)


needs_debian = pytest.mark.skipif(
    not DEBIAN.exists(), reason="needs Debian's package dataset-fashion-mnist"
)


def small_cnn(lr):
    body = [Convolution(16, 3, padding="same"), MaxPooling(2)]
    body += [Convolution(32, 3, padding="same"), MaxPooling(2)]
    model = npdl.Model([*body, Flatten(), Dense(128, activation="relu"), Dropout(0.3), Softmax(10)])
    model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=lr))
    return model


@needs_debian
def test_a_small_cnn_begins_to_learn_fashion():
    train, test = load_fashion_mnist(DEBIAN)
    assert np.bincount(train[1]).tolist() == [6000] * 10
    assert np.bincount(test[1]).tolist() == [1000] * 10
    assert 0.28 < train[0].mean() < 0.29  # published: 72.94 of 255
    model = small_cnn(lr=0.002)
    model.fit(train[0][:1500], train[1][:1500], epochs=1, batch_size=32, verbose=0)
    assert model.evaluate(test[0][:500], test[1][:500]).accuracy > 0.6


@pytest.mark.slow
@needs_debian
def test_a_small_cnn_learns_fashion():
    train, test = load_fashion_mnist(DEBIAN)
    model = small_cnn(npdl.schedules.OneCycle(0.005, total_steps=5 * 469))
    model.fit(*train, epochs=5, batch_size=128, verbose=0)
    assert model.evaluate(*test).accuracy > 0.90
