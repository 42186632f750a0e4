"""Keras's layers by their configurations, as layers of npdl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from npdl import layers, regularizers
from npdl._checks import error_message, warn

#: Options that affect neither the outputs nor training.
_HARMLESS = {"name", "trainable", "seed", "build_config", "implementation", "unroll", "noise_shape"}
_FLOATS = {"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"}


class Options:
    """The configuration of a layer of Keras; options that are not read must have no effect.

    Attributes
    ----------
    kind : str
        The class in Keras.
    name : str
    ndim : int
        Number of axes of the input.
    """

    def __init__(self, kind: str, config: Any, ndim: int) -> None:
        self.kind, self.ndim = kind, ndim
        if not isinstance(config, dict) or not isinstance(config.get("name"), str):
            raise ValueError(error_message(f"A {kind} of Keras must have a name", config=config))
        self.name: str = config["name"]
        self._left = {k: v for k, v in config.items() if k not in _HARMLESS}
        self._left = {k: v for k, v in self._left.items() if not k.endswith("_initializer")}
        dtype = self._left.pop("dtype", "float32")
        dtype = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
        if dtype not in _FLOATS and kind != "Embedding":
            raise self.refused("dtype", dtype)
        self.trainable = config.get("trainable", True) is not False

    def refused(self, option: str, value: Any) -> ValueError:
        """The error for an option that npdl's layer does not have."""
        text = repr(value)
        text = text if len(text) < 200 else text[:200] + "..."
        return ValueError(
            f"npdl can't build Keras's {self.kind} with this `{option}`. "
            f"Received: {option}={text} (layer {self.name!r})"
        )

    def take(self, option: str, default: Any = None) -> Any:
        """The value of an option; lists as tuples."""
        return _tuple(self._left.pop(option, default))

    def must_be(self, option: str, *values: Any) -> None:
        """Refuse other values of an option."""
        value = self.take(option, values[0])
        if value not in values:
            raise self.refused(option, value)

    def activation(self, option: str = "activation") -> Any:
        """A name of an activation."""
        value = self.take(option, "linear")
        if value is not None and not isinstance(value, str):
            raise self.refused(option, value)
        try:
            return layers.Activation(value).activation
        except (ValueError, TypeError):
            raise self.refused(option, value) from None

    def regularizer(self, option: str = "kernel_regularizer") -> Any:
        """L1, L2 or both."""
        value = self.take(option)
        if value is None:
            return None
        kind = value.get("class_name") if isinstance(value, dict) else None
        config = value.get("config") if isinstance(value, dict) else None
        if kind not in ("L1", "L2", "L1L2") or not isinstance(config, dict):
            raise self.refused(option, value)
        return regularizers.L1L2(config.get("l1", 0.0), config.get("l2", 0.0))

    def finish(self) -> None:
        """Refuse the remaining options, if they have an effect."""
        for option, value in self._left.items():
            if value is not None and value is not False:
                raise self.refused(option, value)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


class Kind(NamedTuple):
    """How a layer of Keras becomes one of npdl.

    Attributes
    ----------
    make : callable
        From `Options` to a layer.
    on : {'image', 'any', 'same', 'merge'}
        The input: with channels first where it is an image; in any order; with its axes as in
        Keras; several.
    """

    make: Callable[[Options], layers.Layer]
    on: str = "same"


def _affine(o: Options) -> dict[str, Any]:
    return {
        "activation": o.activation(),
        "use_bias": o.take("use_bias", True),
        "regularizer": o.regularizer(),
    }


def _dense(o: Options) -> layers.Layer:
    return layers.Dense(o.take("units"), **_affine(o))


def _windows(o: Options) -> dict[str, Any]:
    o.must_be("data_format", "channels_last")
    return {
        "filter_size": o.take("kernel_size"),
        "stride": _one(o.take("strides", 1)),
        "padding": o.take("padding", "valid"),
        "dilation": _one(o.take("dilation_rate", 1)),
    }


