"""Schedules of the learning rate: its value as a function of the number of steps done.

::

    npdl.optimizers.Adam(lr=npdl.schedules.CosineDecay(0.01, decay_steps=1000))

A step is one change of the parameters: with gradient accumulation, one for several batches. A
schedule has no state, so a resumed training run continues with the right rate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

from npdl._checks import check_choice, check_int, check_number, error_message
from npdl._registry import Configurable, Registry


class LearningRateSchedule(Configurable):
    """Base class. A subclass defines ``__call__(step)``, and keeps its arguments as attributes."""

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step).")


_registry = Registry("schedule", LearningRateSchedule)
register = _registry.register


class _Decay(LearningRateSchedule):
    """Base of decays from `initial_learning_rate` over `decay_steps` steps."""

    def __init__(self, initial_learning_rate: float, decay_steps: int) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check_int("decay_steps", decay_steps)


@register()
class ExponentialDecay(_Decay):
    """initial · decay_rate^(step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
    decay_rate : float
    staircase : bool
        Cut step / decay_steps to a whole number.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps)
        self.decay_rate = check_number("decay_rate", decay_rate, "(0, inf)")
        self.staircase = bool(staircase)

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        return self.initial_learning_rate * _power(self.decay_rate, _passed(self, step))


@register()
class InverseTimeDecay(ExponentialDecay):
    """initial / (1 + decay_rate · step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
    decay_rate : float
    staircase : bool
        Cut step / decay_steps to a whole number.
    """

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        return self.initial_learning_rate / (1 + self.decay_rate * _passed(self, step))


def _passed(schedule: ExponentialDecay, step: int) -> float:
    part = step / schedule.decay_steps
    return math.floor(part) if schedule.staircase else part


@register("step_lr")
class StepDecay(_Decay):
    """initial · decay_rate^k, where k = floor(step / decay_steps).

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
    decay_rate : float
    """

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float = 0.1
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps)
        self.decay_rate = check_number("decay_rate", decay_rate, "(0, inf)")

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        return self.initial_learning_rate * _power(self.decay_rate, step // self.decay_steps)


@register("multi_step_lr")
class PiecewiseConstantDecay(LearningRateSchedule):
    """`values[0]` up to and including step `boundaries[0]`, then `values[1]`, and so on.

    Parameters
    ----------
    boundaries : sequence of int
        Increasing step numbers.
    values : sequence of float
        One more value than there are boundaries.
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        self.boundaries = [check_int("boundaries", b, 0) for b in boundaries]
        self.values = [_rate("values", v) for v in values]
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:])):
            raise ValueError(error_message("`boundaries` must rise", boundaries=self.boundaries))
        if len(self.values) != len(self.boundaries) + 1:
            rule = f"`values` must hold {len(self.boundaries) + 1}, one more than `boundaries`"
            raise ValueError(error_message(rule, values=self.values))

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        return self.values[bisect.bisect_left(self.boundaries, step)]


@register()
class PolynomialDecay(_Decay):
    """(initial - end) · (1 - step / decay_steps)^power + end.

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
        Afterwards the rate stays at its final value;
    end_learning_rate : float
    power : float
        1: a straight line.
    cycle : bool
        If true, restart: each cycle lasts the smallest multiple of `decay_steps` that exceeds the
        current step.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps)
        self.end_learning_rate = _rate("end_learning_rate", end_learning_rate)
        self.power = check_number("power", power, "(0, inf)")
        self.cycle = bool(cycle)

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        steps = self.decay_steps
        if self.cycle:
            steps *= max(1, math.ceil(step / steps))
        left = 1 - min(step, steps) / steps
        span = self.initial_learning_rate - self.end_learning_rate
        return span * left**self.power + self.end_learning_rate


