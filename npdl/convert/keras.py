"""Models and weights in the files of Keras 3, read without Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npdl import layers
from npdl._files import StrPath
from npdl.convert._arrays import GROUPS, Found, Image, arrays_for, put
from npdl.convert._files import Unreadable, Weights, open_archive, refusing
from npdl.convert._graph import Builder
from npdl.initializations import no_random_init
from npdl.model import Model

#: How many numbers npdl's layers may have that Keras leaves out: `gamma` of 1, for instance.
_SPARE = 2**20
#: Errors that a malformed configuration may cause.
_WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def load_keras(path: StrPath) -> Model:
    """Build the model in a ``.keras`` file of Keras 3, with its weights.

    Sequential and functional models, also nested. Images are (N, C, H, W) in npdl and (N, H, W, C)
    in Keras: the model takes ``x.transpose(0, 3, 1, 2)``, and returns images in this order. All
    other shapes stay the same. Loss and optimizer are not taken over: call `compile`.

    Parameters
    ----------
    path : path

    Returns
    -------
    Model
        Its layers have their names in Keras.

    Raises
    ------
    ValueError
        If the file is damaged, or a layer or an option has no counterpart in npdl; the message
        names it.
    ImportError
        Without h5py, ``pip install 'npdl[keras]'``.
    """
    with refusing(path, "Keras file"):
        config, weights = open_archive(path)
        try:
            # Sizes in the file determine memory: allocate no more numbers than it holds.
            with no_random_init(weights.n_numbers + _SPARE):
                builder = Builder(weights)
                model = builder.model(config)
            _nothing_left(weights)
        except _WRONG as error:
            plain = isinstance(error, ValueError | TypeError)
            raise Unreadable(str(error) if plain else repr(error)) from error
        finally:
            weights.close()
    return model


def load_keras_weights(
    model: Model, path: StrPath, *, names: Mapping[str, str] | None = None
) -> None:
    """Read a ``.weights.h5`` or ``.keras`` file of Keras 3 into a model of npdl.

    There must be as many layers of each kind as in Keras, in the same order; otherwise `names` says
    which is which. Where a `Linear` or `Dense` layer reads a flattened image, the rows of its
    weights are put into npdl's order.

    Parameters
    ----------
    model : Model
        Built; see `Model.build`.
    path : path
    names : dict of str, optional
        The name in Keras by that of npdl's layer, for all layers of that kind.

    Raises
    ------
    ValueError
        If layers or shapes do not fit; nothing is changed then.
    ImportError
        Without h5py, ``pip install 'npdl[keras]'``.
    """
    plan = model.require_plan("load_keras_weights")
    with refusing(path, "file of Keras weights"):
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\3\4"
        weights = open_archive(path)[1] if zipped else Weights.open(path)
        try:
            found = _found(model, plan, weights, dict(names or {}))
            _nothing_left(weights)
        finally:
            weights.close()
    put(found)


def _found(model: Model, plan: Any, weights: Weights, names: dict[str, str]) -> list[Found]:
    places = weights.layer_names()
    strange = [name for name in names if name not in model.layer_names]
    if strange:
        raise Unreadable(f"the model has no layers {', '.join(map(repr, strange))}")
    unknown = [name for name in names.values() if name not in places]
    if unknown:
        raise Unreadable(f"it has no layer {unknown[0]!r}, but: {', '.join(sorted(places))}")
    images = flattened_images(plan)
    counts: dict[str, int] = {}
    found: list[Found] = []
    for name, layer in zip(model.layer_names, model.layers):
        if not layer.parameters:
            continue
        group = next((g for cls, g in GROUPS.items() if isinstance(layer, cls)), None)
        if group is None:
            rule = f"{type(layer).__name__} has no counterpart in Keras's files"
            raise Unreadable(f"{rule} (layer {name!r})")
        count = counts[group] = counts.get(group, -1) + 1
        place = f"layers/{group}_{count}" if count else f"layers/{group}"
        if name in names:
            place = places[names[name]]
        try:
            found += arrays_for(layer, weights, place, images.get(layer))
        except ValueError as error:
            raise Unreadable(str(error)) from error
    return found


def _nothing_left(weights: Weights) -> None:
    left = weights.left()
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise Unreadable(f"no layer of the model takes {', '.join(left[:3])}{more}")


def flattened_images(plan: Any) -> dict[layers.Layer, Image]:
    """The layers that read a flattened image, with its shape.

    Raises
    ------
    Unreadable
        If other layers than those that keep the order come between.
    """
    shapes: dict[int, Any] = dict(enumerate(plan.in_shapes))
    order: dict[int, Image] = {}
    found: dict[layers.Layer, Image] = {}
    for step in plan.steps:
        layer, sources = step.owner, step.sources
        shapes.update(zip(step.targets, step.shapes))
        shape = shapes[sources[0]]
        images = [order[slot] for slot in sources if slot in order]
        if isinstance(layer, layers.Flatten) and len(shape) == 4 and layer.outdim == 2:
            if None not in shape[1:]:
                order[step.targets[0]] = shape[1:]
        elif images and isinstance(layer, layers.Linear):
            found[layer] = images[0]
        elif images and len(sources) == 1 and isinstance(layer, KEEPING):
            order[step.targets[0]] = images[0]
            if layer.parameters:
                found[layer] = images[0]
        elif images:
            raise Unreadable(
                f"layer {layer.name!r} reads a flattened image, whose numbers have another order "
                "in Keras"
            )
    return found


#: Layers that may come between Flatten and Dense.
KEEPING = (
    layers.Dropout,
    layers.Activation,
    layers.GaussianNoise,
    layers.BatchNormal,
)
