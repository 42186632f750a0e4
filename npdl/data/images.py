"""Images from files, read when their batch is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int, check_number, check_pair, error_message
from npdl._files import StrPath
from npdl.data.batches import Reshuffled, Transform
from npdl.utils.random import get_dtype

#: The suffixes of image files.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm"),
)


class ImageFolder(Reshuffled):
    """Batches of the images in a folder, which has a folder for each class.

    Only file names are kept: each image is read when its batch is needed, so memory does not grow
    with the number of images. `npdl.data.Background` reads ahead of training. Needs Pillow: ``pip
    install 'npdl[images]'``.

    Parameters
    ----------
    path : str or path
        The folder. Its folders, in the order of their names, are the classes 0, 1, ...; images may
        lie in folders below these too. Names that begin with a dot are left out.
    size : int or (int, int)
        Height and width to which all images are resized, by bilinear interpolation.
    batch_size : int
        Images in a batch. The last batch may be smaller.
    channels : {3, 1}
        3 for red, green and blue, 1 for grey.
    shuffle : bool
        Whether each pass has a new order.
    drop_last : bool
        Whether to leave out a last batch that is not full.
    seed : int, optional
        As in `Batches`.
    transform : callable, optional
        ``transform(x, rng)`` returns what replaces the images of a batch, such as an `Augment`.

    Attributes
    ----------
    classes : list of str
        Their names.
    files : list of Path
    labels : ndarray of int64
        The class of each file.

    Yields
    ------
    x : ndarray of `get_dtype()`, shape (N, channels, height, width)
        From 0 to 1.
    y : ndarray of int64, shape (N,)
        Class numbers.

    Raises
    ------
    ValueError
        If there are no images, or if a file can't be read as one; the message names it.
    ImportError
        If Pillow is missing.

    Examples
    --------
    Train on four fifths of the images of a folder, and validate on the others::

        train, valid = ImageFolder("photos", 64).split(0.2)
        model.fit(Background(train), validation_data=valid)
    """

    def __init__(
        self,
        path: StrPath,
        size: int | tuple[int, int],
        *,
        batch_size: int = 64,
        channels: int = 3,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(seed)
        _pillow()
        self.size = check_pair("size", size)
        self.batch_size = check_int("batch_size", batch_size)
        if channels not in (1, 3):
            raise ValueError(error_message("`channels` must be 3 or 1", channels=channels))
        self.channels, self.shuffle, self.drop_last = channels, shuffle, drop_last
        self.seed, self.transform = seed, transform
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"`path` must be a folder of folders. Received: {self.path}")
        folders = sorted(p for p in self.path.iterdir() if p.is_dir() and p.name[0] != ".")
        self.classes = [folder.name for folder in folders]
        found = [_images_below(folder) for folder in folders]
        self.files = [file for files in found for file in files]
        self.labels = np.repeat(np.arange(len(folders)), [len(files) for files in found])
        if not self.files:
            rule = "There must be at least one image in the folders of `path`"
            raise ValueError(f"{rule}. Received: {self.path}, with the folders {self.classes}")

    def __len__(self) -> int:
        """Number of batches."""
        whole, rest = divmod(len(self.files), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __getitem__(self, index: int) -> tuple[NDArray, NDArray]:
        """Return batch number `index` in the order of `files`, without `transform`.

        Parameters
        ----------
        index : int
        """
        if not -len(self) <= index < len(self):
            raise IndexError(error_message(f"A batch must be one of {len(self)}", index=index))
        start = index % len(self) * self.batch_size
        return self._read(np.arange(start, min(start + self.batch_size, len(self.files))))

    def __iter__(self) -> Iterator[tuple[NDArray, NDArray]]:
        # Drawn now, not with the first batch, which another thread may request.
        return self._run(self.fresh_generator())

    def _run(self, rng: np.random.Generator) -> Iterator[tuple[NDArray, NDArray]]:
        n = len(self.files)
        order = rng.permutation(n) if self.shuffle else np.arange(n)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            x, y = self._read(order[start : start + self.batch_size])
            yield (x if self.transform is None else self.transform(x, rng)), y

    def _read(self, index: NDArray) -> tuple[NDArray, NDArray]:
        x = np.empty((len(index), self.channels, *self.size), get_dtype())
        for image, i in zip(x, index):
            image[...] = read_image(self.files[i], self.size, self.channels)
        return x, self.labels[index]

    def split(self, test_size: float = 0.2, *, seed: int = 0) -> tuple[ImageFolder, ImageFolder]:
        """Return two folders, the second with a share of the images of each class.

        The second one is not shuffled, and its images are not changed by `transform`.

        Parameters
        ----------
        test_size : float
            The share, between 0 and 1.
        seed : int
            It determines the choice.
        """
        share = check_number("test_size", test_size, "(0, 1)")
        rng = np.random.default_rng(seed)
        chosen = np.zeros(len(self.files), bool)
        for label in range(len(self.classes)):
            own = np.flatnonzero(self.labels == label)
            chosen[rng.permutation(own)[: round(share * len(own))]] = True
        if chosen.all() or not chosen.any():
            rule = f"`test_size` must leave images for both parts of {len(self.files)}"
            raise ValueError(error_message(rule, test_size=test_size))
        rest, part = self._only(~chosen), self._only(chosen)
        part.shuffle, part.transform, part.drop_last = False, None, False
        return rest, part

    def _only(self, chosen: NDArray) -> ImageFolder:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        Reshuffled.__init__(other, self.seed)
        other.files = [file for file, kept in zip(self.files, chosen) if kept]
        other.labels = self.labels[chosen]
        return other


def read_image(path: StrPath, size: tuple[int, int], channels: int = 3) -> NDArray:
    """Return an image as an array of float32 from 0 to 1, shape (channels, *size).

    Parameters
    ----------
    path : str or path
    size : (int, int)
        Height and width.
    channels : {3, 1}

    Raises
    ------
    ValueError
        If the file can't be read as an image; the message names it.
    """
    pillow, operations = _pillow()
    height, width = size
    try:
        with pillow.open(path) as image:
            # A large photograph is decoded at a fraction of its size, where its format can do so.
            image.draft("RGB" if channels == 3 else "L", (2 * width, 2 * height))
            upright: Any = operations.exif_transpose(image)
            if upright.mode.startswith("I"):  # of 16 bits, which `convert` would cut off at 255
                upright = pillow.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("RGB" if channels == 3 else "L")
            upright = upright.resize((width, height), pillow.Resampling.BILINEAR)
            pixels = np.asarray(upright, np.float32)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(f"{os.fspath(path)} can't be read as an image: {error}") from error
    pixels = pixels / np.float32(255)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _images_below(folder: Path) -> list[Path]:
    """The images in a folder and in those below it, in the order of their paths."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        kept = (n for n in sorted(names) if n[0] != "." and n.lower().endswith(SUFFIXES))
        found += [Path(place, name) for name in kept]
    return found


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("ImageFolder needs Pillow: pip install 'npdl[images]'") from error
    return Image, ImageOps
