"""MNIST, Fashion-MNIST and CIFAR-10."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npdl._checks import error_message
from npdl.datasets._files import Source, StrPath, find
from npdl.datasets.digits import Arrays

MNIST = Source(
    "mnist",
    [
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ],
    {
        "train-images-idx3-ubyte.gz": (
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte.gz": (
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte.gz": (
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
)

FASHION_MNIST = Source(
    "fashion-mnist",
    [
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ],
    {
        "train-images-idx3-ubyte.gz": (
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train-labels-idx1-ubyte.gz": (
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte.gz": (
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
)

# The binary version: the one "for Python" is a pickle, which can run code as it is read.
CIFAR10 = Source(
    "cifar-10",
    ["https://www.cs.toronto.edu/~kriz/"],
    {
        "cifar-10-binary.tar.gz": (
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    },
)

#: The names of the labels of `load_fashion_mnist` and `load_cifar10`.
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def load_mnist(
    path: StrPath | None = None, *, dtype: DTypeLike = np.float32
) -> tuple[Arrays, Arrays]:
    """Load 70,000 handwritten digits, downloaded at the first call.

    Parameters
    ----------
    path : path, optional
        A folder that holds the four files already, with or without ``.gz``. By default they are
        downloaded to `cache_folder`.
    dtype : dtype
        float32 or float64: images from 0 (paper) to 1 (ink). uint8: as stored, from 0 to 255.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of ndarray
        Images of shape (60000, 1, 28, 28) and (10000, 1, 28, 28), and labels, int64, from 0 to 9.

    Raises
    ------
    OSError
        If a file can't be downloaded or read; the message says where to put it.
    ValueError
        If a file is damaged.

    Notes
    -----
    Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", 1998. A
    download is checked by the SHA-256 of the compressed files, those that TensorFlow Datasets
    publishes.
    """
    return _load_idx(MNIST, path, dtype)


def load_fashion_mnist(
    path: StrPath | None = None, *, dtype: DTypeLike = np.float32
) -> tuple[Arrays, Arrays]:
    """Load 70,000 pictures of clothes in ten classes, downloaded at the first call.

    They have the form of MNIST, and are harder to tell apart. ``FASHION_CLASSES`` names the
    classes.

    Parameters
    ----------
    path : path, optional
        A folder that holds the four files already, with or without ``.gz``, such as
        ``/usr/share/datasets/fashion-mnist`` of Debian's package dataset-fashion-mnist. By default
        they are downloaded to `cache_folder`.
    dtype : dtype
        As for `load_mnist`, from 0 (background) up.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of ndarray
        As `load_mnist` returns them.

    Raises
    ------
    OSError, ValueError
        As for `load_mnist`.

    Notes
    -----
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
    learning algorithms", 2017, https://arxiv.org/abs/1708.07747, under the MIT licence. A download
    is checked by the SHA-256 of the compressed files, those that TensorFlow Datasets publishes.
    """
    return _load_idx(FASHION_MNIST, path, dtype)


def load_cifar10(
    path: StrPath | None = None, *, dtype: DTypeLike = np.float32
) -> tuple[Arrays, Arrays]:
    """Load 60,000 colour photographs of ten classes, downloaded at the first call.

    ``CIFAR10_CLASSES`` names the classes.

    Parameters
    ----------
    path : path, optional
        A folder that holds ``cifar-10-binary.tar.gz``, or the ``.bin`` files that were in it.
        By default it is downloaded to `cache_folder` (170 MB).
    dtype : dtype
        float32 or float64: from 0 to 1, 600 MB in float32. uint8: as stored, from 0 to 255.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuples of ndarray
        Images of shape (50000, 3, 32, 32) and (10000, 3, 32, 32), the channels red, green, blue,
        and labels, int64, from 0 to 9.

    Raises
    ------
    OSError, ValueError
        As for `load_mnist`.

    Notes
    -----
    A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, chapter 3. This
    is the "binary version", since that for Python is a pickle. A download is checked by its
    SHA-256, the one that TensorFlow Datasets publishes.
    """
    _check_dtype(dtype)
    parts = _read_cifar(find(CIFAR10, path))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts[:5]))
    return (_scaled(images, dtype), labels), (_scaled(parts[5][0], dtype), parts[5][1])


def _load_idx(source: Source, path: StrPath | None, dtype: DTypeLike) -> tuple[Arrays, Arrays]:
    _check_dtype(dtype)
    folder = find(source, path)
    parts = []
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = _read_idx(folder, f"{part}-images-idx3-ubyte", (count, 28, 28))
        labels = _read_idx(folder, f"{part}-labels-idx1-ubyte", (count,))
        _check_labels(labels, f"{part}-labels-idx1-ubyte")
        parts.append((_scaled(images[:, None], dtype), labels.astype(np.int64)))
    return parts[0], parts[1]


def _read_idx(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray:
    """Read an IDX file of bytes: 0, 0, 8, the number of axes, their sizes, the values."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    size = int(np.prod(shape))
    try:
        with _open_idx(folder, name) as file:
            data = file.read(len(header) + size + 1)  # never more than expected
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} in {folder} is damaged: {error}") from error
    if data[: len(header)] != header or len(data) != len(header) + size:
        rule = f"{folder / name} must hold bytes of shape {shape}"
        raise ValueError(f"{rule}. Received: {len(data):,} bytes that begin {data[:16].hex(' ')}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def _open_idx(folder: Path, name: str) -> IO[bytes]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain.open("rb")
    if packed.is_file():
        return gzip.open(packed)  # type: ignore[return-value]
    raise FileNotFoundError(f"{folder} must hold {packed.name} or {name}. Received: neither")


_CIFAR_NAMES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
#: A label; red, green and blue pixels.
_RECORD = 1 + 3 * 32 * 32
_RECORDS = 10_000


def _read_cifar(folder: Path) -> list[tuple[NDArray, NDArray]]:
    """Images and labels of the six files, unpacked in `folder` or in its archive."""
    limit = _RECORDS * _RECORD + 1  # never more than expected
    archive = folder / "cifar-10-binary.tar.gz"
    for place in (folder, folder / "cifar-10-batches-bin"):
        if all((place / name).is_file() for name in _CIFAR_NAMES):
            data = {}
            for name in _CIFAR_NAMES:
                with (place / name).open("rb") as file:
                    data[name] = file.read(limit)
            break
    else:
        if not archive.is_file():
            wanted = f"{archive.name} or {', '.join(_CIFAR_NAMES)}"
            raise FileNotFoundError(f"{folder} must hold {wanted}. Received: neither")
        data = _read_tar(archive, limit)
    return [_cifar_arrays(folder, name, data.get(name, b"")) for name in _CIFAR_NAMES]


def _read_tar(archive: Path, limit: int) -> dict[str, bytes]:
    """The files of the archive, in one pass; nothing is written to the disk."""
    import tarfile  # takes longer to import than most of npdl

    data = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if name in _CIFAR_NAMES and (file := tar.extractfile(member)):
                    data[name] = file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise ValueError(f"{archive} is damaged: {error}") from error
    return data


def _cifar_arrays(folder: Path, name: str, data: bytes) -> tuple[NDArray, NDArray]:
    if len(data) != _RECORDS * _RECORD:
        rule = f"{name} in {folder} must have {_RECORDS * _RECORD:,} bytes"
        more = len(data) > _RECORDS * _RECORD
        raise ValueError(f"{rule}. Received: {'more' if more else f'{len(data):,}'}")
    rows = np.frombuffer(data, np.uint8).reshape(_RECORDS, _RECORD)
    _check_labels(rows[:, 0], name)
    return rows[:, 1:].reshape(_RECORDS, 3, 32, 32), rows[:, 0].astype(np.int64)


def _check_labels(labels: NDArray, name: str) -> None:
    if labels.max() > 9:
        raise ValueError(
            error_message(f"The labels in {name} must lie in [0, 10)", label=int(labels.max()))
        )


def _check_dtype(dtype: DTypeLike) -> None:
    if np.dtype(dtype) not in (np.uint8, np.float32, np.float64):
        raise ValueError(error_message("`dtype` must be uint8, float32 or float64", dtype=dtype))


def _scaled(images: NDArray, dtype: DTypeLike) -> NDArray:
    """Bytes as they are, or as numbers from 0 to 1; a new array in any case."""
    values = images.astype(dtype)
    if values.dtype != np.uint8:
        values /= 255
    return values
