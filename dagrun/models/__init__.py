"""Networks that people know by name."""

from dagrun.models.lenet import LeNet5, OriginalLeNet5
from dagrun.models.mlp import mlp
from dagrun.models.registry import Entry, find, names

__all__ = ["Entry", "LeNet5", "OriginalLeNet5", "find", "mlp", "names"]
