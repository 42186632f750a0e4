"""The layers of a model of Keras, called one after the other on symbolic values of npdl."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from npdl import layers
from npdl._checks import error_message
from npdl.convert._arrays import Image, arrays_for, put
from npdl.convert._files import Weights
from npdl.convert._table import KINDS, Options, freeze
from npdl.layers.node import Input, Value
from npdl.model import Model

#: How deeply models may be nested.
_MAX_DEPTH = 16
_MODELS = ("Sequential", "Functional", "Model")
#: The names of `a + b` and similar operations in Keras's files.
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
#: Operations that make masks, which npdl's layers pass on by themselves.
_MASKS = ("NotEqual", "Any")


class Symbol(NamedTuple):
    """A value, and the layout of its numbers.

    Attributes
    ----------
    value : Value
    image : bool
        Whether it has the channels first, which Keras has last.
    flat : tuple, optional
        The shape (C, H, W) of the image that was flattened.
    """

    value: Value
    image: bool = False
    flat: Image | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim


class Mask(NamedTuple):
    """A mask of steps that Keras computes from a value."""

    source: Any


Ref = tuple[str, int, int]


class Builder:
    """Builds a model of npdl from a configuration of Keras, and reads its weights."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._names: set[str] = set()
        self._made: dict[str, layers.Layer] = {}
        self._chain: list[layers.Layer] | None = []

    def model(self, config: Any) -> Model:
        """The model of a file."""
        kind, inner = _class_of(config)
        if kind not in _MODELS:
            rule = "Only Sequential and functional models can be built from their file"
            raise ValueError(error_message(rule, model=kind))
        if kind == "Sequential":
            entries = _entries(inner)
            if not entries or entries[0]["class_name"] != "InputLayer":
                raise ValueError("The model in it was never built, and has no weights")
            start = self._input(entries[0])
            end = self._sequential(inner, "", [start], 0)[0]
            output = self._returned(end)
            if self._chain is None:
                return Model(start.value, output)
            model = Model(self._chain)
            model.build(start.value.shape)
            return model
        self._chain = None
        return self._functional_model(inner)

    def _returned(self, symbol: Symbol) -> Value:
        """An output of the model: an image has its channels first, all else is as in Keras."""
        return self._image(symbol).value

    def _functional_model(self, config: dict[str, Any]) -> Model:
        inputs: dict[str, Symbol] = {}
        for entry in _entries(config):
            if entry["class_name"] == "InputLayer":
                inputs[entry["name"]] = self._input(entry)
        ins = [inputs[ref[0]] for ref in _refs(config["input_layers"])]
        outs = [self._returned(s) for s in self._functional(config, "", ins, 0)]
        names = config["output_layers"]
        if isinstance(names, dict):
            return Model([s.value for s in ins], dict(zip(names, outs)))
        one_in, one_out = len(ins) == 1, len(outs) == 1
        return Model(
            ins[0].value if one_in else [s.value for s in ins], outs[0] if one_out else outs
        )

    def _input(self, entry: dict[str, Any]) -> Symbol:
        config = entry["config"]
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        sizes = isinstance(shape, list) and len(shape) > 1
        if not sizes or config.get("sparse") or config.get("ragged"):
            rule = "An input must be a dense array with an axis of samples"
            raise ValueError(error_message(rule, layer=entry["name"], shape=shape))
        sample = shape[1:]
        if len(sample) == 3:  # an image: channels first
            sample = [sample[2], sample[0], sample[1]]
        value = Input(sample, name=entry["name"])
        return Symbol(value, image=len(sample) == 3)

    # ------------------------------------------------------------------------------- two kinds

    def _sequential(
        self, config: dict[str, Any], path: str, inputs: list[Symbol], depth: int
    ) -> list[Any]:
        counter = _Counter(path)
        (current,) = inputs
        for entry in _entries(config):
            place = counter.place(entry)
            if entry["class_name"] != "InputLayer":
                outputs = self._call(entry, place, [current], None, depth)
                if len(outputs) != 1:
                    rule = "A layer of a Sequential model must have one output"
                    raise ValueError(error_message(rule, layer=entry["name"]))
                current = outputs[0]
        return [current]

    def _functional(
        self, config: dict[str, Any], path: str, inputs: list[Symbol], depth: int
    ) -> list[Any]:
        counter = _Counter(path)
        known: dict[Ref, Any] = {}
        waiting: list[tuple[dict[str, Any], str, int, dict[str, Any]]] = []
        for entry in _entries(config):
            place = counter.place(entry)
            nodes = entry.get("inbound_nodes") or []
            waiting += [(entry, place, number, node) for number, node in enumerate(nodes)]
        for ref, symbol in zip(_refs(config["input_layers"]), inputs, strict=True):
            known[ref] = symbol
        masked = self._masked(waiting)
        while waiting:
            later = []
            for item in waiting:
                entry, place, number, node = item
                args, kwargs = node["args"], node["kwargs"]
                if not all(ref in known for ref in _tensors([args, kwargs])):
                    later.append(item)
                    continue
                outputs = self._node(entry, place, args, kwargs, known, masked, depth)
                for i, output in enumerate(outputs):
                    known[entry["name"], number, i] = output
            if len(later) == len(waiting):
                rule = "The calls of its layers must lead from the inputs to the outputs"
                raise ValueError(error_message(rule, layer=later[0][0]["name"]))
            waiting = later
        return [known[ref] for ref in _refs(config["output_layers"])]

    @staticmethod
    def _masked(calls: Any) -> set[Ref]:
        """The values that layers make masks of."""
        found: set[Ref] = set()
        for entry, _, _, node in calls:
            zero = entry["class_name"] == "Embedding" and entry["config"].get("mask_zero")
            if zero or entry["class_name"] == "Masking":
                found.update(_tensors(node["args"]))
        return found

    def _node(
        self,
        entry: dict[str, Any],
        place: str,
        args: Any,
        kwargs: Any,
        known: dict[Ref, Any],
        masked: set[Ref],
        depth: int,
    ) -> list[Any]:
        """The result of a call of a layer or an operation."""
        name, kind = entry["name"], entry["class_name"]
        refs = _tensors(args)
        if kind in ("Attention", "AdditiveAttention", "MultiHeadAttention"):
            parts = ("query", "value", "key")
            refs += [ref for part in parts for ref in _tensors(kwargs.get(part))]
            refs += refs[1:] if len(refs) == 2 else []  # the key is the value: all calls are alike
            causal = bool(kwargs.get("use_causal_mask"))
            entry = {**entry, "config": {**entry["config"], "causal": causal}}
            kwargs = {k: v for k, v in kwargs.items() if k not in (*parts, "use_causal_mask")}
        inputs = [known[ref] for ref in refs]
        operation = str(entry.get("module", "")).startswith("keras.src.ops")
        if operation and kind in _MASKS:
            source = inputs[0].source if isinstance(inputs[0], Mask) else refs[0]
            return [Mask(source)]
        state = None
        for option, value in kwargs.items():
            tensors = [known[ref] for ref in _tensors(value)]
            if option == "initial_state" and tensors:
                state = [self._same(symbol).value for symbol in tensors]
            elif option == "mask" and all(
                isinstance(t, Mask) and t.source in masked for t in tensors
            ):
                continue
            elif tensors or (option not in ("training",) and value not in (None, False, {}, [])):
                rule = f"npdl can't call Keras's {kind} with `{option}`"
                raise ValueError(error_message(rule, layer=name, **{option: value}))
        if any(isinstance(symbol, Mask) for symbol in inputs) or not inputs:
            rule = f"npdl can't call Keras's {kind} on a mask, or on nothing"
            raise ValueError(error_message(rule, layer=name, inputs=len(inputs)))
        if operation:
            if kind not in _OPERATIONS or len(inputs) != 2 or len(_leaves(args)) != 2:
                rule = "Of Keras's operations only +, -, *, maximum and minimum of two values"
                raise ValueError(error_message(f"{rule} can be built", layer=name, operation=kind))
            entry = {**entry, "config": {"name": name}}
        outputs = self._call(entry, place, inputs, state, depth)
        return [*map(self._unmasked, outputs)] if operation else outputs

    def _unmasked(self, symbol: Symbol) -> Symbol:
        """A value without its mask, as Keras's operations return it; its layers hand masks on."""
        if symbol.ndim != 3 or not any(layer.makes_mask for layer in self._made.values()):
            return symbol
        steps, size = (symbol.value.shape[axis] or -1 for axis in (1, 2))
        return symbol._replace(value=self._inserted(layers.Reshape((steps, size)), symbol.value))

    # ------------------------------------------------------------------------------- one layer

    def _call(
        self, entry: dict[str, Any], path: str, inputs: list[Symbol], state: Any, depth: int
    ) -> list[Symbol]:
        kind = entry["class_name"]
        if kind in _MODELS:
            if depth == _MAX_DEPTH:
                raise ValueError(f"There are models in models, more than {_MAX_DEPTH} deep")
            inside = self._sequential if kind == "Sequential" else self._functional
            if kind != "Sequential":
                self._chain = None
            return inside(entry["config"], path, inputs, depth + 1)
        if kind not in KINDS:
            raise ValueError(
                f"npdl has no counterpart of Keras's layer {kind} (layer {entry['name']!r})"
            )
        style = KINDS[kind].on
        if kind == "Flatten" and inputs[0].image:
            return [self._flattened(entry, path, inputs[0])]
        layer = self._made.get(path)
        if layer is None:
            options = Options(kind, entry["config"], inputs[0].ndim)
            layer = _made(kind, options)
            layer.name = self._free(options.name)
        else:
            self._chain = None  # shared
            if getattr(layer, "causal", False) != entry["config"].get("causal", False):
                rule = "All calls of a layer must have the same `use_causal_mask`"
                raise ValueError(error_message(rule, layer=entry["name"]))
        flat = None
        rows = isinstance(layer, layers.Activation) and "axis" in vars(layer.activation)
        if style == "image" or (kind == "BatchNormalization" and inputs[0].ndim == 4):
            inputs = [self._image(s) if s.ndim == 4 else self._same(s) for s in inputs]
        elif style == "merge":
            inputs = [self._image(s) if s.ndim == 4 else self._same(s) for s in inputs]
        elif style == "any" and not rows:
            flat = inputs[0].flat
        elif kind == "Dense":
            inputs = [s if s.flat else self._same(s) for s in inputs]
        else:
            inputs = [self._same(s) for s in inputs]
        image = inputs[0].image
        order = inputs[0].flat
        if self._chain is not None:
            self._chain.append(layer)
        values = [s.value for s in inputs]
        output = layer(*values, initial_state=state) if state else layer(*values)
        if path not in self._made:
            self._made[path] = layer
            freeze(layer)
            put(arrays_for(layer, self._weights, path, order))
            if entry["config"].get("trainable", True) is False:
                layer.trainable = False
        outputs = output if isinstance(output, tuple) else (output,)
        return [Symbol(v, image and v.ndim == 4, flat) for v in outputs]

    def _flattened(self, entry: dict[str, Any], path: str, symbol: Symbol) -> Symbol:
        """Flatten an image as npdl does; `flat` records the order where it matters."""
        options = Options("Flatten", entry["config"], 4)
        KINDS["Flatten"].make(options)
        options.finish()
        if None in symbol.value.shape[1:]:
            symbol = self._same(symbol)
        c, h, w = symbol.value.shape[1:]
        layer = self._made.get(path)
        if layer is None:
            layer = self._made[path] = layers.Flatten()
            layer.name = self._free(options.name)
        else:
            self._chain = None
        image = (c, h, w) if symbol.image and c and h and w else None
        return Symbol(self._inserted(layer, symbol.value), flat=image)

    def _free(self, name: str) -> str:
        """A name that no other layer has."""
        found, number = name, 1
        while found in self._names:
            number += 1
            found = f"{name}_{number}"
        self._names.add(found)
        return found

    # ----------------------------------------------------------------------------------- order

    def _inserted(self, layer: layers.Layer, value: Value) -> Value:
        if self._chain is not None:
            self._chain.append(layer)
        return layer(value)

    def _same(self, symbol: Symbol) -> Symbol:
        """The value with its axes, and its numbers, as Keras has them."""
        value = symbol.value
        if symbol.flat is not None:
            value = self._inserted(layers.Reshape(symbol.flat), value)
            value = self._inserted(layers.Permute((2, 3, 1)), value)
            value = self._inserted(layers.Flatten(), value)
        elif symbol.image:
            value = self._inserted(layers.Permute((2, 3, 1)), value)
        return Symbol(value)

    def _image(self, symbol: Symbol) -> Symbol:
        """The value with the channels first."""
        if symbol.image or symbol.ndim != 4:
            return self._same(symbol) if symbol.flat else symbol
        return Symbol(self._inserted(layers.Permute((3, 1, 2)), symbol.value), image=True)


def _made(kind: str, options: Options) -> layers.Layer:
    """The layer; an error names that of Keras."""
    try:
        layer = KINDS[kind].make(options)
        options.finish()
    except (ValueError, TypeError, LookupError) as error:
        if repr(options.name) in str(error):
            raise
        text = str(error) if isinstance(error, ValueError | TypeError) else repr(error)
        raise ValueError(f"{text} ({kind} {options.name!r} of Keras)") from error
    return layer


class _Counter:
    """Keras's names of groups: of the class, numbered."""

    def __init__(self, path: str) -> None:
        self._prefix = f"{path}/layers" if path else "layers"
        self._counts: dict[str, int] = {}

    def place(self, entry: dict[str, Any]) -> str:
        """The path of the next layer."""
        if str(entry.get("module", "")).startswith("keras.src.ops"):
            return f"{self._prefix}/(operation {entry['name']})"
        group = group_name(entry["class_name"])
        count = self._counts[group] = self._counts.get(group, -1) + 1
        return f"{self._prefix}/{group}_{count}" if count else f"{self._prefix}/{group}"


def group_name(kind: str) -> str:
    """Keras's snake case: Conv2D is conv2d, SimpleRNN simple_rnn, PReLU p_re_lu."""
    text = re.sub(r"\W+", "", kind)
    text = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", text)
    return re.sub("([a-z])([A-Z])", r"\1_\2", text).lower()


def _class_of(config: Any) -> tuple[str, dict[str, Any]]:
    kind, inner = config.get("class_name"), config.get("config")
    if not isinstance(kind, str) or not isinstance(inner, dict):
        raise ValueError(error_message("It must have a class and a configuration", found=kind))
    return kind, inner


def _entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a model, checked so far that each has a class, a name and a configuration."""
    entries = config.get("layers")
    if not isinstance(entries, list):
        raise ValueError("A model must have a list of layers")
    names: set[str] = set()
    found = []
    for entry in entries:
        inner = _class_of(entry)[1] if isinstance(entry, dict) else {}
        name = entry.get("name", inner.get("name")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in names:
            raise ValueError(error_message("Each layer must have a name of its own", name=name))
        names.add(name)
        found.append({**entry, "name": name})
    return found


def _leaves(tree: Any) -> list[Any]:
    """The items of nested lists."""
    if isinstance(tree, list):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree]


def _tensors(tree: Any) -> list[Ref]:
    """The references to values of the graph in the arguments of a call."""
    if isinstance(tree, list):
        return [ref for item in tree for ref in _tensors(item)]
    if isinstance(tree, dict):
        if tree.get("class_name") == "__keras_tensor__":
            return [_ref(tree["config"]["keras_history"])]
        return [ref for item in tree.values() for ref in _tensors(item)]
    return []


def _ref(found: Any) -> Ref:
    if not (isinstance(found, list) and len(found) == 3 and isinstance(found[0], str)):
        raise ValueError(
            error_message("A reference must be [layer, call, output]", reference=found)
        )
    name, call, output = found
    if type(call) is not int or type(output) is not int:
        raise ValueError(
            error_message("A reference must be [layer, call, output]", reference=found)
        )
    return name, call, output


def _refs(tree: Any) -> list[Ref]:
    """References to inputs or outputs, in a list or a dict, or one by itself."""
    if isinstance(tree, dict):
        return [ref for item in tree.values() for ref in _refs(item)]
    if isinstance(tree, list) and len(tree) == 3 and isinstance(tree[0], str):
        return [_ref(tree)]
    if not isinstance(tree, list):
        raise ValueError(error_message("A reference must be [layer, call, output]", reference=tree))
    return [ref for item in tree for ref in _refs(item)]
