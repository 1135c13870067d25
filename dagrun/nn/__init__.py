"""Layers, losses and initialisers on top of operators and autodiff, with PyTorch's names and state_dict keys.

`module` and `containers` are the frame; one file for each family of layers; `functional` holds what they compute.
"""

from dagrun.nn import functional as functional
from dagrun.nn import init as init
from dagrun.nn.activations import *  # noqa: F403
from dagrun.nn.attention import (
    MultiheadAttention,
    PositionalEncoding,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from dagrun.nn.containers import ModuleDict, ModuleList, ParameterList, Sequential
from dagrun.nn.convolution import Conv1d, Conv2d, ConvTranspose2d
from dagrun.nn.dropout import DropConnect, Dropout, Dropout2d, WeightDrop
from dagrun.nn.embedding import Embedding
from dagrun.nn.linear import Bilinear, Flatten, Identity, Linear, Residual, Unflatten
from dagrun.nn.losses import *  # noqa: F403
from dagrun.nn.module import Module, Parameter, current_path
from dagrun.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    LocalResponseNorm,
)
from dagrun.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from dagrun.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from dagrun.nn.summary import summary
