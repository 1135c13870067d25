"""A sweep of layers and losses against torch eager, and of array operations against NumPy, all float32 where not said.

Each layer runs forward and backward, gradients of its input and parameters included, from gradients of the result that
are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun import nn

CALLS = 5  # in a round

# The shape of the input; the layer, from `dagrun.nn` or `torch.nn`; the most times torch's time that is wanted, if any.
IMAGES, ROWS, MANY = (16, 64, 28, 28), (64, 64, 256), (64, 256, 256)
LAYERS: dict[str, tuple[tuple[int, ...], Any, float | None]] = {
    "linear 512 to 512": ((128, 512), lambda n: n.Linear(512, 512), None),
    "convolution 3 x 3": (IMAGES, lambda n: n.Conv2d(64, 64, 3, padding=1), None),
    "convolution, 4 groups": (IMAGES, lambda n: n.Conv2d(64, 64, 3, padding=1, groups=4), None),
    "convolution, 16 groups": (IMAGES, lambda n: n.Conv2d(64, 64, 3, padding=1, groups=16), None),
    "depthwise, 28 x 28": (IMAGES, lambda n: n.Conv2d(64, 64, 3, padding=1, groups=64), 1.2),
    "depthwise, 56 x 56": ((8, 32, 56, 56), lambda n: n.Conv2d(32, 32, 3, padding=1, groups=32), 1.2),
    "depthwise, 56 x 56, step 2": ((8, 32, 56, 56), lambda n: n.Conv2d(32, 32, 3, 2, 1, groups=32), 1.2),
    "transposed convolution": ((16, 32, 14, 14), lambda n: n.ConvTranspose2d(32, 16, 4, stride=2, padding=1), None),
    "batch norm": (IMAGES, lambda n: n.BatchNorm2d(64), None),
    "layer norm": (ROWS, lambda n: n.LayerNorm(256), 1.2),
    "group norm": (IMAGES, lambda n: n.GroupNorm(8, 64), 1.2),
    "RMS norm": (ROWS, lambda n: n.RMSNorm(256), None),
    "max pooling 3, step 2": (IMAGES, lambda n: n.MaxPool2d(3, stride=2, padding=1), None),
    "mean of each channel": (IMAGES, lambda n: n.AdaptiveAvgPool2d(1), None),
    "reflection padding": (IMAGES, lambda n: n.ReflectionPad2d(2), None),
    "bilinear upsampling": ((16, 32, 28, 28), lambda n: n.Upsample(scale_factor=2, mode="bilinear"), None),
    "relu": (MANY, lambda n: n.ReLU(), None),
    "gelu": (MANY, lambda n: n.GELU(), 1.2),
    "gelu, tanh": (MANY, lambda n: n.GELU(approximate="tanh"), 1.2),
    "silu": (MANY, lambda n: n.SiLU(), None),
    "elu": (MANY, lambda n: n.ELU(), None),
    "tanh": (MANY, lambda n: n.Tanh(), None),
    "dropout": (MANY, lambda n: n.Dropout(0.5), None),
    "softmax": (ROWS, lambda n: n.Softmax(-1), None),
    "encoder layer": ((32, 64, 128), lambda n: n.TransformerEncoderLayer(128, 8, 512, batch_first=True), None),
    "cross-entropy, 1000 classes": ((512, 1000), lambda n: n.CrossEntropyLoss(), 1.2),
    "Huber loss": ((512, 1000), lambda n: n.HuberLoss(), 1.2),
    "mean squared error": ((512, 1000), lambda n: n.MSELoss(), None),
}


@pytest.fixture
def torch(bench: Any) -> Any:
    return bench.torch() or pytest.skip("torch is not installed")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(bench: Any, torch: Any, name: str) -> None:
    shape, make, at_most = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    layers = make(nn), make(torch.nn)
    others: list[Any] = []  # the second operand of a loss
    if "entropy" in name:
        others = [rng.integers(0, shape[1], shape[0])]
    elif isinstance(layers[0], (nn.HuberLoss, nn.MSELoss)):
        others = [rng.standard_normal(shape, dtype=np.float32)]
    inputs = dr.asarray(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    rest = [dr.asarray(a) for a in others], [torch.from_numpy(a) for a in others]
    g = rng.standard_normal(tuple(layers[0](inputs[0], *rest[0]).shape)).astype(np.float32)
    down = dr.asarray(g), torch.from_numpy(g)

    def calls(k: int) -> None:
        leaves = [inputs[k], *layers[k].parameters()]
        for _ in range(CALLS):
            for leaf in leaves:
                leaf.grad = None
            layers[k](inputs[k], *rest[k]).backward(down[k])
            if k == 0:
                dr.wait()

    bench.run(lambda: calls(0), {"torch eager": lambda: calls(1)}, rounds=9, per=CALLS, blas=True)
    bench.against(f"{name}, forward and backward", "torch eager", at_most=at_most)


# Made of the library, of a million float64 and as many integers; the most times NumPy's time that is wanted, if any.
ARRAYS: dict[str, tuple[Any, float | None]] = {
    "sort float64": (lambda xp, x, k: xp.sort(x), 1.2),
    "sort int32": (lambda xp, x, k: xp.sort(k), None),
    "vector product": (lambda xp, x, k: x @ x, None),
    "vector by matrix": (lambda xp, x, k: x[:1000] @ x.reshape(1000, 1000), None),
    "int32 divided by 7": (lambda xp, x, k: k // 7, None),
    "int32 divided by int32": (lambda xp, x, k: k // (k | 1), None),
    "cumulative sum": (lambda xp, x, k: xp.cumsum(x), None),
    "sum of columns": (lambda xp, x, k: x.reshape(1000, 1000).sum(0), None),
    "outer sum": (lambda xp, x, k: x[:1000, None] + x[:1000], None),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array(bench: Any, name: str) -> None:
    function, at_most = ARRAYS[name]
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal(1_000_000), rng.integers(-(1 << 30), 1 << 30, 1_000_000).astype(np.int32)
    ours = [dr.asarray(a) for a in arrays]

    def here() -> None:
        for _ in range(CALLS):
            function(dr, *ours)
            dr.wait()

    def there() -> None:
        for _ in range(CALLS):
            function(np, *arrays)

    np.testing.assert_allclose(function(dr, *ours).numpy(), function(np, *arrays), rtol=1e-9, atol=1e-9)
    bench.run(here, {"NumPy": there}, rounds=9, per=CALLS, blas=True)
    bench.against(f"{name}, a million elements", "NumPy", at_most=at_most)
