"""Functions of neural networks, without state of their own; names and arguments as in PyTorch."""

from dagrun.nn.functional.convolution import conv1d, conv2d, conv_transpose2d, fold, unfold

__all__ = ["conv1d", "conv2d", "conv_transpose2d", "fold", "unfold"]
