"""A training run that other processes make, to be killed: all kinds of state, a checkpoint after every step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

import dagrun as dr
from dagrun import data, nn, optim
from dagrun.parallel import SyncBatchNorm
from dagrun.parallel.compression import Quantized
from dagrun.train import Checkpoints, Trainer

EPOCHS = 4


class Noise(nn.Module):
    """Draws from the default generator, as dropout does."""

    def forward(self, x: dr.Array) -> dr.Array:
        return x * (dr.random.uniform(size=x.shape, device=x.device) > 0.2).astype(x.dtype)


def train(folder: Path, keep: int = 2) -> None:
    """Trains to the end, from the newest checkpoint in the folder."""
    dr.random.seed(3)
    rng = np.random.default_rng(0)
    rows = data.ArrayDataset(rng.normal(size=(30, 6)).astype("float32"), rng.normal(size=(30, 2)).astype("float32"))
    trainer = Trainer(
        nn.Sequential(nn.Linear(6, 16), SyncBatchNorm(16), nn.Tanh(), Noise(), nn.Linear(16, 2)),
        nn.functional.mse_loss,
        partial(optim.Adam, lr=0.01),
        devices=["cpu:0", "cpu:1"],
        reduce=Quantized(8),
        schedule=lambda o: optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
        schedule_by="step",
        clip_norm=1.0,
        checkpoints=Checkpoints(folder, every_steps=1, every_epochs=0, keep=keep),
        progress=False,
    )
    trainer.fit(data.DataLoader(rows, batch_size=6, shuffle=True, num_workers=1), EPOCHS)
