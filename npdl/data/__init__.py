"""Data preparation: batches, sequences, text, images, splits, scaling, augmentation.

Any iterable of batches can be passed to ``Model.fit`` in place of an array.
"""

from npdl.data.augment import (
    Augment,
    Brightness,
    Crop,
    Cutout,
    Flip,
    Noise,
    Rotation,
    Shift,
    Zoom,
)
from npdl.data.background import Background
from npdl.data.batches import Batches
from npdl.data.decoding import ctc_decode, edit_distance
from npdl.data.images import ImageFolder
from npdl.data.scaling import Standardizer, train_test_split
from npdl.data.sequences import Buckets, pad_sequences
from npdl.data.series import windows
from npdl.data.vocabulary import Vocabulary
from npdl.utils.data import one_hot, unhot

__all__ = [
    "Augment",
    "Background",
    "Batches",
    "Brightness",
    "Buckets",
    "Crop",
    "Cutout",
    "Flip",
    "ImageFolder",
    "Noise",
    "Rotation",
    "Shift",
    "Standardizer",
    "Vocabulary",
    "Zoom",
    "ctc_decode",
    "edit_distance",
    "one_hot",
    "pad_sequences",
    "train_test_split",
    "unhot",
    "windows",
]
