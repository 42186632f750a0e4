"""Data made ready for training: batches, sequences, splits, scaling, augmentation.

Whatever yields batches can be handed to ``Model.fit`` in place of an array.
"""

from npdl.data.augment import Augment, Crop, Flip, Noise, Shift
from npdl.data.background import Background
from npdl.data.batches import Batches
from npdl.data.scaling import Standardizer, train_test_split
from npdl.data.sequences import Buckets, pad_sequences
from npdl.utils.data import one_hot, unhot

__all__ = [
    "Augment",
    "Background",
    "Batches",
    "Buckets",
    "Crop",
    "Flip",
    "Noise",
    "Shift",
    "Standardizer",
    "one_hot",
    "pad_sequences",
    "train_test_split",
    "unhot",
]
