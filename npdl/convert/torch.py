"""Weights of PyTorch, read from safetensors files without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import _safetensors, layers
from npdl._files import StrPath
from npdl.convert._arrays import Found, put, recurrent_matrix
from npdl.model import Model

Arrays = dict[str, NDArray]

_RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh)_l(\d+)(_reverse)?")


def load_torch_weights(
    model: Model, path: StrPath, *, names: Mapping[str, str] | None = None
) -> None:
    """Read a safetensors file of PyTorch's weights into a model of npdl.

    Such a file is written by ``safetensors.torch.save_file(net.state_dict(), path)``; what
    ``torch.save`` writes is a pickle, which may run code, and is not read. Each module goes to the
    layer with arrays of the same shapes. Where several layers have the same, modules that are
    numbered, as in ``nn.Sequential``, go to them in their order; else `names` must say which is
    which.

    Parameters
    ----------
    model : Model
        Built; see `Model.build`. Nested layers are named by their path: ``bidirectional_1`` is
        enough for both directions.
    path : path
    names : dict of str, optional
        The module in PyTorch by the name of the layer: ``{"dense_2": "decoder.out"}``. Layer k of
        a recurrent module of several is ``"lstm.lk"``.

    Raises
    ------
    ValueError
        If the file is damaged, something does not match or is left over, or the match is ambiguous.
        The message says what; nothing is changed then.
    """
    model.require_plan("load_torch_weights")
    with open(path, "rb") as file:
        first = file.read(4)
    if first[:4] == b"PK\3\4" or first[:1] == b"\x80":
        raise ValueError(
            f"{str(path)!r} is a pickle of torch.save, which may run code and is not read: write "
            "it by safetensors.torch.save_file(net.state_dict(), path)"
        )
    modules = _modules(_safetensors.read(path)[0])
    places = _places(model)
    pairs = _given(places, modules, dict(names or {}))
    for pair in pairs:
        _checked(places, modules, *pair)
    pairs += _matched(
        {name: layer for name, layer in places.items() if name not in dict(pairs)},
        {name: arrays for name, arrays in modules.items() if name not in dict(pairs).values()},
    )
    put([one for pair in pairs for one in _checked(places, modules, *pair)])


def _checked(
    places: Mapping[str, layers.Layer], modules: Mapping[str, Arrays], name: str, module: str
) -> list[Found]:
    """The arrays of a module for the layer of this name, of the right shapes."""
    layer = places[name]
    try:
        turned = _turned(layer, modules[module])
    except ValueError as error:
        raise ValueError(f"Layer {name!r} can't take module {module!r}: {error}") from error
    shapes = _shapes(turned)
    if shapes != _wanted(layer):
        raise ValueError(
            f"Layer {name!r} must get arrays of the shapes {_wanted(layer)}{_hint(layer)}. "
            f"Received: {shapes} (module {module!r})"
        )
    return [(layer, key, array) for key, array in turned.items()]


def _hint(layer: layers.Layer) -> str:
    other = isinstance(layer, layers.GRU) and not layer.reset_after
    return "; PyTorch's GRU is GRU(reset_after=True)" if other else ""


def _places(model: Model) -> dict[str, layers.Layer]:
    """The layers that own parameters, by their path."""
    found: dict[str, layers.Layer] = {}
    waiting = list(zip(model.layer_names, model.layers))[::-1]
    seen: set[int] = set()
    while waiting:
        name, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if layer._parameters_by_name:
            found[name] = layer
        waiting += [(f"{name}/{inner}", sub) for inner, sub in layer.named_sublayers()][::-1]
    return found


def _modules(tensors: Arrays) -> dict[str, Arrays]:
    """The tensors by module; each layer and direction of a recurrent module counts as a module."""
    found: dict[str, Arrays] = {}
    for name in sorted(tensors, key=_natural):
        module, _, key = name.rpartition(".")
        if key == "num_batches_tracked":
            continue
        if tensors[name].dtype.kind != "f":
            rule = f"The tensor {name!r} must hold floats"
            raise ValueError(f"{rule}. Received: dtype={tensors[name].dtype}")
        match = _RECURRENT.fullmatch(key)
        parent = module.removesuffix("out_proj").rstrip(".")
        inner = f"{parent}.in_proj_bias".lstrip("."), f"{parent}.in_proj_weight".lstrip(".")
        if module.endswith("out_proj") and any(one in tensors for one in (*inner, *_apart(parent))):
            module, key = parent, f"out_proj.{key}"
        if match:
            key, way = match[1], ".reverse" if match[3] else ""
            module = f"{module}.l{match[2]}{way}".lstrip(".")
        found.setdefault(module, {})[key] = tensors[name]
    return found


def _apart(module: str) -> list[str]:
    """The names of an attention's projections of inputs whose sizes differ."""
    return [f"{module}.{part}_proj_weight".lstrip(".") for part in "qkv"]


