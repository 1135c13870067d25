"""Many devices together: collectives over the arrays that a serial program holds on each of them."""

from dagrun.parallel.ring import all_reduce

__all__ = ["all_reduce"]
