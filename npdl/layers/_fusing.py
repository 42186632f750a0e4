"""Fused layers: a sum or a normalization that also runs the activation behind it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._dtype import FLOATS
from npdl._ext import kernels
from npdl._ext.activation_np import LINEAR
from npdl.activations import KernelCode
from npdl.layers.step import Step

IDENTITY: KernelCode = (LINEAR, 1.0)


def add_arrays(a: NDArray, b: NDArray, out: NDArray, act: KernelCode = IDENTITY) -> None:
    """``out = act(a + b)``; `out` may be one of the two, and they may be broadcast."""
    known = a.dtype == b.dtype == out.dtype and a.dtype in FLOATS and a.shape == b.shape
    if known and a.flags.c_contiguous and b.flags.c_contiguous and out.flags.c_contiguous:
        kernels().add_forward(a.reshape(-1), b.reshape(-1), out.reshape(-1), act)
        return
    np.add(a, b, out=out)
    if act[0] != LINEAR:
        kernels().activation_forward(out.reshape(-1).copy(), out.reshape(-1), act)


def are_replaced(layer: Any) -> bool:
    """Whether a user replaced `forward` or `backward` of a layer or of its follower."""
    return _is_patched(layer) or (layer.follower is not None and _is_patched(layer.follower))


def _is_patched(layer: Any) -> bool:
    own, kind = vars(layer), layer.__class__
    if "forward" in own or "backward" in own:
        return True
    return _is_patched_class(kind, kind.forward, kind.backward)


@functools.lru_cache(1024)
def _is_patched_class(kind: type, *methods: Any) -> bool:
    """Whether a class is npdl's, but one of these methods of it is not."""
    ours = [getattr(one, "__globals__", {}).get("__name__", "") for one in methods]
    return kind.__module__.startswith("npdl.") and not all(s.startswith("npdl.") for s in ours)


def pairs(
    steps: Sequence[Step],
    repeated: Sequence[Step],
    kept: Collection[int],
    fit: Callable[[Step, Step], bool],
) -> dict[int, Step]:
    """The step behind each step of a plan that can run it too, by the id of the latter.

    Nothing else may read the value between them.

    Parameters
    ----------
    steps : sequence of Step
    repeated : sequence of Step
        Steps that share a layer with an earlier one.
    kept : collection of int
        The slots that are read outside the plan.
    fit : function
        Tells of two steps whether they can run as one.
    """
    readers = Counter(slot for step in steps for slot in step.sources)
    makers = {slot: step for step in steps for slot in step.targets}
    found = {}
    for step in steps:
        slot = step.sources[0]
        before = makers.get(slot)
        if (
            before is not None
            and len(step.sources) == readers[slot] == len(before.targets) == 1
            and slot not in kept
            and not any(one is step or one is before for one in repeated)
            and fit(before, step)
        ):
            found[id(before)] = step
    return found


def joined(
    steps: Sequence[Step], behind: dict[int, Step], join: Callable[[Step, Step], Any]
) -> list[Step]:
    """The steps of a plan, where each pair of `pairs` is one, of the layer that `join` returns."""
    done = {id(step) for step in behind.values()}
    found = []
    for step in steps:
        last = behind.get(id(step))
        if last is not None:
            found.append(Step(join(step, last), step.sources, last.targets, last.shapes))
            found[-1].free = step.free
        elif id(step) not in done:
            found.append(step)
    return found
