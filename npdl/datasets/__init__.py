"""Level 3: real data sets, a small one that comes with the package and larger ones to download."""

from npdl.datasets._files import cache_folder
from npdl.datasets.digits import load_digits
from npdl.datasets.images import (
    CIFAR10_CLASSES,
    FASHION_CLASSES,
    load_cifar10,
    load_fashion_mnist,
    load_mnist,
)

__all__ = [
    "CIFAR10_CLASSES",
    "FASHION_CLASSES",
    "cache_folder",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
]
