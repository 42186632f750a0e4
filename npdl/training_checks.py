"""Level 2: warnings about what goes wrong during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import warn
from npdl.batch import Batch
from npdl.layers.tree import every_layer
from npdl.trainer import Trainer


class LossCheck:
    """Warns once if a loss is not finite, or if outputs are not probabilities."""

    def __init__(self) -> None:
        self.epoch = 0
        self._warned = False
        self._looked = False

    def look_at(self, model: Trainer, outputs: Sequence[NDArray]) -> None:
        """Warn if the loss takes probabilities, and outputs of the first batch are not."""
        if self._looked:
            return
        self._looked = True
        for head in model.heads:
            p = outputs[head.index]
            if not getattr(head.loss, "takes_probabilities", False):
                continue
            outside = (p < -1e-6) | (p > 1 + 1e-6)
            if outside.any():
                warn(
                    f"{type(head.loss).__name__} takes probabilities, but outputs lie outside of "
                    f"[0, 1], such as {p[outside][0].item():.3g}, and have no gradient there. End "
                    "the network with a softmax or sigmoid, or use from_logits=True."
                )
                return

    def check(self, model: Trainer, batch: Batch, loss: float) -> None:
        """Warn if `loss`, that of the batch before the update, is nan or inf."""
        if self._warned or math.isfinite(loss):
            return
        self._warned = True
        data = _not_finite(model, batch)
        if data is not None:
            warn(f"The loss is {loss} in epoch {self.epoch}: {data}.")
            return
        warn(
            f"The loss is {loss} in epoch {self.epoch}: {_first_not_finite(model, batch)}. A lower "
            "learning rate, clipped gradients (clip=1.0) or scaled inputs may help."
        )


def _not_finite(model: Trainer, batch: Batch) -> str | None:
    """The part of the data that is not finite, as a message; masked steps may hold anything."""
    names: list[Any] = [("X", name, array) for name, array in zip(model.input_names, batch.x)]
    names += [("Y", name, array) for name, array in zip(model.output_names, batch.y)]
    names += [
        ("sample_weight", name, array) for name, array in zip(model.output_names, batch.weight)
    ]
    masks = [mask for mask in batch.mask if mask is not None]
    for what, name, array in names:
        if array is None:
            continue
        if what != "X" and masks and masks[0].shape == array.shape[:2]:
            array = array[masks[0] != 0]
        if not np.isfinite(array).all():
            several = len(batch.x) > 1 if what == "X" else len(batch.y) > 1
            what += f"[{name!r}]" if several else ""
            return f"{what}{' itself' if what == 'X' else ''} holds values that are not finite"
    return None


def _first_not_finite(model: Trainer, batch: Batch) -> str:
    """The name of the first layer whose output is not finite, as a message."""
    for layer, output in model.require_plan("fit").trace(batch.x, batch.mask or None):
        outputs = output if isinstance(output, tuple) else (output,)
        if not all(np.isfinite(y).all() for y in outputs):
            return f"layer {layer.name!r} is the first whose output is not finite"
    losses = ", ".join(type(head.loss).__name__ for head in model.heads)
    return f"the outputs of all layers are finite, the loss {losses} is not"


class GradientCheck:
    """Warns about parameters of a user's own layers that no gradient reaches.

    Parameters
    ----------
    model : Trainer
        As it is before the first epoch.
    """

    def __init__(self, model: Trainer) -> None:
        plan = model.require_plan("fit")
        reached = plan.reached(head.index for head in model.heads)
        layers = every_layer(layer for layer in plan.layers if id(layer) in reached)
        own = [layer for layer in layers if not type(layer).__module__.startswith("npdl.")]
        self._before = [
            (layer, name, parameter, parameter.value.copy())
            for layer in own
            for name, parameter in layer._parameters_by_name.items()
            if parameter.trainable
        ]

    def check(self) -> None:
        """Warn if a gradient is 0 after the first epoch, and its parameter is unchanged."""
        for layer, name, parameter, before in self._before:
            if (
                parameter.trainable
                and not parameter.grad.any()
                and np.array_equal(parameter.value, before)
            ):
                kind = type(layer).__name__
                warn(
                    f"No gradient reached parameter {name!r} of layer {layer.name!r} ({kind}) in "
                    "the first epoch, so it was not trained. `backward` must write its gradient "
                    "to `grad`; npdl.testing.check_layer tests that."
                )
