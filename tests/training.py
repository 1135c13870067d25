"""Small networks and batches for the tests of training on several devices."""

from __future__ import annotations

import numpy as np

import dagrun as dr
from dagrun import nn


def weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with parameters that depend on the seed alone."""
    rng = np.random.default_rng(seed)
    module.load_state_dict(
        {
            name: x if name.rsplit(".")[-1].startswith(("running", "num")) else rng.normal(0, 0.4, x.shape)
            for name, x in module.state_dict().items()
        }
    )
    return module


def mlp(device: str = "cpu:0", seed: int = 0, norm: bool = False) -> nn.Module:
    """4 -> 8 -> 3, with batch normalisation if wanted."""
    layers = [nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Linear(8, 3)]
    return weights(nn.Sequential(*layers), seed).to(device)


def batch(rows: int, seed: int = 0, device: str = "cpu:0") -> tuple[dr.Array, dr.Array]:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((rows, 4)), rng.standard_normal((rows, 3))
    return dr.asarray(x, "float32", device=device), dr.asarray(y, "float32", device=device)


def loss(net: nn.Module, part: tuple[dr.Array, dr.Array]) -> dr.Array:
    return nn.functional.mse_loss(net(part[0]), part[1])


def values(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in module.state_dict().items()}


def bits(module: nn.Module) -> bytes:
    return b"".join(x.tobytes() for x in values(module).values())


def assert_close(a: nn.Module, b: nn.Module, atol: float = 1e-6) -> None:
    for (name, x), y in zip(values(a).items(), values(b).values(), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=0, err_msg=name)
