"""Layers, the building blocks of networks."""

from typing import Any as _Any

from npdl.layers._hints import hint as _hint
from npdl.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU
from npdl.layers.attention import Attention, MultiHeadAttention
from npdl.layers.auto import AutoLayer, Lambda
from npdl.layers.base import Layer, Parameter, ParameterView
from npdl.layers.block import Block
from npdl.layers.composite import Parallel, Residual, Sequence
from npdl.layers.config import registry as _registry
from npdl.layers.convolution import Convolution, Convolution1D
from npdl.layers.core import Dense, Dropout, Linear, Softmax
from npdl.layers.embedding import Embedding
from npdl.layers.layernorm import GroupNormalization, LayerNormalization, RMSNormalization
from npdl.layers.masking import Masking
from npdl.layers.merging import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Merge,
    Minimum,
    Multiply,
    Subtract,
)
from npdl.layers.node import Input
from npdl.layers.noise import GaussianNoise, SpatialDropout
from npdl.layers.normalization import BatchNormal, BatchNormalization
from npdl.layers.pooling import (
    GlobalMaxPooling,
    GlobalMeanPooling,
    MaxPooling,
    MaxPooling1D,
    MeanPooling,
    MeanPooling1D,
)
from npdl.layers.positions import PositionEmbedding
from npdl.layers.recurrent import GRU, LSTM, BatchLSTM, Recurrent, SimpleRNN
from npdl.layers.resizing import (
    Cropping,
    Cropping1D,
    UpSampling,
    UpSampling1D,
    ZeroPadding,
    ZeroPadding1D,
)
from npdl.layers.separable import (
    DepthwiseConvolution,
    DepthwiseConvolution1D,
    SeparableConvolution,
    SeparableConvolution1D,
)
from npdl.layers.shape import DimShuffle, Flatten, Permute, RepeatVector, Reshape
from npdl.layers.transposed import TransposedConvolution, TransposedConvolution1D
from npdl.layers.wrappers import Bidirectional, TimeDistributed

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "Activation",
    "Add",
    "Attention",
    "AutoLayer",
    "Average",
    "BatchLSTM",
    "BatchNormal",
    "BatchNormalization",
    "Bidirectional",
    "Block",
    "Concatenate",
    "Convolution",
    "Convolution1D",
    "Cropping",
    "Cropping1D",
    "Dense",
    "DepthwiseConvolution",
    "DepthwiseConvolution1D",
    "DimShuffle",
    "Dot",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianNoise",
    "GlobalMaxPooling",
    "GlobalMeanPooling",
    "GroupNormalization",
    "Input",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Linear",
    "Masking",
    "MaxPooling",
    "MaxPooling1D",
    "Maximum",
    "MeanPooling",
    "MeanPooling1D",
    "Merge",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "PReLU",
    "Parallel",
    "Parameter",
    "ParameterView",
    "Permute",
    "PositionEmbedding",
    "RMSNormalization",
    "ReLU",
    "Recurrent",
    "RepeatVector",
    "Reshape",
    "Residual",
    "SeparableConvolution",
    "SeparableConvolution1D",
    "Sequence",
    "SimpleRNN",
    "Softmax",
    "SpatialDropout",
    "Subtract",
    "TimeDistributed",
    "TransposedConvolution",
    "TransposedConvolution1D",
    "UpSampling",
    "UpSampling1D",
    "ZeroPadding",
    "ZeroPadding1D",
]

for _name in __all__:
    if isinstance(globals()[_name], type) and issubclass(globals()[_name], Layer):
        _registry.register()(globals()[_name])


def __getattr__(name: str) -> _Any:
    raise AttributeError(_hint(name, __all__))
