"""An optimizer whose gradients are means over all processes."""

from __future__ import annotations

import copy
import os
from typing import Any

from numpy.typing import NDArray

from npdl._checks import complaint
from npdl._ext import get_num_threads, set_num_threads
from npdl.distributed._ranks import STEP, Ranks
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
        Of the same class. A model saves it as a plain optimizer; to continue in several processes,
        compile the loaded model with ``optimizer=DistributedOptimizer(model.optimizer)``.

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
        raise TypeError(complaint(rule, optimizer=type(made).__name__))
    made = copy.deepcopy(made)
    ranks = Ranks(comm)
    _share_cores(ranks)
    made._join = _Join(ranks)
    return made


class _Join:
    """Adds up weighted gradients, and their weights, over all processes."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __call__(self, gradients: list[NDArray], weight: float) -> float:
        weights = self.ranks.meet(STEP, weight)[:, 0].tolist()
        self.ranks.add_all(gradients)
        total = weights[0]
        for more in weights[1:]:
            total += more
        return total


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
