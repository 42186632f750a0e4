"""A network as a layer of other networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl.layers.base import Layer
from npdl.layers.config import graph_config, graph_values, layer_from
from npdl.layers.node import Node, Value
from npdl.layers.plan import Plan
from npdl.layers.tree import unique_names


class Block(Layer):
    """A layer whose computation is a network of other layers.

    Parameters
    ----------
    layers : list of Layer, optional
        A chain, from input to output.
    plan : Plan, optional, keyword-only
        Or a network of any shape.
    """

    def __init__(self, layers: Sequence[Layer] | None = None, *, plan: Plan | None = None) -> None:
        self._graph = plan
        #: The layers in the order of their first calls.
        self.layers: list[Layer] = list(plan.layers if plan is not None else layers or ())
        self.n_outputs = 1 if plan is None else len(plan.out_slots)
        self._plan: Plan | None = None

    def get_config(self) -> dict[str, Any]:
        """Return the layers, and the calls that connect them, as JSON types."""
        config: dict[str, Any] = {"layers": [layer.nested_config() for layer in self.layers]}
        if self._graph is not None:
            names = unique_names(self.layers)
            ends = [f"input_{i}" for i in range(len(self._graph.in_shapes))]
            outs = [f"output_{i}" for i in range(self.n_outputs)]
            by_layer = dict(zip(self.layers, names))
            config["names"] = names
            config["graph"] = graph_config(self._graph, ends, outs, by_layer)
        return config

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Block:
        """Make a block from what `get_config` returned."""
        layers = [layer_from(entry) for entry in config["layers"]]
        if "graph" not in config:
            return cls(layers)
        by_name = dict(zip(config["names"], layers, strict=True))
        inputs, outputs = graph_values(config["graph"], by_name)
        return cls(plan=Plan([*inputs.values()], [value for _, value in outputs]))

    @property
    def sublayers(self) -> tuple[Layer, ...]:
        """The layers of the network."""
        return tuple(self.layers)

    @property
    def in_shape(self) -> Any:
        """The shape that the first layer of a chain declares."""
        return self.layers[0].declared_shape if self._graph is None and self.layers else None

    def build(self, *in_shapes: Any, **kwargs: Any) -> Any:
        """Connect the layers; those that are built keep their weights."""
        entries = [Value(shape) for shape in in_shapes]
        if self._graph is None:
            values: Sequence[Value] = entries
            for layer in self.layers:
                values = Node(layer, values).outputs
            self._plan = Plan(entries, values)
        else:
            if len(entries) != len(self._graph.in_shapes):
                rule = f"The network takes {len(self._graph.in_shapes)} inputs"
                raise self._error(rule, received=len(entries))
            self._plan = self._graph.rewired(entries)
        shapes = self._plan.out_shapes
        return shapes if self.n_outputs > 1 else shapes[0]

    @property
    def _steps(self) -> Plan:
        if self._plan is None:
            raise self._not_built()
        return self._plan

    def forward(self, *inputs: Any, train: bool = True, mask: Any = None) -> Any:
        """Return the output of the network.

        Parameters
        ----------
        *inputs : array_like
        train : bool
            Whether the layers remember what `backward` needs.
        mask : ndarray, or tuple of ndarray or None, optional
            For each input the mask of its steps.
        """
        masks = mask if isinstance(mask, tuple) else (mask,) * len(inputs)
        return self.forward_masked(inputs, masks, train)[0]

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output and its mask; see `Layer.forward_masked`."""
        outputs, marks = self._steps.forward(inputs, train, masks)
        if train:
            self._cache = (True,)
        return (tuple(outputs), tuple(marks)) if self.n_outputs > 1 else (outputs[0], marks[0])

    def backward(self, pre_grad: Any) -> Any:
        """Return the gradient in the input, a tuple where there are several.

        Parameters
        ----------
        pre_grad : array_like, or tuple of array_like or None
            Gradient in the output.
        """
        self._saved_for_backward()
        grads = tuple(pre_grad) if self.n_outputs > 1 else (np.asarray(pre_grad),)
        found = self._steps.backward(grads)
        return found[0] if len(found) == 1 else tuple(found)

    def begin_training(self, need_input_grad: bool) -> None:
        """Keep arrays from step to step from now on; see `Layer.begin_training`."""
        self.keep_buffers, self.need_input_grad = True, need_input_grad
        self._steps.begin_training(need_input_grad)

    def end_training(self) -> None:
        """Undo `begin_training`; no `backward` can follow."""
        self.keep_buffers, self.need_input_grad, self._cache = False, True, None
        self._steps.end_training()
