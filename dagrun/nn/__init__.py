"""Neural networks: layers, losses and the functions they are made of."""

from dagrun.nn import functional as functional

__all__ = ["functional"]
