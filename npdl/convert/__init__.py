"""Level 3: models and weights of Keras, weights of PyTorch.

`load_keras` and `load_keras_weights` need h5py, ``pip install 'npdl[keras]'``, and not Keras;
`load_torch_weights` reads safetensors files without PyTorch. A file is data, never code, and may
come from anyone: sizes are checked before memory is allocated, nothing is unpacked to the disk, and
no pickle is opened.
"""

from npdl.convert.keras import load_keras, load_keras_weights
from npdl.convert.torch import load_torch_weights

__all__ = ["load_keras", "load_keras_weights", "load_torch_weights"]
