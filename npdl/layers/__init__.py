"""Layers: what a network is made of."""

from npdl.layers.base import Layer, Parameter
from npdl.layers.convolution import Convolution
from npdl.layers.core import Dense, Dropout, Linear, Softmax
from npdl.layers.embedding import Embedding
from npdl.layers.normalization import BatchNormal
from npdl.layers.pooling import (
    GlobalMaxPooling,
    GlobalMeanPooling,
    MaxPooling,
    MaxPooling1D,
    MeanPooling,
    MeanPooling1D,
)
from npdl.layers.recurrent import GRU, LSTM, BatchLSTM, Recurrent, SimpleRNN
from npdl.layers.shape import DimShuffle, Flatten

__all__ = [
    "GRU",
    "LSTM",
    "BatchLSTM",
    "BatchNormal",
    "Convolution",
    "Dense",
    "DimShuffle",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalMaxPooling",
    "GlobalMeanPooling",
    "Layer",
    "Linear",
    "MaxPooling",
    "MaxPooling1D",
    "MeanPooling",
    "MeanPooling1D",
    "Parameter",
    "Recurrent",
    "SimpleRNN",
    "Softmax",
]
