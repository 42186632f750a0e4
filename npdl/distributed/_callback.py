"""The callback that joins several processes into one training run."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int, error_message
from npdl.callbacks import Callback
from npdl.callbacks.checkpoint import BackupAndRestore
from npdl.distributed._optimizer import broadcast, joined
from npdl.distributed._ranks import COUNTED, REST, STATE, Ranks
from npdl.layers.tree import every_layer
from npdl.results import RunningMetrics
from npdl.utils.random import get_rng, set_rng


class DataParallel(Callback):
    """Join several processes into one training run; pass it to `fit` and `evaluate`.

    - At the beginning all processes get the weights and the optimizer's state of process 0.
    - Loss and metrics are over all samples: those of the processes are merged before any other
      callback sees them.
    - Callbacks that print or write (`Callback.writes`), such as the progress bar, `ModelCheckpoint`
      or `CSVLogger`, run only on process 0. All others run on every process, and see the same
      results. `BackupAndRestore` writes on process 0; all read its file and resume with the same
      bits, so its folder must be visible to all processes.
    - If one process stops, all stop, after the same step.
    - Running statistics, those of batch normalization, are averaged at the end of each epoch.
    - Dropout and noise follow from `seed`, the epoch and the number of the shard, so a run has the
      same bits in n processes and in one that computes n shards. The generator is restored at the
      end.

    Parameters
    ----------
    seed : int
    comm : mpi4py.MPI.Comm, optional
        The processes; all of them by default. It must be that of the optimizer.
    """

    reads_batch_logs = False

    def __init__(self, seed: int = 0, comm: Any = None) -> None:
        self.seed = check_int("seed", seed, 0)
        self._ranks = Ranks(comm)
        self._before: Any = None

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self._ranks.size

    def arrange(self, callbacks: list[Callback]) -> list[Callback]:
        """This callback first; callbacks that write only on process 0."""
        rest = [one for one in callbacks if one is not self]
        if self.rank:
            rest = [one for one in rest if not one.writes]
        for one in rest:
            if isinstance(one, BackupAndRestore):
                one.writes_here = not self.rank
        return [self, *rest]

    def set_params(self, params: dict[str, Any]) -> None:
        """Silence all processes but one."""
        super().set_params(params)
        if self.rank:
            params.update(verbose=0, file=_Nowhere())

    def on_train_begin(self, logs: Any = None) -> None:
        """Give all processes the weights of process 0."""
        model, ranks = self.model, self._ranks
        if ranks.size > 1 and not joined(model.optimizer):
            rule = "DataParallel needs a model that is compiled with a DistributedOptimizer"
            raise ValueError(error_message(rule, optimizer=type(model.optimizer).__name__))
        broadcast(model, ranks.comm)
        self._before = get_rng()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Seed dropout and noise."""
        shard = batch * self.size + self.rank
        set_rng(np.random.default_rng([self.seed, self.model.loop.epoch, shard]))

    def on_step_boundary(self, epoch: int, batch: int) -> None:
        """Agree on whether to stop."""
        model = self.model
        rows = self._ranks.meet(REST, epoch, batch, float(model.stop_training))
        if (rows[:, :2] != rows[0, :2]).any():
            places = ", ".join(f"epoch {int(e) + 1} batch {int(b)}" for e, b, _ in rows)
            raise RuntimeError(
                "All processes must be at the same step of training; a folder of "
                f"BackupAndRestore must be one that all of them see. Received: {places}"
            )
        model.stop_training = bool(rows[:, 2].any())

    def on_metrics_ready(self, metrics: RunningMetrics) -> None:
        """Merge the metrics of all processes, and average the running statistics of an epoch."""
        loop = self.model.loop
        of_epoch = loop is not None and metrics is loop.metrics
        speeds = self._ranks.meet(COUNTED, loop.speed if of_epoch else 0.0)
        if of_epoch:
            loop.speed = float(speeds.sum())
            self._ranks.average([*self._statistics()])
        metrics.merge(self._ranks.gather(metrics.get_state()))

    def on_train_end(self, logs: Any = None) -> None:
        """Restore the generator."""
        set_rng(self._before)
        self._before = None

    def get_state(self) -> dict[str, Any]:
        """Return the metrics of each process so far; all processes must call it."""
        self._ranks.meet(STATE)
        return {"metrics": self._ranks.gather(self.model.loop.metrics.get_state())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the metrics of this process."""
        states, loop = state["metrics"], self.model.loop
        if len(states) == self.size:
            loop.metrics.set_state(states[self.rank])
        elif loop.batch:
            rule = "A backup from within an epoch needs as many processes as made it"
            raise ValueError(error_message(f"{rule}, {len(states)}", processes=self.size))

    def _statistics(self) -> Iterator[NDArray]:
        for layer in every_layer(self.model.layers):
            if layer.trainable:
                yield from (p.value for p in layer._parameters_by_name.values() if not p.learns)


class _Nowhere(io.TextIOBase):
    """A text file that discards what is written."""

    def write(self, text: str) -> int:
        return len(text)
