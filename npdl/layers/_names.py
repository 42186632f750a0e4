"""Names of arguments: Keras's names, and how layers accept them."""

from __future__ import annotations

import inspect
from typing import Any

from npdl._checks import error_message
from npdl._registry import constructor_arguments, takes_any

#: Keras's names of arguments, and what they are called here: the first that a layer takes.
KERAS_NAMES: dict[str, tuple[str, ...]] = {
    "units": ("n_out",),
    "filters": ("nb_filter",),
    "kernel_size": ("filter_size",),
    "strides": ("stride",),
    "dilation_rate": ("dilation",),
    "return_sequences": ("return_sequence",),
    "recurrent_activation": ("gate_activation",),
    "rate": ("p",),
    "input_dim": ("input_size", "n_in"),
    "input_length": ("nb_seq",),
    "output_dim": ("n_out",),
    "kernel_initializer": ("init",),
    "embeddings_initializer": ("init",),
    "depthwise_initializer": ("init",),
    "recurrent_initializer": ("inner_init",),
    "beta_initializer": ("beta_init",),
    "gamma_initializer": ("gamma_init",),
    "alpha_initializer": ("alpha_init",),
    "alpha_regularizer": ("regularizer",),
    "kernel_regularizer": ("regularizer",),
    "embeddings_regularizer": ("regularizer",),
    "negative_slope": ("slope",),
    "stddev": ("std",),
    "num_heads": ("heads",),
    "key_dim": ("key_size",),
    "value_dim": ("value_size",),
    "score_mode": ("score",),
    "target_shape": ("shape",),
    "dims": ("axes",),
    "size": ("size",),
    "use_scale": ("scale",),
}


class LayerType(type):
    """The metaclass of layers: gives every constructor `name`, `trainable` and Keras's names."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a layer."""
        known = constructor_arguments(cls)
        common = {k: kwargs.pop(k) for k in ("name", "trainable") if k in kwargs and k not in known}
        shape = kwargs.pop("input_shape", None) if "input_shape" not in known else None
        args, kwargs = cls._positional(args, own_names(cls, kwargs))  # type: ignore[attr-defined]
        layer = super().__call__(*args, **kwargs)
        if shape is not None:
            layer._declared = (None, *shape)
        if common.get("name") is not None:
            layer.name = common["name"]
        if not common.get("trainable", True):
            layer.trainable = False
        return layer

    @property
    def __signature__(cls) -> Any:
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=[*own.parameters.values()][1:])


def own_names(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a layer's constructor under the layer's own names.

    Raises
    ------
    TypeError
        If one is given twice, or is unknown.
    """
    known = constructor_arguments(cls)
    if given.keys() <= known.keys():
        return given
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = next((n for n in (name, *KERAS_NAMES.get(name, ())) if n in known), None)
        if own is None:
            own, value = _special(cls, name, value, [*known])
            if own is None:
                continue
        if own in found:
            raise TypeError(f"{cls.__name__}() got `{own}` twice, once as `{name}`.")
        found[own] = value
    return found


def _special(cls: type, name: str, value: Any, known: list[str]) -> tuple[str | None, Any]:
    """Keras's arguments that are not just other names."""
    if name == "unit_forget_bias" and "forget_bias_num" in known:
        return "forget_bias_num", 1 if value else 0
    if name == "data_format":
        if value == "channels_last":
            rule = "npdl's images are (N, C, H, W): `data_format` must be 'channels_first'"
            raise ValueError(error_message(rule, data_format=value))
        return None, None
    if name == "bias_initializer" and value in ("zeros", "zero", "Zeros"):
        return None, None
    if takes_any(cls):
        return name, value
    raise TypeError(
        f"{cls.__name__}() got an unexpected keyword argument {name!r}. "
        f"It takes: {', '.join([*known, 'name', 'trainable'])}."
    )
