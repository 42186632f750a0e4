"""The base class of the optimizers, and the look-up by name."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from npdl import schedules
from npdl._checks import check_int, check_number, error_message
from npdl._dtype import FLOATS
from npdl._ext.optimizer_np import update_mean
from npdl._registry import Configurable, Registry
from npdl.optimizers import clipping
from npdl.optimizers.arguments import ShownSignature, by_own_names, optional, warn_if_rate
from npdl.optimizers.units import Slots, Unit, UpdateCache, make_units


class Optimizer(Configurable):
    """Base class. A subclass defines `step`, the step of one parameter.

    What one `update` does, in this order: mean of the gradients of some batches, clipping, weight
    decay, the step, moving average of the parameters. All but the step are off by default.

    Parameters
    ----------
    lr : float or LearningRateSchedule
        The learning rate, or its schedule over the steps (`npdl.schedules`).
    clip : float
        Gradients are cut to [-clip, clip] element by element; not at all when it is 0 or below.
    decay : float
        The rate of step t = 0, 1, ... is lr / (1 + decay t),
    lr_min, lr_max : float
        kept within [lr_min, lr_max].
    clipnorm : float, optional
        Each parameter's gradient is scaled to a length of at most this.
    global_clipnorm : float, optional
        All gradients are scaled by one factor, to a common length of at most this.
    weight_decay : float, optional
        Decoupled (Loshchilov and Hutter 2019): before its step, p -= lr weight_decay p.
    exclude_from_weight_decay : sequence of str, optional
        Parameters that do not decay: by full name, ``"dense_1/b"``, or by the last part of it,
        ``"b"``, ``"gamma"``.
    gradient_accumulation_steps : int, optional
        Accumulate gradients over this many updates, then step with their mean. In `Model.fit` each
        is weighted by the number of items that its batch has in the loss, so the step is that of
        the batches joined into one; with reduction="sum" the mean is unweighted.
    use_ema : bool
        Whether to keep a moving average of each parameter, a = m a + (1-m) p, see
        `swap_averages`. At the end of `Model.fit` the averages replace the parameters.
    ema_momentum : float
        The factor m. The first average is the parameter after its first step.
    ema_overwrite_frequency : int, optional
        Overwrite the parameters with their averages every this many steps, instead of once at the
        end.
    **aliases
        Keras's names: `learning_rate` for `lr`, `clipvalue` for `clip`.

    Attributes
    ----------
    iterations : int
        How many steps have been done.
    swapped : bool
        Whether parameters and averages are swapped, see `swap_averages`.
    """

    def __init__(
        self,
        lr: Any = 0.001,
        clip: float = -1,
        decay: float = 0.0,
        lr_min: float = 0.0,
        lr_max: float = np.inf,
        *,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        weight_decay: float | None = None,
        exclude_from_weight_decay: Sequence[str] | None = None,
        gradient_accumulation_steps: int | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        **aliases: Any,
    ) -> None:
        given = by_own_names(type(self).__name__, aliases)
        lr, clip = given.get("lr", lr), given.get("clip", clip)
        scheduled = isinstance(lr, schedules.LearningRateSchedule | dict | str)
        self.lr = schedules.get(lr) if scheduled else check_number("lr", lr, "[0, inf)")
        self.clip = check_number("clip", clip, "(-inf, inf]")
        self.decay = check_number("decay", decay, "[0, inf)")
        self.lr_min = check_number("lr_min", lr_min, "[0, inf)")
        self.lr_max = check_number("lr_max", lr_max, f"[{self.lr_min}, inf]")
        self.clipnorm = optional("clipnorm", clipnorm, "(0, inf]")
        self.global_clipnorm = optional("global_clipnorm", global_clipnorm, "(0, inf]")
        if (self.clip > 0) + (clipnorm is not None) + (global_clipnorm is not None) > 1:
            rule = "At most one of `clip`, `clipnorm` and `global_clipnorm` can be given"
            raise ValueError(
                error_message(rule, clip=clip, clipnorm=clipnorm, global_clipnorm=global_clipnorm)
            )
        self.weight_decay = optional("weight_decay", weight_decay, "[0, inf)")
        if isinstance(exclude_from_weight_decay, str):
            rule = "`exclude_from_weight_decay` must be a sequence of names"
            raise TypeError(
                error_message(rule, exclude_from_weight_decay=exclude_from_weight_decay)
            )
        names = exclude_from_weight_decay
        self.exclude_from_weight_decay = None if names is None else list(names)
        steps, every = gradient_accumulation_steps, ema_overwrite_frequency
        self.gradient_accumulation_steps = (
            None if steps is None else check_int("gradient_accumulation_steps", steps)
        )
        self.use_ema = bool(use_ema)
        self.ema_momentum = check_number("ema_momentum", ema_momentum, "[0, 1]")
        self.ema_overwrite_frequency = (
            None if every is None else check_int("ema_overwrite_frequency", every)
        )
        self.iterations = 0
        self.swapped = False
        #: Number of updates whose gradients are accumulated for the next step.
        self._pending = 0
        #: Total weight of these gradients.
        self._weight = 0.0
        self._slots: dict[Hashable, Slots] = {}

    __signature__ = ShownSignature()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Warn if the first argument looks like a learning rate, which it is in other libraries."""
        warn_if_rate(cls, args)
        return super().__new__(cls)

    def __getstate__(self) -> dict[str, Any]:
        """The state for `pickle` and `copy.deepcopy`: everything except the parameters."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_plan", "_owner", "_join")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Buffers from `joblib` or pickle's protocol 5 may be read-only.
        self._slots = {
            name: {k: v if v.flags.writeable else np.array(v) for k, v in own.items()}
            for name, own in self._slots.items()
        }

    def claim(self, owner: Any) -> None:
        """Bind this optimizer to a model, the only one that it can train.

        Parameters
        ----------
        owner : object
            The model.

        Raises
        ------
        ValueError
            If it has trained another model.
        """
        if self._owner is not None and self._owner() is owner:
            return
        if self._owner is not None and (self.iterations or self._slots):
            rule = (
                "An optimizer can train only one model, since it remembers moments, averages and "
                "steps of that one. Make a new one for each model, or pass its name"
            )
            received = f"{type(self).__name__} after {self.iterations} steps with another model"
            raise ValueError(f"{rule}. Received: {received}")
        self._owner = weakref.ref(owner)

    @property
    def current_lr(self) -> float:
        """The rate of the next step."""
        lr = self.lr(self.iterations) if callable(self.lr) else self.lr
        rate = float(lr) / (1 + self.decay * self.iterations)
        return min(max(rate, self.lr_min), self.lr_max)

    @property
    def learning_rate(self) -> Any:
        """Keras's name of `lr`."""
        return self.lr

    @learning_rate.setter
    def learning_rate(self, lr: Any) -> None:
        self.lr = lr

    def update(
        self,
        params: Sequence[np.ndarray],
        grads: Sequence[np.ndarray],
        names: Sequence[Hashable] | None = None,
        count: float | None = None,
    ) -> None:
        """Do one step: change the parameters in place.

        Parameters
        ----------
        params : sequence of ndarray
            float32 or float64.
        grads : sequence of ndarray
            The gradient of each, of its shape. Not changed.
        names : sequence, optional
            A name for each, under which its state is kept; by default its index.
        count : float, optional
            Weight of these gradients if those of several updates are averaged: the number of items
            that the loss is a mean over. By default all have the same weight.

        Raises
        ------
        ValueError
            If lengths or shapes differ, or the array of a name has changed its shape or dtype.
        """
        plan = self._plan
        if plan is None or not plan.matches(params, grads, names, self._slots, self._grouping()):
            plan = self._plan = self._cached_update(params, grads, names)
        if self.swapped:
            raise RuntimeError(
                "The averages are in the places of the parameters. Call swap_averages() before "
                "the training goes on."
            )
        if self.takes_count and not self._accumulate(plan.units, count):
            return
        self._clip(plan.units)
        lr = self.current_lr
        if self.weight_decay:
            for unit in plan.units:
                if unit.decays:
                    unit.p *= 1 - lr * self.weight_decay
        self._steps(plan.units, lr)
        self.iterations += 1
        if self.use_ema:
            self._average(plan.units)

    @property
    def takes_count(self) -> bool:
        """Whether it averages gradients, weighted by the `count` that `update` is passed."""
        return bool(self.gradient_accumulation_steps) or self._join is not None

    def _grouping(self) -> Any:
        """The key by which parameters may be treated as one array; None if they may not."""
        if not self.elementwise or self.clipnorm is not None:
            return None
        return tuple(self.exclude_from_weight_decay or ())

    def _clip(self, units: list[Unit]) -> None:
        if self.clip > 0:
            cut, limit = clipping.clip_by_value, self.clip
        elif self.clipnorm is not None:
            cut, limit = clipping.clip_by_norm, self.clipnorm
        elif self.global_clipnorm is not None:
            cut, limit = clipping.clip_by_global_norm, self.global_clipnorm
        else:
            return
        grads = cut([unit.g for unit in units], limit, [unit.buffer() for unit in units])
        for unit, g in zip(units, grads):
            unit.g = g

    def _is_excluded(self, name: Hashable) -> bool:
        excluded = self.exclude_from_weight_decay or ()
        return name in excluded or str(name).rpartition("/")[2] in excluded

    def _accumulate(self, units: list[Unit], count: float | None) -> bool:
        """Add up gradients; with the last ones of a step, their means are the units' gradients."""
        steps = self.gradient_accumulation_steps or 1
        first, self._pending = self._pending == 0, (self._pending + 1) % steps
        weight = 1.0 if count is None else float(count)
        self._weight = weight + (0.0 if first else self._weight)
        for unit in units:
            total, g = unit.slot("accumulated") if steps > 1 else unit.buffer(), unit.gradient
            part = g if weight == 1 else g * g.dtype.type(weight)
            np.copyto(total, part) if first else np.add(total, part, out=total)
            unit.g = total
        if self._pending:
            return False
        weight = self._weight
        if self._join is not None:
            weight = self._join([unit.g for unit in units], weight)
        for unit in units:
            unit.g /= weight or 1
        return True

    def _average(self, units: list[Unit]) -> None:
        every = self.ema_overwrite_frequency
        for unit in units:
            if "average" in unit.slots:
                update_mean(unit.slots["average"], self.ema_momentum, unit.p)
            else:
                unit.slot("average")[...] = unit.p
            if every and self.iterations % every == 0:
                unit.p[...] = unit.slots["average"]

    def swap_averages(
        self, params: Sequence[np.ndarray], names: Sequence[Hashable] | None = None
    ) -> None:
        """Exchange parameters and averages in place; a second call swaps them back.

        Parameters
        ----------
        params, names
            As for `update`: all of them. A parameter without an average is left as it is.
        """
        for p, average in self._averages(params, names):
            value = p.copy()
            p[...] = average
            average[...] = value
        self.swapped = not self.swapped

    def finalize_variable_values(
        self, params: Sequence[np.ndarray], names: Sequence[Hashable] | None = None
    ) -> None:
        """Overwrite the parameters with the averages for good, as `Model.fit` does at the end.

        Parameters
        ----------
        params, names
            As for `swap_averages`.
        """
        for p, average in self._averages(params, names):
            if self.swapped:
                average[...] = p
            else:
                p[...] = average
        self.swapped = False

    def _averages(
        self, params: Sequence[np.ndarray], names: Sequence[Hashable] | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        keys: Sequence[Hashable] = range(len(params)) if names is None else names
        pairs = [(p, self._slots.get(name, {})) for name, p in zip(keys, params, strict=True)]
        return [(p, slot["average"]) for p, slot in pairs if "average" in slot]

    def get_state(self) -> dict[str, Any]:
        """Return a copy of the optimizer's state.

        Returns
        -------
        dict
            "iterations" and "pending", integers; "weight", a float; "swapped", a bool; "slots", the
            arrays by parameter and name.
        """
        plain: dict[str, Any] = {"iterations": self.iterations, "pending": self._pending}
        plain |= {"weight": self._weight, "swapped": self.swapped}
        return {**plain, "slots": _copy(self._slots)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned.

        Parameters
        ----------
        state : dict
        """
        self.iterations = int(state["iterations"])
        self._pending = int(state.get("pending", 0))
        self._weight = float(state.get("weight", self._pending))
        self.swapped = bool(state.get("swapped", False))
        self._slots = _copy(state["slots"])

    _plan: UpdateCache | None = None
    #: Adds up weighted gradients and their weight over processes, see `npdl.distributed`.
    _join: Callable[[list[np.ndarray], float], float] | None = None
    #: The model that this optimizer belongs to.
    _owner: weakref.ref[Any] | None = None

    #: Names of the arrays that a subclass keeps for each parameter; they start at zero.
    slot_names: tuple[str, ...] = ()
    #: Whether `step` is elementwise, so that several parameters can be one array.
    elementwise: bool = False

    _former = MappingProxyType({"_step": "step"})

    def step(self, p: np.ndarray, g: np.ndarray, slots: Slots, lr: float) -> None:
        """Do the step of one parameter.

        Parameters
        ----------
        p : ndarray
            The parameter, to be changed in place.
        g : ndarray
            Its gradient, to be read only.
        slots : dict of str to ndarray
            Its state, by `slot_names`; to be changed in place.
        lr : float
            The rate of this step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(p, g, slots, lr).")

    def _steps(self, units: list[Unit], lr: float) -> None:
        """`step` for all parameters."""
        for unit in units:
            self.step(unit.p, unit.g, unit.slots, lr)

    def _cached_update(self, params: Any, grads: Any, names: Any) -> UpdateCache:
        own, given = list(params), list(map(np.asarray, grads))
        keys = list(range(len(own)) if names is None else names)
        if not len(own) == len(given) == len(keys):
            rule = "Parameters, gradients and names must be equal in number"
            counts = f"{len(own)}, {len(given)} and {len(keys)}"
            raise ValueError(f"{rule}. Received: {counts}")
        _check_arrays(own, given, keys)
        for name, p in zip(keys, own):
            if name not in self._slots:
                self._slots[name] = {slot: np.zeros_like(p) for slot in self.slot_names}
            for slot in self._slots[name].values():
                if slot.shape != p.shape or slot.dtype != p.dtype:
                    rule = f"Parameter {name!r} must stay {slot.dtype} of shape {slot.shape}"
                    raise ValueError(error_message(rule, dtype=p.dtype.name, shape=p.shape))
        grouping = self._grouping()
        decays = [not self._is_excluded(name) for name in keys]
        units = make_units(own, given, keys, decays, self._slots, grouping is not None)
        return UpdateCache((params, grads, names), (own, given, keys), self._slots, grouping, units)


def _copy(slots: dict[Hashable, Slots]) -> dict[Hashable, Slots]:
    return {name: {k: v.copy() for k, v in own.items()} for name, own in slots.items()}


def _check_arrays(params: list, grads: list, names: list) -> None:
    if len(set(names)) < len(names):
        raise ValueError(error_message("Each parameter must have a name of its own", names=names))
    for name, p, g in zip(names, params, grads):
        if not isinstance(p, np.ndarray) or p.dtype not in FLOATS:
            rule = f"Parameter {name!r} must be an array of float32 or float64"
            raise TypeError(error_message(rule, dtype=getattr(p, "dtype", type(p).__name__)))
        if g.shape != p.shape:
            rule = f"The gradient of parameter {name!r} must have shape {p.shape}"
            raise ValueError(error_message(rule, shape=g.shape))


_registry = Registry("optimizer", Optimizer)
register = _registry.register


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