@register()
class CosineDecay(_Decay):
    """initial · ((1 - alpha) · ½(1 + cos(π step / decay_steps)) + alpha) (Loshchilov, Hutter 2017).

    Parameters
    ----------
    initial_learning_rate : float
    decay_steps : int
        Afterwards the rate stays at its final value.
    alpha : float
        The final rate, as a fraction of the highest one.
    warmup_target : float, optional
        First rise linearly from `initial_learning_rate` to this rate, then decay from it.
    warmup_steps : int
        Number of steps of the rise; `decay_steps` are counted from its end.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps)
        self.alpha = check_number("alpha", alpha, "[0, 1]")
        self.warmup_target = (
            None if warmup_target is None else _rate("warmup_target", warmup_target)
        )
        self.warmup_steps = check_int("warmup_steps", warmup_steps, 0)

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return _line(top, self.warmup_target, step / self.warmup_steps)
            top, step = self.warmup_target, step - self.warmup_steps
        left = _cosine(min(step, self.decay_steps) / self.decay_steps)
        return top * ((1 - self.alpha) * left + self.alpha)


@register("cosine_annealing_warm_restarts")
class CosineDecayRestarts(LearningRateSchedule):
    """`CosineDecay` that starts again and again (SGDR, Loshchilov and Hutter 2017).

    Parameters
    ----------
    initial_learning_rate : float
    first_decay_steps : int
        Length of the first period.
    t_mul : float
        Factor by which each period is longer than the one before.
    m_mul : float
        Factor applied to the peak rate of each new period.
    alpha : float
        The final rate, as a fraction of `initial_learning_rate`.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
    ) -> None:
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.first_decay_steps = check_int("first_decay_steps", first_decay_steps)
        self.t_mul = check_number("t_mul", t_mul, "[1, inf)")
        self.m_mul = check_number("m_mul", m_mul, "(0, inf)")
        self.alpha = check_number("alpha", alpha, "[0, 1]")

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        period, start = self._period(step)
        length = self.first_decay_steps * _power(self.t_mul, period)
        left = _power(self.m_mul, period) * _cosine((step - start) / length)
        return self.initial_learning_rate * ((1 - self.alpha) * left + self.alpha)

    def _period(self, step: int) -> tuple[int, float]:
        """The number of the period that a step lies in, and where that begins."""
        if self.t_mul == 1:
            period = step // self.first_decay_steps
            return period, period * self.first_decay_steps
        # The start of period n is first (q^n - 1)/(q - 1). The logarithm that solves this for n may
        # be off by one at the borders, so begin below it.
        q, first = self.t_mul, self.first_decay_steps
        period = max(0, int(math.log1p(step / first * (q - 1)) / math.log(q)) - 1)
        while step >= first * (q ** (period + 1) - 1) / (q - 1):
            period += 1
        return period, first * (q**period - 1) / (q - 1)


@register()
class WarmUp(LearningRateSchedule):
    """Linear warm-up to another schedule, or to a constant rate.

    Parameters
    ----------
    schedule : float or LearningRateSchedule
        The rate or schedule afterwards; a schedule starts at its step 0 after the rise.
    warmup_steps : int
    start_factor : float
        The rate of step 0, as a fraction of that at the end of the rise.
    """

    def __init__(self, schedule: Any, warmup_steps: int, start_factor: float = 0.0) -> None:
        nested = isinstance(schedule, LearningRateSchedule | dict | str)
        self.schedule = get(schedule) if nested else _rate("schedule", schedule)
        self.warmup_steps = check_int("warmup_steps", warmup_steps)
        self.start_factor = check_number("start_factor", start_factor, "[0, inf)")

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        after = max(0, step - self.warmup_steps)
        rate = self.schedule(after) if callable(self.schedule) else self.schedule
        return rate * _line(self.start_factor, 1.0, min(1.0, step / self.warmup_steps))


@register("one_cycle_lr")
class OneCycle(LearningRateSchedule):
    """Up to a peak rate, then down below the initial one (1cycle, Smith and Topin 2018).

    Parameters
    ----------
    max_learning_rate : float
    total_steps : int
        Afterwards the rate stays at its final value.
    pct_start : float
        The fraction of the steps in which it rises.
    anneal_strategy : {'cos', 'linear'}
    div_factor : float
        It starts from max_learning_rate / div_factor,
    final_div_factor : float
        and ends at max_learning_rate / div_factor / final_div_factor.
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        self.max_learning_rate = _rate("max_learning_rate", max_learning_rate)
        self.total_steps = check_int("total_steps", total_steps, 2)
        self.pct_start = check_number("pct_start", pct_start, "[0, 1]")
        self.anneal_strategy = check_choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.div_factor = check_number("div_factor", div_factor, "(0, inf)")
        self.final_div_factor = check_number("final_div_factor", final_div_factor, "(0, inf)")

    def __call__(self, step: int) -> float:
        """Return the rate of step 0, 1, ..."""
        top = self.max_learning_rate
        first = top / self.div_factor
        last_step = self.total_steps - 1
        step = min(step, last_step)
        peak = min(max(self.pct_start * self.total_steps - 1, 0), last_step)
        if step <= peak:
            return self._between(first, top, step / peak if peak else 1.0)
        last = first / self.final_div_factor
        return self._between(top, last, (step - peak) / (last_step - peak))

    def _between(self, start: float, end: float, part: float) -> float:
        return _line(start, end, part if self.anneal_strategy == "linear" else 1 - _cosine(part))


def _rate(name: str, value: Any) -> float:
    return check_number(name, value, "[0, inf)")


def _line(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


def _cosine(part: float) -> float:
    """Half a cosine wave, from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * part))


def get(schedule: Any) -> LearningRateSchedule:
    """Return a schedule.

    Parameters
    ----------
    schedule : LearningRateSchedule, class, str or dict
        An instance is returned as it is; a dict holds the name and the arguments:
        ``{"name": "CosineDecay", "initial_learning_rate": 0.01, "decay_steps": 1000}``.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(schedule)


def _power(base: float, exponent: float) -> float:
    """base ** exponent; infinite where it is too large."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf
