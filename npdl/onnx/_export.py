"""Writing a model as an ONNX file."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import onnx

from npdl import _tree
from npdl._checks import error_message
from npdl._files import StrPath, atomic_write
from npdl._version import __version__
from npdl.layers.node import Value
from npdl.layers.plan import Plan
from npdl.onnx._graph import Graph, Tensor
from npdl.onnx._layers import int_inputs, run
from npdl.serialization import model_config

#: The opset: old enough for all current runtimes, new enough for npdl's layers.
OPSET, IR = 17, 8

#: The largest file that protobuf can hold.
_MOST = 2**31 - 1


def export_onnx(model: Any, path: StrPath, *, masks: bool | Sequence[str] = False) -> None:
    """Write a model as an ONNX file, for ONNX Runtime and other programs.

    The file computes what `Model.predict` does, in float32, for any number of samples, and of
    steps where the layers take any. Inputs that are looked up in a table are int64. Masks that
    `Masking` and ``Embedding(mask_zero=True)`` make are part of the file; for those that are passed
    along with the data see `masks`.

    Parameters
    ----------
    model : Model
        Built; see `Model.build`.
    path : path
        The exact name of the file; ``.onnx`` is the usual suffix.
    masks : bool or sequence of str, optional
        The inputs that come with a mask: their names, or True for all that are sequences. The file
        gets an input more for each, ``"<name>_mask"``: float32 of shape (N, T), 1 for a real step.

    Raises
    ------
    ValueError
        If a layer has no form in ONNX: one of your own, a `Lambda`, a stateful one, an activation
        that no recurrent node has. The message names it, and nothing is written. If `masks` names
        what is no sequence.
    """
    data = to_onnx(model, masks).SerializeToString()
    with atomic_write(path) as file:
        file.write(data)


def to_onnx(model: Any, masks: bool | Sequence[str] = False) -> Any:
    """The ``onnx.ModelProto`` of a model; see `export_onnx`."""
    plan = model.require_plan("export_onnx")
    size = sum(4 * array.size for array in model.weights.values())
    if size > _MOST - 2**20:
        raise ValueError(
            error_message("A model must be smaller than 2 GB for an ONNX file", size=size)
        )
    plan = _any_length(plan)
    g = Graph(onnx)
    names, ints = model.input_names, int_inputs(plan)
    inputs = [
        Tensor(name, shape, None, i in ints)
        for i, (name, shape) in enumerate(zip(names, plan.in_shapes))
    ]
    masked = _masked(inputs, masks)
    marks = [Tensor(f"{x.name}_mask", x.shape[:2]) if x.name in masked else None for x in inputs]
    inputs = [x._replace(mask=mark and mark.name) for x, mark in zip(inputs, marks)]
    paths = {id(layer): f"{name}/" for name, layer in zip(model.layer_names, model.layers)}
    outputs = run(g, plan, paths, inputs)
    out_names = _apart(model.output_names, names)
    for y, name in zip(outputs, out_names):
        g.nodes.append(onnx.helper.make_node("Identity", [y.name], [name], name=name))
    kinds = onnx.TensorProto
    graph = onnx.helper.make_graph(
        g.nodes,
        model.name or "npdl",
        [
            *(_info(x, kinds.INT64 if x.ints else kinds.FLOAT, len(inputs) > 1) for x in inputs),
            *(_info(mark, kinds.FLOAT, len(inputs) > 1) for mark in marks if mark is not None),
        ],
        [
            _info(y._replace(name=name), kinds.INT64 if y.ints else kinds.FLOAT, len(outputs) > 1)
            for y, name in zip(outputs, out_names)
        ],
        [onnx.numpy_helper.from_array(array, name) for name, array in g.initializers.items()],
    )
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR)
    made.producer_name, made.producer_version = "npdl", __version__
    config = _config(model)
    if config is not None:
        onnx.helper.set_model_props(made, {"npdl.model": config})
    return made


def _config(model: Any) -> str | None:
    """The configuration for `import_onnx`; None if a file can't hold it."""
    plain = copy.copy(model)
    plain.compiled = False
    try:
        config = model_config(plain, lambda layer: layer.saved_config())
        config["frozen"] = [name for name, _, trained in model.named_arrays() if not trained]
        arrays: dict[str, Any] = {}
        tree = _tree.pack(config, "config", arrays)
    except (TypeError, ValueError):  # an initializer of the user's own, say
        return None
    return None if arrays else json.dumps(tree, allow_nan=False, separators=(",", ":"))


def _any_length(plan: Plan) -> Plan:
    """The plan with sequences of any length, where the layers take them."""
    ints = int_inputs(plan)
    entries = [
        Value(
            (shape[0], None, *shape[2:])
            if len(shape) == 3 or (i in ints and len(shape) == 2)
            else shape
        )
        for i, shape in enumerate(plan.in_shapes)
    ]
    try:
        return plan.rewired(entries)
    except ValueError:
        return plan


def _masked(inputs: list[Tensor], masks: bool | Sequence[str]) -> set[str]:
    """The names of the inputs that come with a mask."""
    sequences = {x.name for x in inputs if x.ndim == 3 or (x.ints and x.ndim == 2)}
    if isinstance(masks, bool):
        return sequences if masks else set()
    wanted = {masks} if isinstance(masks, str) else {*masks}
    if not wanted <= sequences:
        rule = f"`masks` must be names of inputs that are sequences: {', '.join(sorted(sequences))}"
        raise ValueError(error_message(rule, masks=masks))
    return wanted


def _apart(names: list[str], taken: list[str]) -> list[str]:
    """Names of outputs that no input has."""
    return [f"{name}_out" if name in taken else name for name in names]


def _info(x: Tensor, kind: int, several: bool) -> Any:
    sizes: list[Any] = []
    for axis, size in enumerate(x.shape):
        open_name = "time" if axis == 1 and not several else f"{x.name}_{axis}"
        sizes.append(size if size is not None else open_name if axis else "batch")
    return onnx.helper.make_tensor_value_info(x.name, kind, sizes)