def _one(value: Any) -> Any:
    """Sizes of one axis as a number."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _conv(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("rank", 1, 2)
        groups = o.take("groups", 1)
        return cls(o.take("filters"), groups=groups, **_windows(o), **_affine(o))

    return make


def _transposed(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("rank", 1, 2)
        o.must_be("groups", 1)
        o.must_be("output_padding", None)
        options = _windows(o)
        if options["dilation"] not in (1, (1, 1)):
            raise o.refused("dilation_rate", options["dilation"])
        if options["padding"] == "valid":
            # Keras's outputs have as many rows as strides, where these are the larger ones.
            kernel, stride = options["filter_size"], options["stride"]
            pairs = zip(
                kernel if isinstance(kernel, tuple) else (kernel,) * 2,
                stride if isinstance(stride, tuple) else (stride,) * 2,
            )
            options["output_padding"] = _one(tuple(max(s - k, 0) for k, s in pairs))
            if cls is layers.TransposedConvolution1D and isinstance(
                options["output_padding"], tuple
            ):
                options["output_padding"] = options["output_padding"][0]
        return cls(o.take("filters"), **options, **_affine(o))

    return make


def _depthwise(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("rank", 1, 2)
        return cls(
            depth_multiplier=o.take("depth_multiplier", 1),
            activation=o.activation(),
            use_bias=o.take("use_bias", True),
            regularizer=o.regularizer("depthwise_regularizer"),
            **_windows(o),
        )

    return make


def _separable(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("rank", 1, 2)
        o.must_be("groups", 1)
        return cls(
            o.take("filters"),
            depth_multiplier=o.take("depth_multiplier", 1),
            activation=o.activation(),
            use_bias=o.take("use_bias", True),
            **_windows(o),
        )

    return make


def _pooling(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("data_format", "channels_last")
        return cls(
            _one(o.take("pool_size")),
            stride=_one(o.take("strides")),
            padding=o.take("padding", "valid"),
        )

    return make


def _global(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("data_format", "channels_last")
        return cls()

    return make


def _sized(cls: Any, option: str, name: str) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.must_be("data_format", "channels_last")
        given = {name: _one(o.take(option))}
        if cls is layers.UpSampling:
            given["interpolation"] = o.take("interpolation", "nearest")
            if given["interpolation"] not in ("nearest", "bilinear"):
                raise o.refused("interpolation", given["interpolation"])
        return cls(**given)

    return make


def _axis(o: Options, images: bool) -> int:
    """The one axis of a normalization, counted in npdl's order."""
    axis = o.take("axis", -1)
    axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
    if not isinstance(axis, int) or not -o.ndim < axis < o.ndim or axis == 0:
        raise o.refused("axis", axis)
    axis %= o.ndim
    return (0, 2, 3, 1)[axis] if images and o.ndim == 4 else axis


def _batch_normal(o: Options) -> layers.Layer:
    o.must_be("synchronized", False)
    o.must_be("renorm", False)
    o.take("renorm_momentum")
    layer = layers.BatchNormalization(
        axis=_axis(o, True), momentum=o.take("momentum", 0.99), epsilon=o.take("epsilon", 1e-3)
    )
    return _fixed(layer, o)


def _fixed(layer: Any, o: Options) -> layers.Layer:
    """Remember which of `gamma` and `beta` Keras leaves out; see `freeze`."""
    pairs = (("scale", "gamma"), ("center", "beta"))
    layer._without = [name for option, name in pairs if o.take(option, True) is False]
    return layer


def freeze(layer: Any) -> None:
    """Freeze the parameters that Keras's layer does not have."""
    for name in vars(layer).pop("_without", ()):
        layer._parameters_by_name[name].learns = layer._parameters_by_name[name].trainable = False


def _layer_norm(o: Options) -> layers.Layer:
    o.must_be("rms_scaling", False)
    axis = o.take("axis", -1)
    axis = _one(axis)
    return _fixed(layers.LayerNormalization(epsilon=o.take("epsilon", 1e-3), axis=axis), o)


def _group_norm(o: Options) -> layers.Layer:
    groups = o.take("groups", 32)
    axis = _axis(o, True)
    layer = layers.GroupNormalization(groups, axis=axis, epsilon=o.take("epsilon", 1e-3))
    return _fixed(layer, o)


def _rms_norm(o: Options) -> layers.Layer:
    return layers.RMSNormalization(epsilon=o.take("epsilon", 1e-6), axis=_one(o.take("axis", -1)))


def _embedding(o: Options) -> layers.Layer:
    o.take("input_length")
    return layers.Embedding(
        input_size=o.take("input_dim"),
        n_out=o.take("output_dim"),
        mask_zero=bool(o.take("mask_zero", False)),
        regularizer=o.regularizer("embeddings_regularizer"),
    )


