"""Optimizers whose step is one kernel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from npdl._ext import kernels, optimizer_np
from npdl.optimizers.base import Optimizer, Plan, Slots


class Fused(Optimizer):
    """Base of those whose step is one kernel.

    A subclass defines `_kernel` and `_numbers`; or a `step` of its own, which is then called.
    """

    #: The name of the kernel, and the names of the slots that it takes after p and g.
    _kernel: ClassVar[tuple[str, ...]] = ()

    def _numbers(self, lr: float) -> tuple[float, ...]:
        """What the kernel takes after the arrays, in this step the same for all parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define _numbers(lr).")

    def step(self, p: np.ndarray, g: np.ndarray, slots: Slots, lr: float) -> None:
        """Do the step of one parameter; see `Optimizer.step`."""
        (step, *names), numbers = self._kernel, self._numbers(lr)
        g = np.ascontiguousarray(g, p.dtype)
        flat = self._flattened(p, g, slots)
        if flat is None:
            getattr(optimizer_np, step)(p, g, *(slots[name] for name in names), *numbers)
        else:
            getattr(kernels(), step)(*flat, *numbers)

    def _steps(self, plan: Plan, grads: list[np.ndarray], lr: float) -> None:
        if type(self).step is not Fused.step:
            super()._steps(plan, grads, lr)
            return
        step, numbers = getattr(kernels(), self._kernel[0]), self._numbers(lr)
        for p, g, planned, slots, flat in zip(
            plan.params, grads, plan.grads, plan.slots, plan.flat
        ):
            if flat is None or g is not planned:  # clipped, say
                self.step(p, g, slots, lr)
            else:
                step(*flat, *numbers)

    def _flattened(self, p: np.ndarray, g: np.ndarray, slots: Slots) -> list[np.ndarray] | None:
        arrays = [p, g, *(slots[name] for name in self._kernel[1:])]
        if g.dtype == p.dtype and all(a.flags.c_contiguous for a in arrays):
            return [a.reshape(-1) for a in arrays]  # views
        return None
