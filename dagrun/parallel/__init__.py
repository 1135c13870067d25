"""Many devices together: collectives over the arrays that a serial program holds on each of them, and training.

ring, collectives, buckets, compression     sums over devices, of gradients too
batches, lockstep, replicate                what the modules below are made of
data_parallel, replicas, sync_batch_norm    a module on several devices, each with its part of the batch
placement                                   layers on devices of their own, pipelines
kvstore                                     a store that devices push to and pull from
"""

from dagrun.parallel import compression
from dagrun.parallel.batches import join, move, row_count, split_batch
from dagrun.parallel.buckets import exchange
from dagrun.parallel.collectives import all_gather, broadcast, ordered_all_reduce, reduce_scatter
from dagrun.parallel.data_parallel import DataParallel
from dagrun.parallel.kvstore import KVStore
from dagrun.parallel.placement import OnDevice, Pipeline
from dagrun.parallel.replicas import Replicas
from dagrun.parallel.ring import all_reduce
from dagrun.parallel.sync_batch_norm import SyncBatchNorm

__all__ = [
    "DataParallel",
    "KVStore",
    "OnDevice",
    "Pipeline",
    "Replicas",
    "SyncBatchNorm",
    "all_gather",
    "all_reduce",
    "broadcast",
    "compression",
    "exchange",
    "join",
    "move",
    "ordered_all_reduce",
    "reduce_scatter",
    "row_count",
    "split_batch",
]
