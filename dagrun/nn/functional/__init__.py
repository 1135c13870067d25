"""Functions of neural networks, without state of their own; names and arguments as in PyTorch."""

from dagrun.nn.functional.convolution import conv1d, conv2d, conv_transpose2d, fold, unfold
from dagrun.nn.functional.dropout import dropout, dropout1d, dropout2d
from dagrun.nn.functional.embedding import embedding
from dagrun.nn.functional.normalization import batch_norm, group_norm, instance_norm, layer_norm, local_response_norm
from dagrun.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)
from dagrun.nn.functional.softmax import cross_entropy, log_softmax, nll_loss, softmax

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "embedding",
    "fold",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "log_softmax",
    "max_pool1d",
    "max_pool2d",
    "nll_loss",
    "softmax",
    "unfold",
]