def _natural(name: str) -> list[Any]:
    """A sort key that puts 10 after 2."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name)]


def _given(
    places: Mapping[str, Any], modules: Mapping[str, Arrays], names: dict[str, str]
) -> list[tuple[str, str]]:
    """The pairs that `names` gives."""
    pairs = []
    for name, module in names.items():
        inside = [place for place in places if place == name or place.startswith(f"{name}/")]
        if not inside:
            known = ", ".join(places)
            raise ValueError(f"The model has no layer {name!r} with weights, but: {known}")
        tried = (module, f"{module}.l0")
        found = [m for m in tried if m in modules]
        found += [f"{m}.reverse" for m in tried if f"{m}.reverse" in modules]
        if len(found) != len(inside):
            rule = f"The file must have {len(inside)} modules for layer {name!r}"
            known = ", ".join(modules)
            raise ValueError(f"{rule}. Received: {module!r}; in it are: {known}")
        pairs += list(zip(inside, found))
    return pairs


def _matched(
    places: Mapping[str, layers.Layer], modules: Mapping[str, Arrays]
) -> list[tuple[str, str]]:
    """Pairs of layers and modules whose arrays have the same shapes."""
    waiting: dict[Any, list[str]] = {}
    for name, layer in places.items():
        waiting.setdefault(_signature(layer), []).append(name)
    kinds = {key: next(places[n] for n in names) for key, names in waiting.items()}
    candidates: dict[Any, list[str]] = {key: [] for key in waiting}
    for module, arrays in modules.items():
        fits = [key for key, layer in kinds.items() if _shapes(_try(layer, arrays)) == key[1]]
        if not fits:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(f"No layer of the model takes module {module!r} with {shapes}")
        for key in fits:
            candidates[key].append(module)
    pairs = []
    taken: set[str] = set()
    for key in sorted(waiting, key=lambda key: len(candidates[key])):
        names = waiting[key]
        found = [module for module in candidates[key] if module not in taken]
        if len(found) < len(names):
            left = ", ".join(m for m in modules if m not in taken) or "nothing"
            raise ValueError(
                f"There must be modules for {', '.join(names)} with arrays of the shapes "
                f"{key[1]}{_hint(kinds[key])}. Left are: {left}"
            )
        alike = {re.sub(r"\d+|\.reverse$", "", module) for module in found}
        if len(found) > len(names) or (len(found) > 1 and len(alike) > 1):
            raise ValueError(
                f"It is not clear which of the modules {', '.join(found)} belong to the layers "
                f"{', '.join(names)}: their shapes are the same. Pass names={{layer: module}}"
            )
        pairs += list(zip(names, found))
        taken.update(found)
    over = [module for module in modules if module not in taken]
    if over:
        raise ValueError(f"No layer of the model takes the modules {', '.join(over)}")
    return pairs


def _wanted(layer: layers.Layer) -> dict[str, tuple[int, ...]]:
    return {name: p.value.shape for name, p in layer._parameters_by_name.items()}


def _shapes(arrays: Arrays | None) -> dict[str, tuple[int, ...]]:
    return {} if arrays is None else {name: array.shape for name, array in arrays.items()}


class _Key(tuple):
    """A kind of layer and the shapes of its arrays."""

    def __hash__(self) -> int:
        return hash((self[0], tuple(self[1].items())))


def _signature(layer: layers.Layer) -> _Key:
    return _Key((_kind(layer), _wanted(layer)))


def _kind(layer: layers.Layer) -> Any:
    return next((cls for cls in _TURNS if isinstance(layer, cls)), type(layer))


def _try(layer: layers.Layer, arrays: Arrays) -> Arrays | None:
    """The arrays in npdl's form; None if they are not those of such a layer."""
    try:
        return _turned(layer, arrays)
    except ValueError:
        return None


def _turned(layer: layers.Layer, arrays: Arrays) -> Arrays:
    turn = _TURNS.get(_kind(layer))
    if turn is None:
        rule = f"{type(layer).__name__} has no counterpart in PyTorch"
        raise ValueError(f"{rule} (layer {layer.name!r})")
    return turn(layer, arrays)


def _renamed(arrays: Arrays, **names: str) -> Arrays:
    """The arrays under npdl's names; others are an error."""
    if not arrays.keys() <= names.keys():
        raise ValueError(f"The arrays must be {', '.join(names)}. Received: {', '.join(arrays)}")
    return {names[name]: array for name, array in arrays.items()}


