"""Level 2: predictions of a model whose weights stay the same.

After some calls of `predict` with inputs of one shape, a model of many small layers makes a
snapshot of itself (`npdl.predictor`), which answers the later calls: its weights are packed once,
and no Python runs between the layers. Before each call, the weights are compared with those of the
snapshot, byte by byte, and the attributes of the layers with what they were. The first difference
ends it. The bits are those of the layers either way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from npdl._ext import kernels
from npdl.layers.plan import Plan
from npdl.layers.tree import every_layer
from npdl.replay import METHODS, PASSING

if TYPE_CHECKING:
    from npdl.predictor import Predictor

#: The calls before a snapshot is made; twice as many after each change that made one useless.
FIRST, LONGEST = 8, 1024
#: Bytes of arrays, per layer, up to which comparing them costs less than running the layers one by
#: one.
MOST = 1 << 14
#: Bytes of an input above which no snapshot is made: the layers take much longer than Python
#: between them, and a predictor first runs them several times.
LARGEST = 1 << 18
#: The most shapes that are counted.
SHAPES = 64
#: Attributes of layers that have no effect on predictions.
_WITHOUT_EFFECT = PASSING | {"follower", "need_input_grad", "was_trained"}


class Repeats:
    """The repeated predictions of a model.

    Parameters
    ----------
    plan : Plan
        The plan of the model; where it gets another one, it needs another of these objects.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        #: How often each shape was predicted, and how often is often enough.
        self._counts: dict[Any, int] = {}
        self._enough = FIRST
        #: The snapshot, and the watch over what it was made of.
        self._made: tuple[Predictor, Any] | None = None
        #: Whether a snapshot may help.
        self._pays = True

    def __reduce__(self) -> Any:
        return Repeats, (self.plan,)  # a watch holds addresses

    def predict(self, model: Any, x: NDArray) -> Any:
        """The output of a network of one input and one output; None if the layers have to run."""
        if not self._pays or not 0 < x.nbytes <= LARGEST or not kernels().ready:
            return None
        made = self._made
        if made is not None and not made[1].same():
            return self._drop()
        key = x.shape, x.dtype.char
        count = self._counts.get(key, 0)
        if count < self._enough:
            if count or len(self._counts) < SHAPES:
                self._counts[key] = count + 1
            return None
        if made is None:
            self._pays = _pays(self.plan)
            made = self._made = _snapshot(model, self.plan) if self._pays else None
        return self._drop() if made is None else made[0](x)

    def _drop(self) -> None:
        """Let go of the snapshot, and wait longer for the next one."""
        self._made, self._counts = None, {}
        self._enough = min(2 * self._enough, LONGEST)


def _pays(plan: Plan) -> bool:
    """Whether a snapshot is small and, most likely, one call of compiled code."""
    from npdl.program import is_compiled

    arrays = _arrays(plan)
    most = MOST * sum(1 for _ in every_layer(plan.layers))
    return (
        len(plan.in_shapes) == len(plan.out_slots) == 1
        and not plan.makes_masks
        and all(map(is_compiled, plan.layers))
        and all(array.flags.c_contiguous for array in arrays)
        and 0 < sum(array.nbytes for array in arrays) <= most
    )


def _snapshot(model: Any, plan: Plan) -> tuple[Predictor, Any] | None:
    """A snapshot and its watch; None if something has changed meanwhile."""
    from npdl.predictor import Predictor

    before = _watch(plan, plan)
    snapshot = Predictor(model)
    watch = _watch(plan, snapshot.plan)
    return (snapshot, watch) if before.same() and watch.same() else None


def _arrays(plan: Plan) -> list[NDArray]:
    layers = every_layer(plan.layers)
    return [p.value for one in layers for p in one._parameters_by_name.values()]


def _watch(plan: Plan, copied: Plan) -> Any:
    """A watch over the layers of a plan and their arrays, of which there are copies."""
    attributes: list[tuple[Any, str]] = [(plan, "watched")]
    dicts: list[tuple[dict[str, Any], frozenset[str]]] = []
    for layer in every_layer(plan.layers):
        attributes += [(type(layer), name) for name in METHODS if hasattr(type(layer), name)]
        attributes += [(p, "value") for p in layer._parameters_by_name.values()]
        own = vars(layer)
        dicts.append((own, _WITHOUT_EFFECT))
        for name in ("activation", "gate_activation"):
            if own.get(name) is not None:
                dicts.append((vars(own[name]), PASSING))
    pairs = [*zip(_arrays(plan), _arrays(copied), strict=True)]
    return importlib.import_module("npdl._ext.tape").Watch(attributes, dicts, pairs)