def _recurrent(cls: Any) -> Callable[[Options], layers.Layer]:
    def make(o: Options) -> layers.Layer:
        o.take("unit_forget_bias")
        o.must_be("time_major", False, None)
        given: dict[str, Any] = {
            "activation": o.activation(),
            "use_bias": o.take("use_bias", True),
            "return_sequence": o.take("return_sequences", False),
        }
        flags = ("return_state", "stateful", "go_backwards")
        given.update({flag: o.take(flag, False) for flag in flags})
        given.update({rate: o.take(rate, 0) for rate in ("dropout", "recurrent_dropout")})
        if cls is not layers.SimpleRNN:
            given["gate_activation"] = o.activation("recurrent_activation")
        if cls is layers.GRU:
            given["reset_after"] = o.take("reset_after", True)
        return cls(n_out=o.take("units"), **given)

    return make


def inner_layer(o: Options, option: str, kinds: set[str], ndim: int, inside: bool) -> Any:
    """The layer within another one."""
    entry = o.take(option)
    kind = entry.get("class_name") if isinstance(entry, dict) else None
    if kind not in kinds:
        raise o.refused(option, kind)
    inner = Options(kind, entry["config"], ndim)
    if inside:  # in masked steps the two libraries return different values
        inner.take("zero_output_for_mask")
    layer = KINDS[kind].make(inner)
    inner.finish()
    return layer


def _bidirectional(o: Options) -> layers.Layer:
    kinds = {"SimpleRNN", "GRU", "LSTM"}
    first = inner_layer(o, "layer", kinds, 3, True)
    if o._left.get("backward_layer") is None:
        raise o.refused("backward_layer", None)
    other = inner_layer(o, "backward_layer", kinds, 3, True)
    return layers.Bidirectional(first, o.take("merge_mode", "concat"), backward_layer=other)


