"""Layers, and the calls that connect them, as JSON types."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from npdl._checks import error_message
from npdl._registry import Registry, snake_case, to_json_type
from npdl.layers.base import Layer
from npdl.layers.node import Node, Value
from npdl.layers.plan import Plan

#: The classes of npdl's layers; `npdl.layers` fills it.
registry: Registry[Layer] = Registry("layer", Layer)

#: While a network is read: the layers that occur more than once, by their numbers.
_made: ContextVar[dict[int, Layer] | None] = ContextVar("_made", default=None)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Within the block, configurations may refer to layers that were described before."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def layer_from(entry: Any) -> Layer:
    """The layer that `Layer.nested_config` describes; an instance of a layer is returned as it is.

    Raises
    ------
    ValueError
        If the class is unknown, or the entry is not one of a layer.
    """
    if isinstance(entry, Layer):
        return entry
    made = _made.get()
    if isinstance(entry, Mapping) and "same" in entry:
        if made is None or entry["same"] not in made:
            raise ValueError(
                error_message("A layer must be described before it is shared", received=entry)
            )
        return made[entry["same"]]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class"), str):
        raise TypeError(error_message("A layer must be an instance of Layer", received=entry))
    layer = layer_class(entry["class"]).from_json(entry["config"])
    if made is not None and isinstance(entry.get("number"), int):
        made[entry["number"]] = layer
    name = entry.get("name")
    if name is not None:
        give_name(layer, name)
    if not entry.get("trainable", True):
        layer.trainable = False
    return layer


def give_name(layer: Layer, name: Any) -> None:
    """Set the name from a file; other models may renumber a numbered one."""
    if not isinstance(name, str):
        raise ValueError(error_message("The name of a layer must be a string", name=name))
    kind, _, number = name.rpartition("_")
    if number.isdecimal() and kind == snake_case(type(layer).__name__):
        layer._auto_name = name
    else:
        layer.name = name


def layer_class(name: str) -> type[Layer]:
    """The class of layers of this name, npdl's or a custom one.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        cls = registry.find(name)
    except ValueError:
        raise ValueError(
            f"Unknown layer {name!r}. Pass a class of your own as custom_objects={{{name!r}: ...}}"
            ", or register it with npdl.saving.register."
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        raise ValueError(error_message(f"{name!r} must be a class of layers", found=cls))
    return cls


def graph_config(
    plan: Plan, inputs: Sequence[str], outputs: Sequence[str], names: Mapping[Layer, str]
) -> dict[str, Any]:
    """The calls of a graph as JSON types.

    A reference is ``[name, call, output]``: of a layer, which of its calls and which output of it;
    of an input, ``[name, 0, 0]``.
    """
    refs: list[list[Any]] = [[name, 0, 0] for name in inputs]
    counts: dict[Layer, int] = {}
    calls = []
    for step in plan.steps:
        name, call = names[step.owner], counts.get(step.owner, 0)
        counts[step.owner] = call + 1
        calls.append([name, [refs[slot] for slot in step.sources]])
        refs += [[name, call, i] for i in range(len(step.targets))]
    return {
        "inputs": [
            {"name": name, "shape": to_json_type(shape)}
            for name, shape in zip(inputs, plan.in_shapes)
        ],
        "calls": calls,
        "outputs": [[name, *refs[slot]] for name, slot in zip(outputs, plan.out_slots)],
    }


def graph_values(
    config: Mapping[str, Any], layers: Mapping[str, Layer]
) -> tuple[dict[str, Value], list[tuple[str | None, Value]]]:
    """Call layers as `graph_config` has it: inputs by name, and outputs with their names.

    Raises
    ------
    ValueError
        If a reference is to something that is missing, or comes later.
    """
    inputs: dict[str, Value] = {}
    made: dict[tuple[str, int], tuple[Value, ...]] = {}
    for entry in _items(config, "inputs"):
        name, shape = entry["name"], tuple(entry["shape"])
        sizes = all(n is None or (type(n) is int and n > 0) for n in shape)
        if not isinstance(name, str) or name in inputs or name in layers or not (shape and sizes):
            rule = "An input must have a name of its own, and a shape of sizes or null"
            raise ValueError(error_message(rule, name=name, shape=shape))
        inputs[name] = Value(shape, name=name)
        made[name, 0] = (inputs[name],)
    counts: dict[str, int] = {}
    for name, sources in _items(config, "calls"):
        if not isinstance(name, str) or name not in layers:
            raise ValueError(error_message("A call must be of a layer of the model", name=name))
        values = [_referred(made, ref) for ref in sources]
        if not values:
            raise ValueError(error_message("A call must have inputs", name=name))
        call = counts.get(name, 0)
        counts[name] = call + 1
        made[name, call] = Node(layers[name], values).outputs
    outputs = []
    for name, *ref in _items(config, "outputs"):
        if name is not None and not isinstance(name, str):
            raise ValueError(error_message("The name of an output must be a string", name=name))
        outputs.append((name, _referred(made, ref)))
    if not (inputs and outputs):
        raise ValueError("A graph must have inputs and outputs.")
    return inputs, outputs


def _items(config: Mapping[str, Any], key: str) -> list[Any]:
    items = config[key]
    if not isinstance(items, list):
        raise ValueError(error_message(f"{key!r} of a graph must be a list", found=items))
    return items


def _referred(made: Mapping[tuple[str, int], tuple[Value, ...]], ref: Any) -> Value:
    rule = "A reference must be [name, call, output] of an input or of an earlier call"
    if not (isinstance(ref, list) and len(ref) == 3):
        raise ValueError(error_message(rule, reference=ref))
    name, call, index = ref
    known = isinstance(name, str) and type(call) is int and type(index) is int
    found = made.get((name, call)) if known else None
    if found is None or not 0 <= index < len(found):
        raise ValueError(error_message(rule, reference=ref))
    return found[index]
