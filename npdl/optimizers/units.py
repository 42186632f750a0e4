"""Units of an update: a parameter, or several that are adjacent in memory, as one array.

The parameters of a model are in one array, and so are their gradients (`npdl.layers.flat`). An
update is then one call of a kernel, for any number of parameters.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

Slots = dict[str, np.ndarray]


class Unit:
    """One array to update.

    Attributes
    ----------
    p, gradient : ndarray
        The numbers of one or more parameters, and their gradient.
    g : ndarray
        The gradient to use in this step: averaged, clipped.
    slots : dict of ndarray
        The optimizer's state, arrays like `p`.
    decays : bool
        Whether weight decay applies.
    is_flat : bool
        Whether all arrays have one axis and are contiguous, as the kernels take them.
    """

    __slots__ = ("_buffer", "_parts", "decays", "g", "gradient", "is_flat", "p", "slots")

    def __init__(
        self,
        p: np.ndarray,
        gradient: np.ndarray,
        slots: Slots,
        decays: bool,
        parts: list[tuple[Slots, slice, tuple[int, ...]]],
    ) -> None:
        self.p = p
        self.gradient = self.g = gradient
        self.slots = slots
        self.decays = decays
        self.is_flat = p.ndim == 1 and all(
            a.flags.c_contiguous for a in (p, gradient, *slots.values())
        )
        #: The slots of each parameter, its place, and its shape.
        self._parts = parts
        self._buffer: np.ndarray | None = None

    def slot(self, name: str) -> np.ndarray:
        """The slot of this name; a new one holds zeros."""
        if name not in self.slots:
            whole = self.slots[name] = np.zeros_like(self.p)
            for slots, place, shape in self._parts:
                slots[name] = whole[place].reshape(shape)
        return self.slots[name]

    def buffer(self) -> np.ndarray:
        """An array like the gradient, for one that is scaled; it is kept."""
        if self._buffer is None:
            self._buffer = np.empty_like(self.gradient)
        return self._buffer


class UpdateCache(NamedTuple):
    """Cached checks and views for the arrays of the previous update."""

    #: The arguments of the update, and the arrays and names in them.
    given: tuple[Any, Any, Any]
    items: tuple[list[np.ndarray], list[np.ndarray], list[Hashable]]
    #: The state of all parameters by name.
    memory: dict[Hashable, Slots]
    grouping: Any
    units: list[Unit]

    def matches(self, params: Any, grads: Any, names: Any, memory: Any, grouping: Any) -> bool:
        """Whether these are the same arrays; resets the gradients of the units."""
        if memory is not self.memory or grouping != self.grouping:
            return False
        for unit in self.units:
            unit.g = unit.gradient
        if params is self.given[0] and grads is self.given[1] and names is self.given[2]:
            return _same(params, self.items[0]) and _same(grads, self.items[1])
        keys = list(range(len(params)) if names is None else names)
        return (
            keys == self.items[2] and _same(params, self.items[0]) and _same(grads, self.items[1])
        )


def _same(arrays: Sequence[Any], others: list[np.ndarray]) -> bool:
    return len(arrays) == len(others) and all(map(operator.is_, arrays, others))


def make_units(
    params: list[np.ndarray],
    grads: list[np.ndarray],
    names: list[Hashable],
    decays: list[bool],
    memory: dict[Hashable, Slots],
    group: bool,
) -> list[Unit]:
    """The units of some parameters; adjacent ones become one unit, if `group`."""
    units = []
    start = 0
    while start < len(params):
        stop = start + 1
        while (
            group
            and stop < len(params)
            and decays[stop] == decays[start]
            and memory[names[stop]].keys() == memory[names[start]].keys()
            and _follows(params[stop - 1], params[stop])
            and _follows(grads[stop - 1], grads[stop])
        ):
            stop += 1
        units.append(_unit(params, grads, names, decays[start], memory, range(start, stop), group))
        start = stop
    return units


def _follows(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether an array begins where another one ends, in the same memory."""
    return (
        one.base is not None
        and one.base is other.base
        and one.dtype == other.dtype == one.base.dtype
        and one.flags.c_contiguous
        and other.flags.c_contiguous
        and one.ctypes.data + one.nbytes == other.ctypes.data
    )


def _unit(
    params: list[np.ndarray],
    grads: list[np.ndarray],
    names: list[Hashable],
    decays: bool,
    memory: dict[Hashable, Slots],
    places: range,
    group: bool,
) -> Unit:
    first = places[0]
    if len(places) == 1:
        p, g, slots = params[first], grads[first], memory[names[first]]
        arrays = (p, g, *slots.values())
        parts = [(slots, slice(None), p.shape)]
        if not group:  # a user's step, which may depend on shapes
            return Unit(p, g, slots, decays, parts)
        if all(a.flags.c_contiguous for a in arrays):
            flat = {name: slot.reshape(-1) for name, slot in slots.items()}  # views
            return Unit(p.reshape(-1), g.reshape(-1), flat, decays, parts)
        return Unit(p, g, dict(slots), decays, parts)
    p, g = (_span([arrays[i] for i in places]) for arrays in (params, grads))
    slots, parts, end = {}, [], 0
    for i in places:
        begin, end = end, end + params[i].size
        parts.append((memory[names[i]], slice(begin, end), params[i].shape))
    for name in memory[names[first]]:
        whole = slots[name] = np.empty_like(p)
        for own, place, shape in parts:
            whole[place] = own[name].reshape(-1)
            own[name] = whole[place].reshape(shape)
    return Unit(p, g, slots, decays, parts)


def _span(arrays: list[np.ndarray]) -> np.ndarray:
    """The part of the common memory that adjacent arrays cover, a view."""
    base: Any = arrays[0].base
    flat = base.reshape(-1)
    start = (arrays[0].ctypes.data - flat.ctypes.data) // flat.itemsize
    return flat[start : start + sum(array.size for array in arrays)]
