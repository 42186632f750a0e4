"""The base class of the optimizers, and the look-up by name."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from npdl._checks import check_number, complaint
from npdl._registry import Configurable, Registry

Slots = dict[str, np.ndarray]


class Optimizer(Configurable):
    """Base class. A subclass defines `_step`, the step of one parameter.

    Parameters
    ----------
    lr : float
        The learning rate.
    clip : float
        Gradients are cut to [-clip, clip] element by element; not at all when it is 0 or below.
    decay : float
        The rate of step t = 0, 1, ... is lr / (1 + decay t),
    lr_min, lr_max : float
        kept within [lr_min, lr_max].
    """

    def __init__(
        self,
        lr: float = 0.001,
        clip: float = -1,
        decay: float = 0.0,
        lr_min: float = 0.0,
        lr_max: float = np.inf,
    ) -> None:
        self.lr = check_number("lr", lr, "[0, inf)")
        self.clip = check_number("clip", clip, "(-inf, inf]")
        self.decay = check_number("decay", decay, "[0, inf)")
        self.lr_min = check_number("lr_min", lr_min, "[0, inf)")
        self.lr_max = check_number("lr_max", lr_max, f"[{self.lr_min}, inf]")
        #: How many steps have been done.
        self.iterations = 0
        self._slots: dict[Hashable, Slots] = {}

    @property
    def current_lr(self) -> float:
        """The rate of the next step."""
        rate = float(self.lr) / (1 + self.decay * self.iterations)
        return min(max(rate, self.lr_min), self.lr_max)

    def update(
        self,
        params: Sequence[np.ndarray],
        grads: Sequence[np.ndarray],
        names: Sequence[Hashable] | None = None,
    ) -> None:
        """Do one step: change the parameters in place.

        Parameters
        ----------
        params : sequence of ndarray
            float32 or float64.
        grads : sequence of ndarray
            The gradient of each, of its shape. Not changed.
        names : sequence, optional
            A name for each, to remember it by; its place in the sequence if not given.

        Raises
        ------
        ValueError
            If lengths or shapes differ, or a name returns with an array of another shape or dtype.
        """
        params, grads = list(params), [np.asarray(g) for g in grads]
        names = list(range(len(params)) if names is None else names)
        _check_lists(params, grads, names)
        slots = [self._slots_of(name, p) for name, p in zip(names, params)]
        lr = self.current_lr
        for p, g, slot in zip(params, grads, slots):
            if self.clip > 0:
                g = np.clip(g, -self.clip, self.clip)
            self._step(p, g, slot, lr)
        self.iterations += 1

    def get_state(self) -> dict[str, Any]:
        """Return a copy of what the optimizer remembers: "iterations", and "slots" by name."""
        return {"iterations": self.iterations, "slots": _copy(self._slots)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned.

        Parameters
        ----------
        state : dict
        """
        self.iterations = int(state["iterations"])
        self._slots = _copy(state["slots"])

    #: Names of the arrays that a subclass remembers for each parameter; they start at zero.
    slot_names: tuple[str, ...] = ()

    def _step(self, p: np.ndarray, g: np.ndarray, slots: Slots, lr: float) -> None:
        """Change `p` in place, and the arrays in `slots`; `g` is read only."""
        raise NotImplementedError(f"{type(self).__name__} must define _step(p, g, slots, lr).")

    def _slots_of(self, name: Hashable, p: np.ndarray) -> Slots:
        if name not in self._slots:
            self._slots[name] = {slot: np.zeros_like(p) for slot in self.slot_names}
        for slot in self._slots[name].values():
            if slot.shape != p.shape or slot.dtype != p.dtype:
                rule = f"Parameter {name!r} must stay {slot.dtype} of shape {slot.shape}"
                raise ValueError(complaint(rule, dtype=p.dtype.name, shape=p.shape))
        return self._slots[name]


def _copy(slots: dict[Hashable, Slots]) -> dict[Hashable, Slots]:
    return {name: {k: v.copy() for k, v in own.items()} for name, own in slots.items()}


def _check_lists(params: list, grads: list, names: list) -> None:
    if not len(params) == len(grads) == len(names):
        rule = "Parameters, gradients and names must be equal in number"
        counts = f"{len(params)}, {len(grads)} and {len(names)}"
        raise ValueError(f"{rule}. Received: {counts}")
    if len(set(names)) < len(names):
        raise ValueError(complaint("Each parameter must have a name of its own", names=names))
    for name, p, g in zip(names, params, grads):
        if not isinstance(p, np.ndarray) or p.dtype not in (np.float32, np.float64):
            rule = f"Parameter {name!r} must be an array of float32 or float64"
            raise TypeError(complaint(rule, dtype=getattr(p, "dtype", type(p).__name__)))
        if g.shape != p.shape:
            rule = f"The gradient of parameter {name!r} must have shape {p.shape}"
            raise ValueError(complaint(rule, shape=g.shape))


_registry = Registry("optimizer", Optimizer)
register = _registry.register


def blend(mean: np.ndarray, keep: float, new: np.ndarray) -> np.ndarray:
    """mean = keep·mean + (1 - keep)·new, in place."""
    mean *= keep
    mean += (1 - keep) * new
    return mean


def get(optimizer: Any, **kwargs: Any) -> Optimizer:
    """Return an optimizer by name.

    Parameters
    ----------
    optimizer : str, Optimizer, class or dict
        'sgd', 'SGD', 'adam', ...; an instance is returned as it is; a dict holds the name and the
        arguments: ``{"name": "adam", "lr": 0.01}``.
    **kwargs
        Arguments of the constructor, where an instance is made.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(optimizer, **kwargs)
