"""npdl: train convolutional and recurrent networks on the CPU you already have."""

from npdl._version import __version__

__all__ = ["__version__"]
