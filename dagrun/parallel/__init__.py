"""Many devices together: collectives over the arrays that a serial program holds on each of them, and training."""

from dagrun.parallel import compression
from dagrun.parallel.buckets import exchange
from dagrun.parallel.collectives import all_gather, broadcast, ordered_all_reduce, reduce_scatter
from dagrun.parallel.kvstore import KVStore
from dagrun.parallel.ring import all_reduce

__all__ = [
    "KVStore",
    "all_gather",
    "all_reduce",
    "broadcast",
    "compression",
    "exchange",
    "ordered_all_reduce",
    "reduce_scatter",
]
