"""The configuration of npdl on this machine."""

from __future__ import annotations

import platform
from typing import TextIO

import numpy as np

from npdl import _ext
from npdl._version import __version__


def configuration() -> dict[str, str]:
    """Version, active kernels, and the machine, as a dict of strings."""
    active = _ext.kernels()
    return {
        "npdl": __version__,
        "backend": active.backend + (f" ({active.isa})" if active.isa else ""),
        "available": ", ".join(_ext.available_backends()),
        "threads": str(_ext.get_num_threads()),
        "precision": _ext.get_precision(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def show_config(file: TextIO | None = None) -> None:
    """Print what npdl runs on: version, kernels and their instruction set, NumPy, machine.

    Parameters
    ----------
    file : text file, optional
        Standard output by default.
    """
    rows = configuration()
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {value}", file=file)