def _dense(layer: Any, arrays: Arrays) -> Arrays:
    found = _renamed(arrays, weight="W", bias="b")
    if found.get("W") is None or found["W"].ndim != 2:
        raise ValueError("The weight must be a matrix")
    return {**found, "W": found["W"].T}


def _filters(layer: Any, arrays: Arrays) -> Arrays:
    return _renamed(arrays, weight="W", bias="b")


def _normal(layer: Any, arrays: Arrays) -> Arrays:
    start = {"gamma": np.ones, "beta": np.zeros}
    names = {"weight": "gamma", "bias": "beta"}
    names.update({n: n for n in ("running_mean", "running_var") if n in layer._parameters_by_name})
    found = _renamed(arrays, **names)
    return {
        name: found[name] if name in found else start[name](parameter.value.shape)
        for name, parameter in layer._parameters_by_name.items()
        if name in found or name in start
    }


def _prelu(layer: Any, arrays: Arrays) -> Arrays:
    alpha = _renamed(arrays, weight="alpha")["alpha"]
    shape = layer.alpha.shape
    return {"alpha": alpha.reshape(shape) if alpha.size == np.prod(shape) else alpha}


def _embedding(layer: Any, arrays: Arrays) -> Arrays:
    return _renamed(arrays, weight="embed_words")


def _recurrent(layer: Any, arrays: Arrays) -> Arrays:
    names = ["weight_ih", "weight_hh"]
    names += ["bias_ih", "bias_hh"] if layer.use_bias else []
    if arrays.keys() != {*names}:
        raise ValueError(f"The arrays must be {', '.join(names)}. Received: {', '.join(arrays)}")
    kernel, recurrent = arrays["weight_ih"].T, arrays["weight_hh"].T
    width = layer._n_gates * layer.n_out
    if not (kernel.ndim == recurrent.ndim == 2 and kernel.shape[1] == recurrent.shape[1] == width):
        raise ValueError(f"The weights must have {width} rows")
    zero = np.zeros(width)
    biases = [np.ravel(arrays.get(name, zero)) for name in ("bias_ih", "bias_hh")]
    if {len(bias) for bias in biases} != {width}:
        raise ValueError(f"The biases must have {width} numbers")
    if isinstance(layer, layers.GRU):
        order = [1, 0, 2]  # r, z, n
    else:
        biases = [biases[0] + biases[1]]
        order = [0, 1, 3, 2] if isinstance(layer, layers.LSTM) else [0]
    rows = [bias[None] for bias in biases]
    return {"AllW": recurrent_matrix(kernel, recurrent, rows, order)}


def _attention(layer: Any, arrays: Arrays) -> Arrays:
    parts = "query", "key", "value"
    found = dict(arrays)
    if "in_proj_weight" in found:
        whole = found.pop("in_proj_weight")
        found.update(zip((f"{p}_proj_weight" for p in "qkv"), _thirds(whole)))
    if "in_proj_bias" in found:
        whole = found.pop("in_proj_bias")
        found.update(zip((f"{part}_b" for part in parts), _thirds(whole)))
    names = {f"{part[0]}_proj_weight": f"{part}_W" for part in parts}
    names |= {"out_proj.weight": "output_W", "out_proj.bias": "output_b"}
    names |= {f"{part}_b": f"{part}_b" for part in parts if f"{part}_b" in found}
    turned = _renamed(found, **names)
    turned = {name: a.T if name[-1] == "W" else a for name, a in turned.items()}
    return {name: turned[name] for name in layer._parameters_by_name if name in turned} | turned


def _thirds(array: NDArray) -> list[NDArray]:
    if len(array) % 3:
        raise ValueError("The rows must be those of query, key and value")
    return np.split(array, 3)


_TURNS: dict[Any, Any] = {
    layers.MultiHeadAttention: _attention,
    layers.Linear: _dense,
    layers.Convolution: _filters,
    layers.Convolution1D: _filters,
    layers.DepthwiseConvolution: _filters,
    layers.DepthwiseConvolution1D: _filters,
    layers.TransposedConvolution: _filters,
    layers.TransposedConvolution1D: _filters,
    layers.BatchNormal: _normal,
    layers.LayerNormalization: _normal,
    layers.GroupNormalization: _normal,
    layers.RMSNormalization: _normal,
    layers.PReLU: _prelu,
    layers.Embedding: _embedding,
    layers.LSTM: _recurrent,
    layers.GRU: _recurrent,
    layers.SimpleRNN: _recurrent,
}
