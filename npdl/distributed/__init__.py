"""Level 3: one model trained by several processes, on one machine or many.

Needs the package mpi4py, and an MPI: ``pip install 'npdl[mpi]' mpich``.
"""

from __future__ import annotations

try:
    import mpi4py as _mpi4py  # noqa: F401
except ImportError as error:
    rule = "npdl.distributed needs the package mpi4py, 4 or newer"
    raise ImportError(f"{rule}, and an MPI: pip install 'npdl[mpi]' mpich") from error

from npdl.distributed._callback import DataParallel
from npdl.distributed._feed import Shards, shard
from npdl.distributed._optimizer import DistributedOptimizer, broadcast

__all__ = ["DataParallel", "DistributedOptimizer", "Shards", "broadcast", "shard"]
