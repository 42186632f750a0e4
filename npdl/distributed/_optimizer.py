"""An optimizer whose gradients are means over all processes."""

from __future__ import annotations

import copy
import os
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message
from npdl._ext import get_num_threads, set_num_threads
from npdl.distributed._ranks import BEGIN, STEP, Ranks
from npdl.optimizers import Optimizer
from npdl.optimizers import get as get_optimizer


def DistributedOptimizer(optimizer: Any, comm: Any = None) -> Optimizer:
    """Return an optimizer that averages the gradients of all processes before each step.

    Each process has the gradients of its own part of a batch. They are added up in the order of the
    ranks, weighted by the number of items that the loss of each part is a mean over: the step is
    that of the parts joined into one, and has the same bits as one process with
    ``gradient_accumulation_steps=n`` makes of n parts. Clipping, decay and averages come after
    that, as usual. A loss with ``reduction="sum"`` gives the plain mean of the parts.

    Where ``NPDL_NUM_THREADS`` is not set, the processes of one machine share its cores: each
    computes on as many threads as there are cores for it.

    Parameters
    ----------
    optimizer : Optimizer, class, name or dict
        As `Model.compile` takes it. It is copied, with its state.
    comm : mpi4py.MPI.Comm, optional
        The processes; all of them by default.

    Returns
    -------
    Optimizer
        It has the same class. A model saves it as a plain optimizer; to continue in several
        processes, compile the loaded model with
        ``optimizer=DistributedOptimizer(model.optimizer)``.

    Examples
    --------
    In a program that ``mpiexec -n 4 python -m mpi4py train.py`` runs::

        from npdl import distributed
        model.compile("scce", distributed.DistributedOptimizer(npdl.optimizers.Adam(lr=0.01)))
        model.fit(distributed.shard(X, Y, batch_size=256), epochs=10,
                  callbacks=[distributed.DataParallel()])
    """
    made = get_optimizer(optimizer)
    if not isinstance(made, Optimizer):
        rule = "DistributedOptimizer takes an optimizer of npdl, or a subclass of Optimizer"
        raise TypeError(error_message(rule, optimizer=type(made).__name__))
    made = copy.deepcopy(made)
    ranks = Ranks(comm)
    _share_cores(ranks)
    made._join = _Join(ranks)
    return made


class _Join:
    """Adds up weighted gradients, and their weights, over all processes."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        #: Whether all processes have begun with the same weights.
        self.begun = ranks.size == 1

    def __call__(self, gradients: list[NDArray], weight: float) -> float:
        if not self.begun:
            raise RuntimeError(
                "All processes must begin with the same weights: call fit with the callback "
                "DataParallel(), or npdl.distributed.broadcast(model) before a loop of your own."
            )
        weights = self.ranks.meet(STEP, weight)[:, 0].tolist()
        self.ranks.add_all(gradients)
        total = weights[0]
        for more in weights[1:]:
            total += more
        return total


def broadcast(model: Any, comm: Any = None) -> None:
    """Give all processes the weights of process 0, and the state of its optimizer.

    The callback `DataParallel` does so when `fit` begins. A training loop of your own calls it once
    before the first step.

    Parameters
    ----------
    model : Model
        Built and compiled, in all processes with the same layers.
    comm : mpi4py.MPI.Comm, optional
        The processes; all of them by default.
    """
    ranks = Ranks(comm)
    weights = model.weights
    shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in weights.items())
    marks = ranks.meet(BEGIN, zlib.crc32(shapes.encode()))[:, 0]
    if (marks != marks[0]).any():
        raise ValueError(f"All processes must have the same model. Received: {shapes}")
    for array in weights.values():
        value = np.ascontiguousarray(array)
        ranks.comm.Bcast(value, root=0)
        array[...] = value.reshape(array.shape)
    state = ranks.comm.bcast(None if ranks.rank else model.optimizer.get_state(), root=0)
    if ranks.rank:
        model.optimizer.set_state(state)
    if joined(model.optimizer):
        model.optimizer._join.begun = True


def joined(optimizer: Any) -> bool:
    """Whether an optimizer averages the gradients of all processes."""
    return isinstance(getattr(optimizer, "_join", None), _Join)


def _share_cores(ranks: Ranks) -> None:
    """Let each process of a machine use its share of the cores, unless configured otherwise."""
    from mpi4py import MPI

    local = ranks.comm.Split_type(MPI.COMM_TYPE_SHARED)
    here = local.Get_size()
    local.Free()
    if here == 1 or "NPDL_NUM_THREADS" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores and cores == os.cpu_count() and get_num_threads() >= cores:
        set_num_threads(max(cores // here, 1))
