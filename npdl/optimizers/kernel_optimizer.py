"""Optimizers whose step is one kernel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from npdl._ext import kernels, optimizer_np
from npdl.optimizers.base import Optimizer
from npdl.optimizers.units import Slots, Unit


class KernelOptimizer(Optimizer):
    """Base of optimizers whose step is one kernel.

    A subclass defines `_kernel` and `_scalars`, or its own `step`, which is then called.
    """

    #: The name of the kernel, and the names of the slots that it takes after p and g.
    _kernel: ClassVar[tuple[str, ...]] = ()

    def _scalars(self, lr: float) -> tuple[float, ...]:
        """The scalar arguments of the kernel in this step, the same for all parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define _scalars(lr).")

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """Whether the step is the kernel, and not a method that a subclass defines."""
        return type(self).step is KernelOptimizer.step

    def step(self, p: np.ndarray, g: np.ndarray, slots: Slots, lr: float) -> None:
        """Do the step of one parameter; see `Optimizer.step`."""
        (step, *names), numbers = self._kernel, self._scalars(lr)
        arrays = [p, np.ascontiguousarray(g, p.dtype), *(slots[name] for name in names)]
        if all(array.flags.c_contiguous for array in arrays):
            getattr(kernels(), step)(*(array.reshape(-1) for array in arrays), *numbers)
        else:
            getattr(optimizer_np, step)(*arrays, *numbers)

    def _steps(self, units: list[Unit], lr: float) -> None:
        if not self.elementwise:
            super()._steps(units, lr)
            return
        (name, *slots), numbers = self._kernel, self._scalars(lr)
        step = getattr(kernels(), name)
        for unit in units:
            if unit.is_flat and unit.g.dtype == unit.p.dtype:
                step(unit.p, unit.g, *[unit.slots[slot] for slot in slots], *numbers)
            else:
                self.step(unit.p, unit.g, unit.slots, lr)
