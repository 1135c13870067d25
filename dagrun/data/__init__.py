"""Data: datasets, samplers, loaders that make dagrun arrays, record files, images. See docs/data.md.

dataset splits transforms   samples by index
images idx records digits   where they come from
samplers                    in which order
loader -> workers collate   batches, loaded ahead
"""

from dagrun.data.collate import collate
from dagrun.data.dataset import ArrayDataset, ConcatDataset, Dataset, Subset, TensorDataset
from dagrun.data.digits import digits, mnist
from dagrun.data.errors import DataError, LoaderError, RecordError
from dagrun.data.idx import read_idx, write_idx
from dagrun.data.images import ImageFolder, decode_image
from dagrun.data.loader import DataLoader
from dagrun.data.randomness import sample_generator, sample_seed
from dagrun.data.records import RecordDataset, RecordReader, RecordWriter
from dagrun.data.samplers import (
    BatchSampler,
    HardFirstSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    ShardedSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from dagrun.data.splits import random_split, stratified_split
from dagrun.data.transforms import CenterCrop, Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize, ToFloat

__all__ = [
    "ArrayDataset",
    "BatchSampler",
    "CenterCrop",
    "Compose",
    "ConcatDataset",
    "DataError",
    "DataLoader",
    "Dataset",
    "HardFirstSampler",
    "ImageFolder",
    "LoaderError",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomSampler",
    "RecordDataset",
    "RecordError",
    "RecordReader",
    "RecordWriter",
    "Resize",
    "Sampler",
    "SequentialSampler",
    "ShardedSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "ToFloat",
    "WeightedRandomSampler",
    "collate",
    "decode_image",
    "digits",
    "mnist",
    "random_split",
    "read_idx",
    "sample_generator",
    "sample_seed",
    "stratified_split",
    "write_idx",
]