def _time_distributed(o: Options) -> layers.Layer:
    if o.ndim != 3:
        raise o.refused("layer", f"on an input of {o.ndim} axes")
    kinds = {"Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "LayerNormalization"}
    return layers.TimeDistributed(inner_layer(o, "layer", kinds, 2, False))


def _relu(o: Options) -> layers.Layer:
    o.must_be("max_value", None)
    o.must_be("threshold", 0.0, None)
    slope = o.take("negative_slope", 0.0)
    return layers.LeakyReLU(slope) if slope else layers.ReLU()


def _prelu(o: Options) -> layers.Layer:
    shared = o.take("shared_axes")
    if shared is not None and o.ndim == 4:
        shared = tuple((0, 2, 3, 1)[axis] for axis in shared)
    regularizer = o.regularizer("alpha_regularizer")
    return layers.PReLU(shared_axes=shared, regularizer=regularizer)


def _softmax(o: Options) -> layers.Layer:
    return layers.Activation({"name": "softmax", "axis": o.take("axis", -1)})


def _concatenate(o: Options) -> layers.Layer:
    axis = o.take("axis", -1)
    return layers.Concatenate((0, 2, 3, 1)[axis] if o.ndim == 4 else axis)


def _spatial_dropout(o: Options) -> layers.Layer:
    o.must_be("data_format", "channels_last", None)
    return layers.SpatialDropout(o.take("rate"))


def _dropped(o: Options) -> None:
    """Say that npdl's layer does not drop weights of the attention in training."""
    rate = o.take("dropout", 0)
    if rate:
        warn(
            f"npdl's attention has no dropout: layer {o.name!r} of Keras, which drops {rate} of "
            "its weights in training, is built without."
        )


def _attention(o: Options) -> layers.Layer:
    additive = o.kind == "AdditiveAttention"
    if not additive:
        o.must_be("use_scale", False)
        o.must_be("score_mode", "dot")
    elif not o.take("use_scale", True):
        raise o.refused("use_scale", False)
    _dropped(o)
    return layers.Attention("additive" if additive else "dot", causal=bool(o.take("causal", False)))


def _multi_head(o: Options) -> layers.Layer:
    if o.ndim != 3:
        raise o.refused("attention_axes", f"on an input of {o.ndim} axes")
    o.must_be("attention_axes", None, (1,), 1)
    for option in ("query_shape", "key_shape", "value_shape", "flash_attention"):
        o.take(option)
    _dropped(o)
    return layers.MultiHeadAttention(
        o.take("num_heads"),
        o.take("key_dim"),
        value_size=o.take("value_dim"),
        n_out=_one(o.take("output_shape")),
        causal=bool(o.take("causal", False)),
        use_bias=bool(o.take("use_bias", True)),
        regularizer=o.regularizer(),
    )


def _plain(cls: Any, **options: Any) -> Callable[[Options], layers.Layer]:
    """A layer whose options have other names at most: npdl's name, then Keras's."""

    def make(o: Options) -> layers.Layer:
        return cls(**{name: o.take(theirs) for name, theirs in options.items()})

    return make


KINDS: dict[str, Kind] = {
    "Dense": Kind(_dense),
    "Conv2D": Kind(_conv(layers.Convolution), "image"),
    "Conv1D": Kind(_conv(layers.Convolution1D)),
    "Conv2DTranspose": Kind(_transposed(layers.TransposedConvolution), "image"),
    "Conv1DTranspose": Kind(_transposed(layers.TransposedConvolution1D)),
    "DepthwiseConv2D": Kind(_depthwise(layers.DepthwiseConvolution), "image"),
    "DepthwiseConv1D": Kind(_depthwise(layers.DepthwiseConvolution1D)),
    "SeparableConv2D": Kind(_separable(layers.SeparableConvolution), "image"),
    "SeparableConv1D": Kind(_separable(layers.SeparableConvolution1D)),
    "MaxPooling2D": Kind(_pooling(layers.MaxPooling), "image"),
    "MaxPooling1D": Kind(_pooling(layers.MaxPooling1D)),
    "AveragePooling2D": Kind(_pooling(layers.MeanPooling), "image"),
    "AveragePooling1D": Kind(_pooling(layers.MeanPooling1D)),
    "GlobalMaxPooling2D": Kind(_global(layers.GlobalMaxPooling), "image"),
    "GlobalMaxPooling1D": Kind(_global(layers.GlobalMaxPooling)),
    "GlobalAveragePooling2D": Kind(_global(layers.GlobalMeanPooling), "image"),
    "GlobalAveragePooling1D": Kind(_global(layers.GlobalMeanPooling)),
    "UpSampling2D": Kind(_sized(layers.UpSampling, "size", "size"), "image"),
    "UpSampling1D": Kind(_sized(layers.UpSampling1D, "size", "size")),
    "ZeroPadding2D": Kind(_sized(layers.ZeroPadding, "padding", "padding"), "image"),
    "ZeroPadding1D": Kind(_sized(layers.ZeroPadding1D, "padding", "padding")),
    "Cropping2D": Kind(_sized(layers.Cropping, "cropping", "cropping"), "image"),
    "Cropping1D": Kind(_sized(layers.Cropping1D, "cropping", "cropping")),
    "BatchNormalization": Kind(_batch_normal, "any"),
    "LayerNormalization": Kind(_layer_norm),
    "GroupNormalization": Kind(_group_norm, "image"),
    "RMSNormalization": Kind(_rms_norm),
    "Dropout": Kind(_plain(layers.Dropout, p="rate"), "any"),
    "SpatialDropout1D": Kind(_spatial_dropout),
    "SpatialDropout2D": Kind(_spatial_dropout, "image"),
    "GaussianNoise": Kind(_plain(layers.GaussianNoise, std="stddev"), "any"),
    "Activation": Kind(lambda o: layers.Activation(o.activation()), "any"),
    "ReLU": Kind(_relu, "any"),
    "LeakyReLU": Kind(_plain(layers.LeakyReLU, slope="negative_slope"), "any"),
    "ELU": Kind(_plain(layers.ELU, alpha="alpha"), "any"),
    "PReLU": Kind(_prelu, "image"),
    "Softmax": Kind(_softmax),
    "Embedding": Kind(_embedding),
    "Masking": Kind(_plain(layers.Masking, mask_value="mask_value")),
    "SimpleRNN": Kind(_recurrent(layers.SimpleRNN)),
    "GRU": Kind(_recurrent(layers.GRU)),
    "LSTM": Kind(_recurrent(layers.LSTM)),
    "Bidirectional": Kind(_bidirectional),
    "TimeDistributed": Kind(_time_distributed),
    "Attention": Kind(_attention),
    "AdditiveAttention": Kind(_attention),
    "MultiHeadAttention": Kind(_multi_head),
    "Flatten": Kind(_global(layers.Flatten)),
    "Reshape": Kind(_plain(layers.Reshape, shape="target_shape")),
    "Permute": Kind(_plain(layers.Permute, axes="dims")),
    "RepeatVector": Kind(_plain(layers.RepeatVector, n="n")),
    "Concatenate": Kind(_concatenate, "merge"),
    "Dot": Kind(lambda o: layers.Dot(o.take("axes"), bool(o.take("normalize", False)))),
    **{
        name: Kind(_plain(getattr(layers, name)), "merge")
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
    },
}
