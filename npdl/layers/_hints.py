"""Layers of Keras and PyTorch and their names here, for errors of `npdl.layers`."""

from __future__ import annotations

_CHANNELS = "images are (N, C, H, W), channels first"
_RELU = f"its activation is 'relu' unless told otherwise; {_CHANNELS}"
_STEPS = "its activation is 'relu' unless told otherwise; sequences are (N, T, D)"
_CELL = "its method `step` computes one step"
_AUTO = "the number of inputs is found from the data"

#: The name in other libraries: the names here, and the differences.
NAMES: dict[str, tuple[str, str]] = {
    # Keras
    "Conv2D": ("Convolution", _RELU),
    "Convolution2D": ("Convolution", _RELU),
    "Conv1D": ("Convolution1D", _STEPS),
    "Conv2DTranspose": ("TransposedConvolution", _RELU),
    "Conv1DTranspose": ("TransposedConvolution1D", _STEPS),
    "DepthwiseConv2D": ("DepthwiseConvolution", _RELU),
    "DepthwiseConv1D": ("DepthwiseConvolution1D", _STEPS),
    "SeparableConv2D": ("SeparableConvolution", _RELU),
    "SeparableConv1D": ("SeparableConvolution1D", _STEPS),
    "MaxPooling2D": ("MaxPooling", f"`pool_size` has no default; {_CHANNELS}"),
    "MaxPool2D": ("MaxPooling", f"`pool_size` has no default; {_CHANNELS}"),
    "MaxPool1D": ("MaxPooling1D", "`pool_size` has no default"),
    "AveragePooling2D": ("MeanPooling", f"`pool_size` has no default; {_CHANNELS}"),
    "AvgPool2D": ("MeanPooling", f"`pool_size` has no default; {_CHANNELS}"),
    "AveragePooling1D": ("MeanPooling1D", "`pool_size` has no default"),
    "AvgPool1D": ("MeanPooling1D", "`pool_size` has no default"),
    "GlobalMaxPooling2D": ("GlobalMaxPooling", _CHANNELS),
    "GlobalMaxPooling1D": ("GlobalMaxPooling", "it takes images and sequences"),
    "GlobalMaxPool2D": ("GlobalMaxPooling", _CHANNELS),
    "GlobalMaxPool1D": ("GlobalMaxPooling", "it takes images and sequences"),
    "GlobalAveragePooling2D": ("GlobalMeanPooling", _CHANNELS),
    "GlobalAveragePooling1D": ("GlobalMeanPooling", "it takes images and sequences"),
    "GlobalAvgPool2D": ("GlobalMeanPooling", _CHANNELS),
    "GlobalAvgPool1D": ("GlobalMeanPooling", "it takes images and sequences"),
    "UpSampling2D": ("UpSampling", _CHANNELS),
    "ZeroPadding2D": ("ZeroPadding", _CHANNELS),
    "Cropping2D": ("Cropping", _CHANNELS),
    "SpatialDropout1D": ("SpatialDropout", "it takes images and sequences"),
    "SpatialDropout2D": ("SpatialDropout", _CHANNELS),
    "SimpleRNNCell": ("SimpleRNN", _CELL),
    "GRUCell": ("GRU", _CELL),
    "LSTMCell": ("LSTM", _CELL),
    "AdditiveAttention": ("Attention", "write Attention(score='additive')"),
    "InputLayer": ("Input", "or give the first layer its `input_shape`"),
    "ExpandDims": ("DimShuffle", "it inserts an axis"),
    # PyTorch
    "Conv2d": ("Convolution", f"without the number of channels in; {_RELU}"),
    "Conv1d": ("Convolution1D", f"without the number of channels in; {_STEPS}"),
    "ConvTranspose2d": ("TransposedConvolution", f"without the number of channels in; {_RELU}"),
    "ConvTranspose1d": ("TransposedConvolution1D", f"without the number of channels in; {_STEPS}"),
    "MaxPool2d": ("MaxPooling", "`padding` is by keyword"),
    "MaxPool1d": ("MaxPooling1D", "sequences are (N, T, D)"),
    "AvgPool2d": ("MeanPooling", "padding does not count in the mean"),
    "AvgPool1d": ("MeanPooling1D", "sequences are (N, T, D)"),
    "AdaptiveAvgPool2d": ("GlobalMeanPooling", "for an output of one pixel"),
    "AdaptiveMaxPool2d": ("GlobalMaxPooling", "for an output of one pixel"),
    "BatchNorm1d": ("BatchNormalization", _AUTO),
    "BatchNorm2d": ("BatchNormalization", _AUTO),
    "LayerNorm": ("LayerNormalization", "it normalises the last axis"),
    "GroupNorm": ("GroupNormalization", _AUTO),
    "RMSNorm": ("RMSNormalization", "it normalises the last axis"),
    "Dropout1d": ("SpatialDropout", "it takes images and sequences"),
    "Dropout2d": ("SpatialDropout", _CHANNELS),
    "RNN": ("SimpleRNN", "sequences are (N, T, D)"),
    "Upsample": ("UpSampling", "`size` is the factor"),
    "ZeroPad2d": ("ZeroPadding", "numbers are ((top, bottom), (left, right))"),
    "MultiheadAttention": ("MultiHeadAttention", "it takes heads and the size of a key"),
    "ModuleList": ("Parallel", "or Sequence; or keep layers in a list of your own layer"),
    "Sequential": ("Sequence", "or npdl.Model([...]) for a whole network"),
    "Identity": ("Activation", "write Activation('linear')"),
    "Tanh": ("Activation", "write Activation('tanh')"),
    "Sigmoid": ("Activation", "write Activation('sigmoid')"),
    "GELU": ("Activation", "write Activation('gelu')"),
    "SiLU": ("Activation", "write Activation('silu')"),
    "SELU": ("Activation", "write Activation('selu')"),
    "Mish": ("Activation", "write Activation('mish')"),
    "Hardtanh": ("Activation", "write Activation('hard_tanh')"),
    "LogSoftmax": ("Activation", "write Activation('log_softmax')"),
}


def hint(name: str, known: object) -> str:
    """The error message for a name that `npdl.layers` does not have.

    Parameters
    ----------
    name : str
    known : container of str
        The names that it has.
    """
    rule = f"module 'npdl.layers' has no attribute {name!r}"
    ours, differs = NAMES.get(name, ("", ""))
    if ours and ours in known:  # type: ignore[operator]
        return f"{rule}. Its layer is npdl.layers.{ours}: {differs}."
    same = [n for n in known if n.lower() == name.lower()]  # type: ignore[attr-defined]
    return f"{rule}. Did you mean {same[0]!r}?" if same else rule
